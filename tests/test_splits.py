"""cliphelpers.splits against splits computed by hand."""

import hashlib
import os
import unicodedata
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliphelpers.index import index_images
from cliphelpers.looks import group_of, looks
from cliphelpers.splits import (
    SPLITS,
    Fold,
    by_group,
    by_look,
    few_shot,
    few_shot_fold,
    make_splits,
    official,
    random,
    training_rows,
)
from cliphelpers.splits import test_rows as rows_of_tests

NFC = unicodedata.normalize("NFC", "Äpfel")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))


def index_of(*groups, root="/data"):
    """An index of (label, split, group, number of pictures), in that order."""
    made = [
        (f"{root}/{label}/{split}{group}-{i}.png", label, split, group)
        for label, split, group, count in groups
        for i in range(count)
    ]
    index = pd.DataFrame(made, columns=["path", "label", "split", "group"])
    index.attrs = {"root": str(root), "name": "data"}
    return index


@pytest.fixture
def painted(tmp_path):
    """A function that makes an index_of pictures; those of one number in ``looks`` are the same.

    Without numbers no two are. So up to five numbers a class are its looks.
    """

    def paint(*groups, looks=None):
        index = index_of(*groups, root=tmp_path)
        for row, path in enumerate(index.path):
            look = row if looks is None else looks[row]
            pixels = np.random.default_rng(look).integers(0, 256, (10, 10, 3), np.uint8)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Image.fromarray(pixels).save(path)
        return index

    return paint


def counts(index, positions):
    return index.label.iloc[positions].value_counts().to_dict()


def equal_folds(one, other):
    parts = ("train", "val", "test")
    return all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for a, b in zip(one, other, strict=True)
        for part in parts
    )


def whole_parts(names, rows, among):
    """Whether no name has a picture in rows and another one among the others."""
    return not set(names[rows]) & set(names[np.setdiff1d(among, rows)])


# ------------------------------------------------------------------------------- official


def test_official_takes_whole_groups_for_validation_and_where_there_are_none_whole_looks(painted):
    index = painted(
        ("apple", "train", "r0", 3),  # rows 0 to 2
        ("apple", "train", "r1", 2),  # rows 3 and 4
        ("apple", "test", "r0", 2),  # rows 5 and 6
        ("fig", "train", "r0", 4),  # rows 7 to 10: a single group, of two looks
        ("fig", "test", "r0", 1),  # row 11
        ("pear", "train", "", 3),  # rows 12 to 14, of two looks
        ("plum", "train", "", 2),  # rows 15 and 16 are the same: both stay in training
        looks=[0, 1, 0, 1, 0, 0, 1, 2, 2, 3, 2, 3, 4, 5, 5, 6, 6],
    )
    drawn = set()
    for seed in range(40):
        (fold,) = official(index, seed)
        assert fold.test.tolist() == [5, 6, 11]
        assert fold.fit.tolist() == [*range(5), *range(7, 11), *range(12, 17)]
        assert np.array_equal(fold.train, np.setdiff1d(fold.fit, fold.val))
        drawn.add(tuple(fold.val))
    apples, figs, pears = [(3, 4), (0, 1, 2)], [(9,), (7, 8, 10)], [(12,), (13, 14)]
    assert drawn == {(*a, *f, *p) for a in apples for f in figs for p in pears}


@pytest.mark.parametrize("split", [official, by_group])
def test_the_pictures_of_the_test_do_not_choose_validation(tmp_path, split):
    """They would, if looks were found among all pictures: others of the test are here nearer."""
    index, chosen = index_of(("a", "train", "", 6), ("a", "test", "r0", 6), root=tmp_path), set()
    index = pd.concat([index, index_of(("a", "train", "r1", 6), root=tmp_path)], ignore_index=True)
    index.attrs = {"root": str(tmp_path), "name": "data"}
    os.makedirs(tmp_path / "a")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (18, 10, 10, 3), np.uint8)
    for _ in range(4):
        pixels[6:12] = rng.integers(0, 256, (6, 10, 10, 3))  # the test's
        for picture, path in zip(pixels, index.path, strict=True):
            Image.fromarray(picture).save(path)
        chosen.add(tuple(split(index)[0].val))
    assert len(chosen) == 1


def test_a_class_with_one_named_group_and_pictures_without_validates_on_a_look(painted):
    index = painted(
        ("a", "train", "r0", 2), ("a", "train", "", 2), ("a", "test", "", 1), looks=[0, 1, 0, 1, 0]
    )
    (fold,) = official(index)
    assert fold.val.tolist() in ([0, 2], [1, 3])


