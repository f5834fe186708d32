"""cliphelpers.splits against splits computed by hand."""

import hashlib
import os
import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cliphelpers.index import group_of, index_images
from cliphelpers.splits import (
    Fold,
    by_group,
    few_shot,
    few_shot_fold,
    make_splits,
    official,
    random,
    training_rows,
)
from cliphelpers.splits import test_rows as rows_of_tests

NFC = unicodedata.normalize("NFC", "Äpfel")


def index_of(*groups):
    """An index of (label, split, clip, number of pictures) groups, in that order."""
    made = [
        (f"/data/{label}/{split}{clip}-{i}.png", label, split, clip)
        for label, split, clip, count in groups
        for i in range(count)
    ]
    index = pd.DataFrame(made, columns=["path", "label", "split", "group"])
    index.attrs = {"root": "/data", "name": "data"}
    return index


def counts(index, positions):
    return index.label.iloc[positions].value_counts().to_dict()


def clips(index, positions):
    return set(group_of(index)[positions])


def equal_folds(one, other):
    parts = ("train", "val", "test")
    return all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for a, b in zip(one, other, strict=True)
        for part in parts
    )


def test_official_takes_whole_clips_for_validation():
    index = index_of(
        ("apple", "train", "r0", 3),  # rows 0 to 2
        ("apple", "train", "r1", 2),  # rows 3 and 4
        ("apple", "test", "r0", 2),  # rows 5 and 6
        ("fig", "train", "r0", 4),  # rows 7 to 10: a single clip stays in training
        ("fig", "test", "r0", 1),  # row 11
    )
    drawn = set()
    for seed in range(20):
        (fold,) = official(index, seed)
        assert fold.test.tolist() == [5, 6, 11]
        assert fold.fit.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
        drawn.add((tuple(fold.train), tuple(fold.val)))
    rest = (7, 8, 9, 10)
    assert drawn == {((0, 1, 2, *rest), (3, 4)), ((3, 4, *rest), (0, 1, 2))}


def test_official_without_clips_takes_a_fifth_of_every_class():
    sizes = {"a": 1, "b": 2, "c": 3, "d": 10, "e": 13}
    groups = [(label, "train", "", size) for label, size in sizes.items()]
    index = index_of(*groups, *((label, "test", "", 1) for label in sizes))
    (fold,) = official(index)
    assert counts(index, fold.val) == {"b": 1, "c": 1, "d": 2, "e": 3}  # 13 / 5 = 2.6
    assert counts(index, fold.train) == {"a": 1, "b": 1, "c": 2, "d": 8, "e": 10}
    assert fold.test.tolist() == list(range(29, 34))


def test_official_with_a_validation_folder_keeps_it():
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
    with pytest.raises(ValueError, match="no official test part: use the split by_group or random"):
        official(index_of(("a", "train", "", 3)))


def test_by_group_by_hand():
    index = index_of(
        ("apple", "train", "r0", 2),  # rows 0 and 1, fold 0
        ("apple", "test", "r1", 1),  # row 2, fold 1
        ("fig", "train", "r0", 1),  # row 3, fold 1: the second class begins there
        ("fig", "train", "r1", 1),  # row 4, fold 0
        ("fig", "train", "r2", 1),  # row 5, fold 1
        ("pear", "train", "r0", 2),  # rows 6 and 7: a single clip stays in training
    )
    first, second = by_group(index)  # as many folds as apple has clips
    assert first.test.tolist() == [0, 1, 4]
    assert second.test.tolist() == [2, 3, 5]
    # In the first fold fig has r0 and r2 left: one of them validates, whole.
    assert first.val.tolist() in ([3], [5])
    assert first.fit.tolist() == [2, 3, 5, 6, 7]
    # In the second no class has two clips left, so a fifth of each with two pictures validates.
    assert counts(index, second.val) == {"apple": 1, "pear": 1}
    assert second.fit.tolist() == [0, 1, 4, 6, 7]


def random_index(seed):
    """Up to 8 classes of 1 to 5 clips of 1 to 6 pictures, official test frames in every clip."""
    rng = np.random.default_rng(seed)
    groups = [("two", "train", "r0", 2), ("two", "test", "r1", 2)]
    for label in range(rng.integers(1, 8)):
        for clip in range(rng.integers(1, 6)):
            size = int(rng.integers(1, 7))
            groups += [
                (f"c{label}", "train", f"r{clip}", size),
                (f"c{label}", "test", f"r{clip}", 1),
            ]
    return index_of(*groups).sample(frac=1, random_state=seed).reset_index(drop=True)


@pytest.mark.parametrize("seed", range(10))
def test_by_group_tests_every_clip_once_and_keeps_one_for_training(seed):
    index = random_index(seed)
    folds = by_group(index, seed)
    several = index.groupby("label")["group"].transform("nunique") > 1
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(np.flatnonzero(several))
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set(index.label)
        assert not clips(index, fold.test) & clips(index, fold.fit)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("split", [official, by_group, random])
def test_parts_are_disjoint_and_validation_is_whole_clips_out_of_training(split, seed):
    index = random_index(seed)
    for fold in split(index, seed):
        both = np.concatenate([fold.fit, fold.test])
        assert len(set(both)) == len(both) == len(index)
        assert len(fold.val) and np.array_equal(fold.fit, np.union1d(fold.train, fold.val))
        left = index.iloc[fold.fit].groupby("label")["group"].nunique()
        if (left > 1).any():
            assert not clips(index, fold.val) & clips(index, fold.train)
            assert len(clips(index, fold.val)) == (left > 1).sum()  # one clip of each such class
    assert equal_folds(split(index, seed), split(index, seed))


