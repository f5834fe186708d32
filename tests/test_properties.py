"""Splits, few-shot draws and cache keys on whatever hypothesis thinks of."""

import copy
import os
import warnings
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cliphelpers.cache import key_of
from cliphelpers.folders import part_of
from cliphelpers.index import classes, index_images
from cliphelpers.looks import group_of, looks
from cliphelpers.splits import SPLITS, few_shot, few_shot_fold, make_splits

QUICK = settings(max_examples=30, deadline=None)

labels = st.text("ab cÄ1_🍎'", min_size=1, max_size=4)
groups = st.tuples(
    labels,
    st.sampled_from(["train", "val", "test"]),
    st.sampled_from(["", "r0", "r1", "film 2"]),
    st.integers(1, 6),
)
seeds = st.integers(0, 2**32)


def index_of(made, stated=True):
    """An index as index_images could give it: every class has training pictures."""
    made = [*made, *((label, "train", made[0][2], 1) for label in {one[0] for one in made})]
    rows = [
        (f"/data/{split}/{label}/{number}-{i}.png", label, split if stated else "", clip)
        for number, (label, split, clip, count) in enumerate(made)
        for i in range(count)
    ]
    index = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    index = index.sort_values(["label", "path"], ignore_index=True)
    index.attrs = {"root": "/data", "name": "data"}
    return index


@pytest.fixture(scope="module", autouse=True)
def pictures_of_nine_kinds(tmp_path_factory):
    """In place of files: the path says which of nine pictures it is."""

    def extract(encoder, index):
        kinds = [zlib.crc32(path.encode()) % 9 for path in index.path]
        return np.random.default_rng(0).random((9, 300), np.float32)[kinds]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("cliphelpers.looks.extract_features", extract)
        yield


indexes = st.builds(index_of, st.lists(groups, min_size=1, max_size=12), st.booleans())


def folds_of(split, index, seed):
    try:
        return SPLITS[split](index, seed)
    except ValueError:  # not possible for this index: of that test_splits.py
        assume(False)


def paths(index, fold):
    return [set(index.path.iloc[part]) for part in (fold.train, fold.val, fold.test)]


# ------------------------------------------------------------------------------- folders