def test_official_with_a_validation_folder_keeps_it_and_reads_no_picture():
    index = index_of(
        ("a", "val", "r0", 2),
        ("a", "train", "r0", 3),
        ("a", "train", "r1", 1),
        ("a", "test", "", 1),
    )
    (fold,) = official(index)
    assert (fold.train.tolist(), fold.val.tolist(), fold.test.tolist()) == (
        [2, 3, 4, 5],
        [0, 1],
        [6],
    )


def test_official_needs_a_test_part():
    with pytest.raises(ValueError, match="There is no official test part$"):
        official(index_of(("a", "train", "", 3)))


# ------------------------------------------------------------------------------- groups in turn


def test_by_group_by_hand(painted):
    index = painted(
        ("apple", "train", "r0", 2),  # rows 0 and 1, fold 0
        ("apple", "test", "r1", 1),  # row 2, fold 1
        ("fig", "train", "r0", 1),  # row 3, fold 1: the second class begins there
        ("fig", "train", "r1", 1),  # row 4, fold 0
        ("fig", "train", "r2", 1),  # row 5, fold 1
        ("pear", "train", "r0", 3),  # rows 6 to 8: a single group stays in training
        looks=[0, 1, 0, 0, 0, 0, 0, 1, 0],
    )
    first, second = by_group(index)  # as many folds as apple has groups
    assert first.test.tolist() == [0, 1, 4]
    assert second.test.tolist() == [2, 3, 5]
    assert first.fit.tolist() == [2, 3, 5, 6, 7, 8]
    assert second.fit.tolist() == [0, 1, 4, 6, 7, 8]
    # In the first fold fig has r0 and r2 left: one of them validates; of pear a look.
    assert tuple(first.val) in {(fig, *pear) for fig in (3, 5) for pear in ((6, 8), (7,))}
    # In the second no class has two groups left, but apple and pear have two looks.
    assert tuple(second.val) in {(apple, *pear) for apple in (0, 1) for pear in ((6, 8), (7,))}


def random_groups(seed):
    """Up to 8 classes of 1 to 5 groups of 1 to 6 pictures, official test frames in every group."""
    rng = np.random.default_rng(seed)
    groups = [("two", "train", "r0", 2), ("two", "test", "r1", 2)]
    for label in range(rng.integers(1, 8)):
        for group in range(rng.integers(1, 6)):
            size = int(rng.integers(1, 7))
            groups += [
                (f"c{label}", "train", f"r{group}", size),
                (f"c{label}", "test", f"r{group}", 1),
            ]
    return groups


@pytest.fixture
def random_index(painted):
    """A function of a seed: such an index in no order, with up to 5 looks a class; and the looks"""

    def make(seed):
        groups, rng = random_groups(seed), np.random.default_rng(seed)
        total = sum(count for *_, count in groups)
        numbers = rng.integers(0, rng.integers(1, 6), total)
        order = rng.permutation(total)
        index = painted(*groups, looks=numbers)
        mixed = index.iloc[order].reset_index(drop=True)
        mixed.attrs = index.attrs
        return mixed, (mixed.label + "/" + numbers[order].astype(str)).to_numpy(object)

    return make


@pytest.mark.parametrize("seed", range(10))
def test_by_group_tests_every_group_once_and_keeps_one_for_training(random_index, seed):
    index, _ = random_index(seed)
    folds, groups = by_group(index, seed), group_of(index)
    several = index.groupby("label")["group"].transform("nunique") > 1
    assert sorted(rows_of_tests(folds)) == list(np.flatnonzero(several))
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set(index.label)
        assert not set(groups[fold.test]) & set(groups[fold.fit])