def test_by_group_needs_two_clips_of_a_class():
    with pytest.raises(ValueError, match="No class has two clips"):
        by_group(index_of(("a", "", "r0", 3), ("b", "", "", 3)))


def test_random_is_stratified():
    sizes = {"a": 1, "b": 2, "c": 8, "d": 10, "e": 40}
    index = index_of(*((label, "", "", size) for label, size in sizes.items()))
    (fold,) = random(index, seed=1)
    assert counts(index, fold.test) == {"b": 1, "c": 2, "d": 2, "e": 10}
    assert counts(index, fold.val) == {"c": 1, "d": 2, "e": 6}  # a fifth of what is left
    assert counts(index, fold.train) == {"a": 1, "b": 1, "c": 5, "d": 6, "e": 24}
    assert equal_folds([fold], random(index, seed=1))
    assert not equal_folds([fold], random(index, seed=2))


def test_make_splits_gives_those_that_are_possible():
    index = index_of(("a", "train", "", 8), ("a", "test", "", 2))
    with pytest.warns(UserWarning, match="Without the split by_group. No class has two clips"):
        splits = make_splits(index, ["official", "by_group", "random"])
    assert list(splits) == ["official", "random"]
    assert equal_folds(splits["official"], official(index))


def test_make_splits_falls_back_to_random():
    index = index_of(("a", "", "", 8))
    with pytest.warns(UserWarning, match="Without the split official. There is no official test"):
        splits = make_splits(index, ["official"])
    assert list(splits) == ["random"]


def test_make_splits_refuses_an_unknown_name():
    with pytest.raises(
        ValueError, match="Unknown split 'clips': use some of official, by_group, ra"
    ):
        make_splits(index_of(("a", "", "", 8)), ["clips"])


def test_folds_know_their_split_and_number_and_fewer_can_be_taken():
    index = index_of(*((label, "", f"r{clip}", 4) for label in "ab" for clip in range(3)))
    splits = make_splits(index, ["by_group", "random"])
    assert [(fold.split, fold.number) for folds in splits.values() for fold in folds] == [
        ("by_group", 0),
        ("by_group", 1),
        ("by_group", 2),
        ("random", 0),
    ]
    fewer = make_splits(index, ["by_group", "random"], folds=2)
    assert equal_folds(fewer["by_group"], splits["by_group"][:2])
    assert equal_folds(fewer["random"], splits["random"])


def test_of_every_class_only_so_many_can_be_tested():
    index = index_of(("a", "train", "", 9), ("a", "test", "", 7), ("b", "train", "", 9))
    (fold,), (few,) = (make_splits(index, ["official"], 5, None, n)["official"] for n in (None, 3))
    assert equal_folds([few], [replace(fold, test=few.test)])
    assert len(few.test) == 3 and set(few.test) <= set(fold.test)
    test = index.iloc[fold.test]
    assert np.array_equal(few.test, fold.test[few_shot(test, 3, 5)[0]])
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
    picked, _ = few_shot(index, k, seed)
    return [os.path.relpath(path, index.attrs["root"]) for path in index.path.iloc[picked]]


def test_few_shot_is_nested_and_takes_k_of_every_class():
    index = index_of(("a", "", "", 30), ("b", "", "", 20))
    for seed in range(5):
        fewer = set()
        for k in (1, 2, 4, 8, 16):
            picked, short = few_shot(index, k, seed)
            assert counts(index, picked) == {"a": k, "b": k} and short == {}
            assert np.array_equal(picked, np.unique(picked)) and fewer <= set(picked)
            fewer = set(picked)


def test_few_shot_says_which_classes_are_short():
    index = index_of(("a", "", "", 3), ("b", "", "", 5), ("c", "", "", 1), ("d", "", "", 4))
    picked, short = few_shot(index, 4)
    assert short == {"a": 3, "c": 1}
    assert counts(index, picked) == {"a": 3, "b": 4, "c": 1, "d": 4}


def test_few_shot_seeds_differ():
    index = index_of(("a", "", "", 50))
    assert len({tuple(few_shot(index, 5, seed)[0]) for seed in range(10)}) == 10


def test_few_shot_takes_pictures_evenly():
    index = index_of(("a", "", "", 4))
    taken = np.bincount([few_shot(index, 1, seed)[0][0] for seed in range(400)], minlength=4)
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
    (fold,) = make_splits(index, ["random"])["random"]
    for k, seed in ((1, 0), (6, 3), (6, 0)):
        few = few_shot_fold(index, fold, k, seed, refit)
        assert (few.shots, few.seed, few.split, few.number) == (k, seed, "random", 0)
        assert np.array_equal(few.test, fold.test)
        for part, count in (("train", k), ("val", min(k, 4)), ("fit", k)):
            rows = getattr(fold, part)
            expected = rows[few_shot(index.iloc[rows], count, seed)[0]]
            if part == "fit" and not refit:
                expected = few.train
            assert np.array_equal(getattr(few, part), expected)


def test_pictures_are_ranked_once_for_all_folds_and_ks(monkeypatch):
    index, hashed, sha256 = index_of(("x", "", "", 50), ("y", "", "", 50)), [], hashlib.sha256

    def counted(content):
        hashed.append(content)
        return sha256(content)

    (fold,) = make_splits(index, ["random"], seed=71)["random"]
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
