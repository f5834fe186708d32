"""The ways that benchmarks/ measures, on small cases whose answer is known."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    specification = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


intervals, looks = load("intervals"), load("looks")


# ------------------------------------------------------------------------------- intervals


def test_pictures_that_are_their_own_groups_have_nearly_clopper_and_pearson_s_interval():
    values = np.r_[np.ones(140), np.zeros(60)]
    mean, low, high = intervals.within_classes(values, np.zeros(200, int), np.arange(200))
    expected = binomtest(140, 200).proportion_ci(method="exact")
    assert mean == 0.7
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_where_nobody_errs_each_group_counts_as_one_picture():
    groups = np.repeat(np.arange(12), 30)
    _, low, high = intervals.within_classes(np.ones(360), groups // 3, groups)
    expected = binomtest(12, 12).proportion_ci(method="exact")
    assert (low, high) == (pytest.approx(expected.low), 1.0)


def test_what_all_groups_of_a_class_share_does_not_widen_the_interval():
    """The classes are the ones that are meant: only their groups could have been others."""
    groups = np.repeat(np.arange(8), 50)
    classes = groups // 2
    rng = np.random.default_rng(0)
    alike = (rng.random(400) < np.array([0.05, 0.35, 0.65, 0.95])[classes]).astype(float)
    mixed = (rng.random(400) < rng.permutation(np.tile([0.05, 0.35, 0.65, 0.95], 2))[groups]) * 1.0
    width = [np.diff(intervals.within_classes(one, classes, groups)[1:]) for one in (alike, mixed)]
    assert width[0] < 0.5 * width[1]


def test_the_committed_simulation_is_of_this_code():
    table = pd.read_csv(BENCHMARKS / "intervals.csv")
    assert len(table) == len(intervals.SIZES) * len(intervals.EFFECTS) * len(intervals.ACCURACIES)
    row = table.iloc[0]
    size = [int(row[name]) for name in ("classes", "groups", "pictures")]
    effects = row["class effect"], row["group effect"]
    again = intervals.cell(*size, *effects, row.accuracy)
    for name, value in again.items():
        assert row[name] == pytest.approx(value, abs=1e-3)


# ------------------------------------------------------------------------------- looks


def test_looks_are_found_within_each_class_and_never_across():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 3, 20)) * 5
    truth = np.tile(np.repeat(np.arange(3), 10), 2)
    labels = np.repeat(["a", "b"], 30)
    pixels = centres[(labels == "b").astype(int), truth] + rng.normal(size=(60, 20)) * 0.3
    found = looks.looks(pixels, labels, 3)
    for label in "ab":
        pairs = set(zip(truth[labels == label], found[labels == label], strict=True))
        assert len(pairs) == 3 == len({look for _, look in pairs})


def test_a_class_with_few_pictures_has_as_many_looks():
    found = looks.looks(np.eye(4), np.array(["a", "b", "b", "b"]), 5)
    assert found[0] == 0 and sorted(found[1:]) == [0, 1, 2]


def test_whole_looks_are_held_out_and_each_picture_is_tested_once():
    rng = np.random.default_rng(0)
    labels, parts = np.repeat(["a", "b", "c"], 40), rng.integers(0, 5, 120)
    folds = list(looks.folds(looks.turns(parts, labels)))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(120))
    whole = np.char.add(labels, parts.astype(str))
    for fold in folds:
        assert not set(whole[fold.fit]) & set(whole[fold.test])
        assert not set(whole[fold.train]) & set(whole[fold.val])


def test_the_committed_table_has_the_estimates_beside_the_truth():
    table = pd.read_csv(BENCHMARKS / "looks.csv")
    assert set(table.dataset) == {"fruits-mini", "photographs", "grocery"}
    assert table.select_dtypes("number").stack().between(0, 1).all()