@pytest.mark.parametrize("split", ["by_group", "official"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_groups_that_classes_of_a_manifest_share_are_held_out_as_a_whole(painted, split, classes):
    """Such as days: of a folder "r0" of one class is another clip than "r0" of the next."""
    days = ["mon", "tue", "wed", "thu"]
    index = painted(*((label, "", day, 3) for label in "abcde"[:classes] for day in days))
    index["split"] = np.where((index["group"] == "thu") & (split == "official"), "test", "train")
    index.attrs["shared"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Classes share groups")
        folds, day = SPLITS[split](index), index["group"].to_numpy()
    tested = np.flatnonzero((day == "thu") | (split == "by_group"))
    assert sorted(rows_of_tests(folds)) == list(tested)
    for fold in folds:
        parts = [set(day[rows]) for rows in (fold.train, fold.val, fold.test)]
        assert [len(part) for part in parts] == [2, 1, 1] and len(set.union(*parts)) == 4
    index.attrs["shared"] = False
    assert any(set(day[fold.test]) & set(day[fold.fit]) for fold in by_group(index))


def test_a_class_whose_shared_groups_all_fall_into_one_fold_stays_in_training(painted):
    index = painted(
        *(("a", "", day, 2) for day in "123456"), *(("b", "", day, 2) for day in "123456"),
        *(("c", "", day, 40) for day in "12"), ("d", "", "3", 2),
    )  # fmt: skip
    index.attrs["shared"] = True
    with pytest.warns(
        UserWarning, match="Classes share groups: .* a single one, which is learnt from"
    ):
        folds = by_group(index)
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set("abcd")
    assert "d" not in set(index.label.iloc[rows_of_tests(folds)])


def test_many_groups_make_ten_folds(painted):
    """Such as one for each object or patient: a fold for each would take hours."""
    index = painted(*((label, "", f"{number}", 1) for label in "ab" for number in range(30)))
    folds, groups = by_group(index), (index.label + index["group"]).to_numpy()
    assert len(folds) == 10 and sorted(rows_of_tests(folds)) == list(range(len(index)))
    for fold in folds:
        assert not set(groups[fold.test]) & set(groups[fold.fit])


def test_groups_that_a_user_names_in_a_folder_s_index_are_held_out_as_a_whole(tmp_path):
    paint = Image.new("RGB", (9, 9), "red")
    for label, number in product("ab", range(12)):
        (tmp_path / label).mkdir(exist_ok=True)
        paint.save(tmp_path / label / f"{label}{number}.png")
    index = index_images(tmp_path)
    index["group"] = [f"day {number % 4}" for number in range(len(index))]
    with pytest.warns(UserWarning, match="Classes share groups"):
        folds = make_splits(index, ["by_group"])["by_group"]
    for fold in folds:
        assert not set(index["group"].iloc[fold.test]) & set(index["group"].iloc[fold.fit])


@pytest.mark.parametrize(
    ("split", "untested"),
    [("by_group", 4 + 3 + 2 + 1), ("by_look", 1), ("random", 1), ("official", 0)],
)
def test_pictures_that_are_never_tested_are_counted(painted, split, untested):
    index = painted(
        ("a", "train", "r0", 3), ("a", "test", "r1", 3), ("a", "train", "", 4),
        ("b", "train", "r0", 3), ("c", "train", "", 2), ("d", "train", "r0", 2),
        ("d", "train", "r1", 2), ("e", "train", "r0", 1),
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_splits(index, [split])
    words = [str(one.message) for one in caught if "never tests" in str(one.message)]
    assert len(words) == (untested > 0)
    assert (
        not words or f"the split {split} never tests" in words[0] and f": {untested}," in words[0]
    )


def test_by_group_needs_two_groups_of_a_class():
    with pytest.raises(ValueError, match="No class has two named groups$"):
        by_group(index_of(("a", "", "r0", 3), ("b", "", "", 3)))


# ------------------------------------------------------------------------------- looks in turn


@pytest.mark.parametrize("seed", range(10))
def test_by_look_tests_every_look_once_and_keeps_one_for_training(random_index, seed):
    index, painted = random_index(seed)
    if seed % 2:  # it asks for no names
        index["group"] = ""
    several = pd.Series(painted).groupby(index.label.to_numpy()).transform("nunique") > 1
    folds = by_look(index, seed)
    assert sorted(rows_of_tests(folds)) == list(np.flatnonzero(several))
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set(index.label)
        assert not set(painted[fold.test]) & set(painted[fold.fit])
        most = pd.Series(painted[fold.test]).groupby(index.label.to_numpy()[fold.test]).nunique()
        assert most.max() == 1  # of every class one look at a time
    assert equal_folds(by_look(index, seed), folds)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_there_are_as_many_folds_as_looks_are_asked_for(painted, count):
    index = painted(("a", "", "", 40), ("b", "", "", 40), looks=np.arange(80) % 8)
    folds, found = by_look(index, count=count), looks(index, count)
    assert len(folds) == count == len(set(found))
    assert sorted(rows_of_tests(folds)) == list(range(80))
    for fold in folds:
        for label in "ab":
            tested = set(found[fold.test][index.label.iloc[fold.test] == label])
            assert len(tested) == 1


def test_classes_of_few_pictures_are_tested_in_some_folds_and_one_picture_never(painted):
    index = painted(("a", "", "", 1), ("b", "", "", 2), ("c", "", "", 3), ("d", "", "", 20))
    folds = by_look(index)
    assert len(folds) == 5 and sorted(rows_of_tests(folds)) == list(range(1, 26))
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set("abcd")


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)])
def test_by_look_needs_two_pictures_of_a_class_that_differ(painted, sizes):
    index = painted(("a", "", "", sizes[0]), ("b", "", "", sizes[1]), looks=[0] * sum(sizes))
    with pytest.raises(ValueError, match="No class has two pictures that differ, one to learn fr"):
        by_look(index)


# ------------------------------------------------------------------------------- at random in turn


def test_random_tests_a_quarter_of_each_class_in_turn():
    sizes = {"a": 1, "b": 2, "c": 8, "d": 10, "e": 41}
    index = index_of(*((label, "", "", size) for label, size in sizes.items()))
    folds = random(index, seed=1)
    assert len(folds) == 4
    assert sorted(rows_of_tests(folds)) == list(range(1, 62))  # the only one of a is never tested
    for fold in folds:
        tested, fit, val = (counts(index, rows) for rows in (fold.test, fold.fit, fold.val))
        assert tested["c"] == 2 and tested["d"] in (2, 3) and tested["e"] in (10, 11)
        assert {label: fit[label] + tested.get(label, 0) for label in sizes} == sizes
        assert val == {
            label: round(n / 5) or 1 for label, n in fit.items() if n > 1
        }  # a fifth of what is left
    tests = [len(fold.test) for fold in folds]
    assert max(tests) - min(tests) <= 2
    assert equal_folds(folds, random(index, seed=1))
    assert not equal_folds(folds, random(index, seed=2))


def test_random_draws_pictures_evenly():
    index = index_of(("a", "", "", 4))
    first = np.bincount([random(index, seed)[0].test.item() for seed in range(200)], minlength=4)
    assert first.min() > 30  # 50 expected with a standard deviation of 6.1


def test_random_needs_two_pictures_of_a_class():
    with pytest.raises(ValueError, match="No class has two pictures, one to learn from and one"):
        random(index_of(("a", "", "", 1), ("b", "", "", 1)))


# ------------------------------------------------------------------------------- any split


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("split", [official, by_group, by_look, random])
def test_parts_are_disjoint_and_validation_is_out_of_training(random_index, split, seed):
    index, painted = random_index(seed)
    if seed == 4:
        index["group"] = index["group"].where(index.label == "two", "")
    named, groups, labels = index["group"].to_numpy(), group_of(index), index.label.to_numpy()
    found = labels + "/" + looks(index).astype(str)
    for fold in split(index, seed):
        both = np.concatenate([fold.fit, fold.test])
        assert len(set(both)) == len(both) == len(index)
        assert np.array_equal(fold.fit, np.union1d(fold.train, fold.val))
        if split is random:
            continue
        for label in set(labels):
            own = fold.fit[labels[fold.fit] == label]
            val = np.intersect1d(own, fold.val)
            if len(set(named[own]) - {""}) > 1:
                assert len(set(groups[val])) == 1 and whole_parts(groups, val, own)
            elif len(set(found[own])) > 1:
                assert len(set(found[val])) == 1 and whole_parts(found, val, own)
            else:
                assert not len(val)
    assert equal_folds(split(index, seed), split(index, seed))


def test_make_splits_gives_those_that_are_asked_for_in_their_order(painted):
    index = painted(("a", "train", "r0", 4), ("a", "train", "r1", 4), ("a", "test", "r2", 2))
    names = ["random", "by_look", "official", "by_group"]
    splits = make_splits(index, names, seed=3)
    assert list(splits) == names
    for name, split in zip(names, (random, by_look, official, by_group), strict=True):
        assert equal_folds(splits[name], split(index, 3))


def test_where_no_test_part_is_stated_random_stands_in():
    index = index_of(("a", "", "", 8))
    words = "There is no official test part: instead of official the split is random"
    with pytest.warns(UserWarning, match=words):
        splits = make_splits(index, ["official"])
    assert list(splits) == ["random"] and equal_folds(splits["random"], random(index))
    assert {fold.split for fold in splits["random"]} == {"random"}
    with pytest.warns(UserWarning, match=words):
        again = make_splits(index, ["official", "random"])
    assert list(again) == ["random"] and equal_folds(again["random"], random(index))


def test_where_no_groups_are_named_looks_stand_in(painted):
    index = painted(("a", "train", "", 8), ("a", "test", "", 2), ("b", "train", "r0", 3))
    words = "No class has two named groups: instead of by_group the split is by_look"
    with pytest.warns(UserWarning, match=words):
        splits = make_splits(index, ["official", "by_group"])
    assert list(splits) == ["official", "by_look"]
    assert equal_folds(splits["by_look"], by_look(index))


@pytest.mark.parametrize("name", ["official", "by_group", "by_look", "random"])
def test_a_folder_that_cannot_be_split_at_all_is_an_error(painted, name):
    index = painted(("a", "", "", 1), ("b", "", "", 1))
    with pytest.raises(ValueError, match="No class has two pictures"):
        make_splits(index, [name])


def test_make_splits_refuses_an_unknown_name():
    with pytest.raises(
        ValueError, match="Unknown split 'clips': use some of official, by_group, by_look, random"
    ):
        make_splits(index_of(("a", "", "", 8)), ["clips"])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", [0, 1, 0, 1]),
        ("label", pd.Categorical(["a", "b", "a", "b"])),
        ("label", ["a", "b", "a", None]),
        ("group", ["r0", np.nan, "r1", "r1"]),
        ("split", [None] * 4),
        ("path", [Path("a.png"), Path("b.png"), Path("c.png"), Path("d.png")]),
    ],
)
def test_make_splits_names_a_column_of_a_user_s_index_that_is_not_all_str(column, values):
    index = index_of(("a", "", "", 4)).assign(**{column: values})
    with pytest.raises(TypeError, match=f"The index needs a column {column} of nothing but str"):
        make_splits(index, ["random"])
    with pytest.raises(TypeError, match=f"The index needs a column {column} of nothing but str"):
        make_splits(index.drop(columns=column), ["random"])