BASES = [["cat", "dog"], ["train/cat", "train/dog"], ["Training_set/cat", "Training_set/dog"]]
MORE = [
    "", "cat", "train", "train station", "é", "cat/deep", "dog/train/é", "train/cat", "train/cat/x",
    "test", "test/cat", "Test Images/dog", "val_set", "val_set/dog", "val_set/cat/x", "extra/dog",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(base=st.sampled_from(BASES), more=st.sets(st.sampled_from(MORE), max_size=4))
def test_every_picture_of_any_tree_is_indexed_or_counted_or_all_is_refused(base, more):
    with TemporaryDirectory() as root, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for place in {*base, *more}:
            Path(root, place).mkdir(parents=True, exist_ok=True)
            Path(root, place, "1.png").touch()
        try:
            index = index_images(root)
        except ValueError as error:
            assert root in str(error)
            return
    texts = [str(one.message) for one in told]
    lost = [int(text.split(": ")[1].split(",")[0]) for text in texts if "Pictures left" in text]
    assert len(index) + sum(lost) == len({*base, *more}) and len(lost) < 2
    assert len(classes(index)) > 1 and index.path.is_unique
    for path, label, split in index[["path", "label", "split"]].to_numpy():
        folders = os.path.relpath(path, root).split(os.sep)[:-1]
        parted = part_of(folders[0])[0] if split else ""
        assert label == folders[bool(split)] and split in (parted, "test")
        assert split == parted or "tested though called val" in " ".join(texts)
    assert set(index.split) in ({""}, {"train"}, {"train", "test"}, {"train", "val", "test"})


@QUICK
@given(
    marks=st.text(" -_.,+0123456789()[]#&'"),
    word=st.sampled_from(["train", "Validation", "TEST", "dev"]),
    letters=st.text("qäйж猫", min_size=1),
)
def test_a_part_s_word_is_heard_between_any_marks_and_never_in_a_word(marks, word, letters):
    assert part_of(marks + word + marks) == part_of(word) != ("", ())
    assert part_of(word.lower() + letters)[0] == part_of(letters + word.lower())[0] == ""


# ------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("split", SPLITS)
@QUICK
@given(data=st.data(), index=indexes, seed=seeds)
def test_any_split(split, data, index, seed):
    folds = folds_of(split, index, seed)
    tested = np.concatenate([fold.test for fold in folds])
    assert len(tested) and len(set(tested)) == len(tested)  # no picture is tested twice
    for fold in folds:
        everything = np.concatenate([fold.train, fold.val, fold.test])
        assert sorted(everything) == list(range(len(index)))  # none is lost, none in two parts
        assert set(index.label.iloc[fold.train]) == set(index.label)  # every class can be learnt
        assert np.array_equal(fold.fit, np.union1d(fold.train, fold.val))
    order = np.array(data.draw(st.permutations(range(len(index)))))
    again = SPLITS[split](index.iloc[order], seed)
    expected = [paths(index, fold) for fold in folds]
    assert [paths(index.iloc[order], fold) for fold in again] == expected


@QUICK
@given(index=indexes, seed=seeds)
def test_groups_are_held_out_whole(index, seed):
    group = group_of(index)
    for fold in folds_of("by_group", index, seed):
        assert not set(group[fold.test]) & set(group[fold.fit])
        assert (index["group"].iloc[fold.test] != "").all()


@QUICK
@given(index=indexes, seed=seeds)
def test_looks_are_held_out_whole(index, seed):
    look = index.label.to_numpy(object) + "/" + looks(index).astype(str)
    for fold in folds_of("by_look", index, seed):
        assert not set(look[fold.test]) & set(look[fold.fit])
        assert index.label.iloc[fold.test].nunique() == len(set(look[fold.test]))


@QUICK
@given(index=indexes, seed=seeds)
def test_the_official_test_part_is_the_stated_one(index, seed):
    (fold,) = folds_of("official", index, seed)
    assert np.array_equal(fold.test, np.flatnonzero(index.split == "test"))
    if "val" in set(index.split):
        assert np.array_equal(fold.val, np.flatnonzero(index.split == "val"))


@QUICK
@given(index=indexes, seed=seeds)
def test_random_and_looks_test_each_picture_once_that_has_another_to_learn_from(index, seed):
    several = index.groupby("label").path.transform("size") > 1
    differ = pd.Series(looks(index)).groupby(index.label.to_numpy()).transform("nunique") > 1
    for split, tested in (("random", several), ("by_look", differ)):
        rows = np.concatenate([fold.test for fold in folds_of(split, index, seed)])
        assert np.array_equal(np.sort(rows), np.flatnonzero(tested))


@QUICK
@given(index=indexes, seed=seeds)
def test_there_is_a_split_for_any_index_with_two_pictures_of_a_class_that_differ(index, seed):
    """And pictures that one of several folds never tests are counted in a warning."""
    assume(looks(index).any())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make_splits(index, list(SPLITS), seed)
    for name, folds in made.items():
        tested = sum(len(fold.test) for fold in folds)
        said = {
            str(one.message) for one in caught if f"split {name} never tests" in str(one.message)
        }
        assert tested and len(said) == (name != "official" and tested < len(index))
        assert all(f": {len(index) - tested}, such as" in one for one in said)


# ------------------------------------------------------------------------------- few-shot


@QUICK
@given(index=indexes, seed=seeds, k=st.integers(1, 8))
def test_draws_have_k_of_each_class_or_all_it_has(index, seed, k):
    rows = few_shot(index, k, seed)
    sizes = index.label.value_counts()
    drawn = index.label.iloc[rows].value_counts()
    assert drawn.to_dict() == sizes.clip(upper=k).to_dict()
    assert np.array_equal(rows, np.unique(rows))


@QUICK
@given(data=st.data(), index=indexes, seed=seeds, k=st.integers(1, 8))
def test_draws_are_nested_and_depend_on_nothing_else(data, index, seed, k):
    def drawn(part, k):
        return set(part.path.iloc[few_shot(part, k, seed)])

    expected = drawn(index, k)
    assert expected <= drawn(index, k + 1)
    order = np.array(data.draw(st.permutations(range(len(index)))))
    assert drawn(index.iloc[order], k) == expected
    label = data.draw(st.sampled_from(classes(index)))  # the other classes do not matter
    alone = index[index.label == label]
    assert drawn(alone, k) == expected & set(alone.path)
    moved = index.assign(path=index.path.str.replace("/data/", "/else where/", n=1))
    moved.attrs = {"root": "/else where"}
    assert {path.replace("/else where/", "/data/", 1) for path in drawn(moved, k)} == expected


@QUICK
@given(seed=seeds, other=seeds)
def test_two_seeds_draw_differently(seed, other):
    assume(seed != other)
    index = index_of([("a", "train", "", 100)])  # the same 10 of 101 have a chance of 1 in 10^13
    assert not np.array_equal(few_shot(index, 10, seed), few_shot(index, 10, other))


@QUICK
@given(index=indexes, seed=seeds, k=st.integers(1, 8))
def test_a_fold_s_draws_stay_in_their_parts(index, seed, k):
    for fold in folds_of("random", index, seed):
        few = few_shot_fold(index, fold, k, seed)
        assert set(few.train) <= set(fold.train) and set(few.val) <= set(fold.val)
        assert set(few.fit) <= set(fold.fit) and np.array_equal(few.test, fold.test)
        assert index.label.iloc[few.val].value_counts().max() <= min(k, 4) or not len(few.val)
        whole = index.label.value_counts().max() <= k  # whatever the fold has of them
        assert few.shots == (None if whole else k)


# ------------------------------------------------------------------------------- cache keys

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
numbers = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
    arrays.array_shapes(max_dims=3, max_side=3),
)


@QUICK
@given(one=values, other=values)
def test_keys_of_values_are_equal_exactly_where_the_values_are(one, other):
    assert key_of(one) == key_of(copy.deepcopy(one))
    assert (key_of(one) == key_of(other)) == (canonical(one) == canonical(other))


def canonical(value):
    """A text that tells values apart as keys must: types count, the order of dicts does not."""
    if isinstance(value, dict):
        return f"{{{sorted((key, canonical(inner)) for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(canonical, value))}]"
    return repr(value)


@QUICK
@given(X=numbers, data=st.data())
def test_keys_of_arrays_see_every_number_the_shape_and_the_type(X, data):
    key = key_of("kind", X)
    assert key == key_of("kind", X.copy())
    other = X.copy()
    place = data.draw(st.integers(0, X.size - 1))
    other.reshape(-1).view(np.uint8)[place * X.itemsize] ^= 1
    different = [other, X[None], X.astype(np.longdouble), X.tolist()]
    assert key not in [key_of("kind", one) for one in different]
    assert key != key_of("another kind", X)


@QUICK
@given(text=st.text(max_size=20))
def test_a_key_is_a_file_name(text):
    key = key_of(text)
    assert len(key) == 40 and Path(key).name == key and int(key, 16) >= 0