def test_folds_know_their_split_and_number_and_fewer_can_be_taken(painted):
    index = painted(*((label, "", f"r{group}", 4) for label in "ab" for group in range(3)))
    names, sizes = ["by_group", "by_look", "random"], [3, 5, 4]
    splits = make_splits(index, names)
    assert [(fold.split, fold.number) for folds in splits.values() for fold in folds] == [
        (name, number) for name, size in zip(names, sizes, strict=True) for number in range(size)
    ]
    fewer = make_splits(index, names, folds=2)
    for name in names:
        assert equal_folds(fewer[name], splits[name][:2])


def test_of_every_class_only_so_many_can_be_tested(painted):
    index = painted(("a", "train", "", 9), ("a", "test", "", 7), ("b", "train", "", 9))
    (fold,), (few,) = (make_splits(index, ["official"], 5, None, n)["official"] for n in (None, 3))
    assert equal_folds([few], [replace(fold, test=few.test)])
    assert len(few.test) == 3 and set(few.test) <= set(fold.test)
    test = index.iloc[fold.test]
    assert np.array_equal(few.test, fold.test[few_shot(test, 3, 5)])
    (plenty,) = make_splits(index, ["official"], 5, tested=10_000)["official"]
    assert equal_folds([plenty], [fold])


def test_rows_of_several_folds():
    one = Fold(np.array([1, 2]), np.array([5]), np.array([7, 3]))
    two = Fold(np.array([2, 3]), np.array([], int), np.array([0]), fit=np.array([2]))
    assert rows_of_tests([one, two]).tolist() == [7, 3, 0]
    assert training_rows([one, two]).tolist() == [1, 2, 5]  # 3 is never fitted


# ------------------------------------------------------------------------------- few-shot


def drawn(index, k, seed=0):
    """The pictures that few_shot draws, relative to the root."""
    picked = few_shot(index, k, seed)
    return [os.path.relpath(path, index.attrs["root"]) for path in index.path.iloc[picked]]


def test_few_shot_is_nested_and_takes_k_of_every_class():
    index = index_of(("a", "", "", 30), ("b", "", "", 20))
    for seed in range(5):
        fewer = set()
        for k in (1, 2, 4, 8, 16):
            picked = few_shot(index, k, seed)
            assert counts(index, picked) == {"a": k, "b": k}
            assert np.array_equal(picked, np.unique(picked)) and fewer <= set(picked)
            fewer = set(picked)


def test_few_shot_takes_all_of_classes_that_have_fewer():
    index = index_of(("a", "", "", 3), ("b", "", "", 5), ("c", "", "", 1), ("d", "", "", 4))
    assert counts(index, few_shot(index, 4)) == {"a": 3, "b": 4, "c": 1, "d": 4}


def test_few_shot_seeds_differ():
    index = index_of(("a", "", "", 50))
    assert len({tuple(few_shot(index, 5, seed)) for seed in range(10)}) == 10


def test_few_shot_takes_pictures_evenly():
    index = index_of(("a", "", "", 4))
    taken = np.bincount([few_shot(index, 1, seed)[0] for seed in range(400)], minlength=4)
    assert taken.min() > 65  # 100 expected with a standard deviation of 8.7


def test_few_shot_is_the_same_on_every_machine():
    # The k pictures with the smallest SHA-256 of seed, label and path below the root.
    index = index_of(("Apple Red 1", "", "", 12), (NFC, "", "", 12))
    assert drawn(index, 2, seed=0) == [
        "Apple Red 1/-2.png",
        "Apple Red 1/-9.png",
        "Äpfel/-4.png",
        "Äpfel/-8.png",
    ]


def test_few_shot_follows_a_moved_and_renamed_folder_and_any_order_of_rows(tmp_path):
    here = tmp_path / "here"
    for label in ("cat", NFC):
        (here / "train" / label).mkdir(parents=True)
        for number in range(20):
            (here / "train" / label / f"{number}.png").touch()
    before = drawn(index_images(here), 3)
    there = tmp_path / "a new" / "place"
    there.parent.mkdir()
    here.rename(there)
    index = index_images(there)
    assert drawn(index, 3) == before
    assert sorted(drawn(index.iloc[::-1], 3)) == sorted(before)
    assert drawn(index[index.label == "cat"], 3) == before[:3]


@pytest.mark.parametrize("refit", [True, False])
def test_few_shots_of_a_fold_are_those_of_its_parts(refit):
    index = index_of(("a", "", "", 40), ("b", "", "", 30), ("c", "", "", 2))
    _, fold, *_ = make_splits(index, ["random"])["random"]
    for k, seed in ((1, 0), (6, 3), (6, 0)):
        few = few_shot_fold(index, fold, k, seed, refit)
        assert (few.shots, few.seed, few.split, few.number) == (k, seed, "random", 1)
        assert np.array_equal(few.test, fold.test)
        for part, count in (("train", k), ("val", min(k, 4)), ("fit", k)):
            rows = getattr(fold, part)
            expected = rows[few_shot(index.iloc[rows], count, seed)]
            if part == "fit" and not refit:
                expected = few.train
            assert np.array_equal(getattr(few, part), expected)


@pytest.mark.parametrize("refit", [True, False])
def test_a_draw_of_more_than_any_class_has_says_no_k_in_all_folds_alike(refit):
    """Folds have unequal parts: were k said of some alone, they would be two questions."""
    index = index_of(("a", "", "", 18), ("b", "", "", 8))
    folds = random(index)
    assert len({len(fold.fit) for fold in folds}) > 1
    for k in range(1, 20):
        said = {few_shot_fold(index, fold, k, refit=refit).shots for fold in folds}
        assert said == {k if k < 18 else None}
    assert few_shot_fold(index, folds[0], 18, seed=3).seed == 3


def test_pictures_are_ranked_once_for_all_folds_and_ks(monkeypatch):
    index, hashed, sha256 = index_of(("x", "", "", 50), ("y", "", "", 50)), [], hashlib.sha256

    def counted(content):
        hashed.append(content)
        return sha256(content)

    fold, *_ = make_splits(index, ["random"], seed=71)["random"]
    monkeypatch.setattr(hashlib, "sha256", counted)
    first = few_shot_fold(index, fold, 2, 72)
    assert 0 < len(hashed) <= len(index)
    for k in (1, 4, 8):
        few_shot_fold(index.copy(), fold, k, 72)
    assert len(hashed) <= len(index)
    moved = index.assign(path=index.path.str.replace("-", "+"))  # other pictures: other draws
    assert not np.array_equal(first.fit, few_shot_fold(moved, fold, 2, 72).fit)
    assert len(set(hashed)) == 2 * len(index)


@pytest.mark.parametrize("k", [0, -1])
def test_few_shot_refuses_less_than_one(k):
    with pytest.raises(ValueError, match=f"at least 1 picture a class, not {k}"):
        few_shot(index_of(("a", "", "", 3)), k)
    with pytest.raises(ValueError, match=f"at least 1 picture a class, not {k}"):
        make_splits(index_of(("a", "", "", 8)), ["random"], tested=k)
