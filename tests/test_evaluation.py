"""cliphelpers.evaluation against scikit-learn, scipy, formulas by hand and a simulation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, softmax
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from cliphelpers.classifiers import KNearest
from cliphelpers.evaluation import (
    calibration,
    confusions,
    cross_temperatures,
    doubtful_labels,
    fit_temperature,
    holm,
    interval,
    top_k,
)
from cliphelpers.splits import Fold


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(400, 10)), rng.integers(0, 10, 400)
    right = top_k(scores.astype(np.float32), y, k)
    assert right.dtype == bool and right.shape == (400,)
    assert right.mean() == top_k_accuracy_score(y, scores, k=k)


def test_classes_without_a_vote_are_not_among_the_best():
    X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    y = np.arange(200) % 20
    scores = KNearest().fit(X[:100], y[:100], 20).scores(X[100:])[0]  # of k = 1: one class has all
    assert (top_k(scores, y[100:], 5) == top_k(scores, y[100:])).all()
    assert top_k(np.zeros((3, 3)), np.arange(3), 2).tolist() == [True, False, False]
    assert top_k(np.array([[0, 1.0, 1, 0]]).repeat(4, 0), np.arange(4), 2).tolist() == [
        False, True, True, False,
    ]  # fmt: skip


def test_top_k_of_fewer_classes_is_always_right():
    scores = np.array([[0.1, 0.9, 0.5]])
    assert [top_k(scores, np.array([0]), k)[0] for k in (1, 2, 3, 5)] == [False, False, True, True]


# ------------------------------------------------------------------------------- intervals


def variance_of(values, classes, groups):
    """The variance and the degrees of freedom of a mean: each group of each class left out."""
    variance, freedom = 0, 0
    for label in set(classes):
        own = classes == label
        several, sizes = np.unique(groups[own], return_counts=True)
        without = [values[own & (groups != group)].mean() for group in several]
        squares = (np.array(without) - values[own].mean()) ** 2
        variance += own.mean() ** 2 * (len(several) - 1) / len(several) * squares.sum()
        freedom += sizes.sum() ** 2 / (sizes**2).sum() - 1
    return variance, freedom


def korn_graubard(mean, variance, freedom, n):
    """Clopper and Pearson's interval with the effective sample size, from F as in their paper."""
    size = mean * (1 - mean) / variance
    size = min(size * (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, freedom)) ** 2, n)
    x = mean * size
    low = stats.f.ppf(0.025, 2 * x, 2 * (size - x + 1))
    high = stats.f.ppf(0.975, 2 * (x + 1), 2 * (size - x))
    low = x * low / (size - x + 1 + x * low)
    return low, (x + 1) * high / (size - x + (x + 1) * high)


def clustered(seed=0, classes=5, spread=1.5):
    """Right or wrong of classes of 2 to 4 groups of 1 to 12 pictures that are alike."""
    rng = np.random.default_rng(seed)
    class_of = np.repeat(np.arange(classes), rng.integers(2, 5, classes))
    groups = np.repeat(np.arange(len(class_of)), rng.integers(1, 13, len(class_of)))
    odds = rng.normal(0.5, spread, classes)[class_of] + rng.normal(0, spread, len(class_of))
    return rng.random(len(groups)) < expit(odds)[groups], class_of[groups], groups


@pytest.mark.parametrize(("right", "n"), [(140, 200), (500, 1000), (980, 1000), (3, 40)])
def test_of_independent_pictures_of_one_class_it_is_clopper_and_pearson_s(right, n):
    values, one_class = np.arange(n) < right, np.zeros(n, int)
    mean, low, high, p = interval(values, one_class, np.arange(n))
    assert mean == right / n and np.isnan(p)
    exact = stats.binomtest(right, n).proportion_ci(method="exact")
    assert (low, high) == pytest.approx(tuple(exact), abs=0.02 * (exact.high - exact.low))
    variance = np.var(values, ddof=1) / n  # so the effective size is n - 1
    assert (low, high) == pytest.approx(korn_graubard(mean, variance, n - 1, n))


@pytest.mark.parametrize("seed", range(5))
def test_of_groups_within_classes_it_is_korn_and_graubard_s(seed):
    values, classes, groups = clustered(seed)
    mean, low, high, _ = interval(values, classes, groups)
    assert mean == pytest.approx(values.mean())
    expected = korn_graubard(mean, *variance_of(values, classes, groups), len(values))
    assert (low, high) == pytest.approx(expected)


def test_a_measurement_of_independent_pictures_has_student_s_t():
    values = np.random.default_rng(0).normal(0.4, 1, 30)
    mean, low, high, p = interval(values, np.zeros(30, int), np.arange(30))
    expected = stats.ttest_1samp(values, 0)
    assert (mean, p) == pytest.approx((values.mean(), expected.pvalue))
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("seed", range(3))
def test_a_measurement_of_groups_has_t_with_as_many_equal_groups_less_classes(seed):
    _, classes, groups = clustered(seed)
    values = np.random.default_rng(seed).normal(classes, 1) + np.sin(groups)
    mean, low, high, p = interval(values, classes, groups)
    variance, freedom = variance_of(values, classes, groups)
    law = stats.t(freedom, values.mean(), variance**0.5)
    assert (low, high) == pytest.approx(law.interval(0.95))
    assert p == pytest.approx(2 * min(law.cdf(0), law.sf(0)))


def test_over_all_draws_of_groups_the_variance_is_right_on_average():
    """Two classes with three possible groups of two pictures each, of which two are drawn."""
    possible = [[(0, 0), (1, 0), (1, 1)], [(1, 1), (4, 2), (0, 0)]]
    classes, groups = np.repeat([0, 1], 4), np.repeat(np.arange(4), 2)
    means, variances = [], []
    for draw in product(*(possible[label] for label in (0, 0, 1, 1))):
        mean, low, _, _ = interval(np.ravel(draw).astype(float), classes, groups)
        means.append(mean)
        variances.append(((mean - low) / stats.t.ppf(0.975, 2)) ** 2)
    assert len(means) == 81
    assert np.mean(variances) == pytest.approx(np.var(means))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("apart", [False, True], ids=["all share", "two by two"])
def test_groups_that_classes_share_are_left_out_of_all_of_them(seed, apart):
    """Such as days. Classes that share none of the others' are strata of their own."""
    rng = np.random.default_rng(seed)
    classes, days = rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    days += 5 * (classes // 2) * apart
    values, variance, freedom = rng.normal(classes, 1) + np.sin(days), 0, 0

    def mean_of(kept):
        means = [values[kept & (classes == one)].mean() for one in range(4)]
        return np.average(means, weights=np.bincount(classes))

    for start in (0, 5)[: 1 + apart]:
        stratum = range(start, start + 5)
        without = np.array([mean_of(days != day) for day in stratum])
        variance += 4 / 5 * ((without - values.mean()) ** 2).sum()
        sizes = np.array([(days == day).sum() for day in stratum])
        freedom += sizes.sum() ** 2 / (sizes**2).sum() - 1
    _, low, high, _ = interval(values, classes, days)
    law = stats.t(freedom, values.mean(), variance**0.5)
    assert (low, high) == pytest.approx(law.interval(0.95))


def test_one_group_that_all_classes_share_says_no_more_than_none():
    values, classes, _ = clustered()
    same = interval(values, classes, np.zeros(len(values), int))
    assert same == pytest.approx(interval(values, classes, classes), nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_where_groups_go_across_classes_the_interval_for_other_classes_is_clustered_both_ways(seed):
    """By the formula V(classes) + V(groups) - V(both), each a jackknife of the mean."""
    rng, none = np.random.default_rng(seed), np.zeros(240, int)
    classes, days = np.repeat(np.arange(12), 20), np.tile(np.repeat(np.arange(5), 4), 12)
    values = rng.normal(0, 1, 240) + rng.normal(0, 1, 12)[classes] + rng.normal(0, 2, 5)[days]

    def variance(clusters):
        means = [values[clusters == one].mean() for one in np.unique(clusters)]  # of one size
        return np.var(means, ddof=1) / len(means)

    both = variance(classes) + variance(days) - variance(5 * classes + days)
    _, low, high, _ = interval(values, none, classes, crossed=days)
    law = stats.t(5 - 1, values.mean(), both**0.5)
    assert (low, high) == pytest.approx(law.interval(0.95))
    within = 5 * classes + days  # groups of one class each add nothing
    assert interval(values, none, classes, crossed=within) == interval(values, none, classes)


def test_what_all_groups_of_a_class_share_does_not_widen_it_unless_other_classes_are_meant():
    groups = np.repeat(np.arange(8), 50)
    classes, rng = groups // 2, np.random.default_rng(0)
    alike = rng.random(400) < np.array([0.05, 0.35, 0.65, 0.95])[classes]
    _, low, high, _ = interval(alike, classes, groups)
    _, wide_low, wide_high, _ = interval(alike, 0 * classes, classes)
    _, whatever_low, whatever_high, _ = interval(alike, 0 * classes, groups)
    assert high - low < 0.4 * (whatever_high - whatever_low)
    assert whatever_high - whatever_low < wide_high - wide_low
    assert wide_low < low < high < wide_high


# ------------------------------------------------------------------------------- few of something


@pytest.mark.parametrize(("classes", "groups"), [(1, 12), (4, 3), (12, 1)])
def test_where_all_are_right_or_wrong_each_group_counts_as_one_picture(classes, groups):
    class_of = np.repeat(np.arange(classes), 30 * groups)
    group_of = np.repeat(np.arange(12), 30)
    exact = stats.binomtest(12, 12).proportion_ci(method="exact")
    mean, low, high, _ = interval(np.ones(360, bool), class_of, group_of)
    assert (mean, low, high) == (1, pytest.approx(exact.low), 1)
    mean, low, high, _ = interval(np.zeros(360, bool), class_of, group_of)
    assert (mean, low, high) == (0, 0, pytest.approx(1 - exact.low))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_one_group_says_next_to_nothing(n):
    zeros = np.zeros(n, int)
    exact = stats.binomtest(1, 1).proportion_ci(method="exact")
    assert interval(np.ones(n, bool), zeros, zeros)[:3] == (1, pytest.approx(exact.low), 1)
    half = np.arange(n) < n / 2
    _, low, high, _ = interval(half, zeros, zeros)
    assert 0 <= low < 0.05 + half.mean() / 50 and 0.95 < high <= 1
    assert interval(zeros, zeros, zeros) == (0, -1, 1, 1)  # of differences
    _, *ends, p = interval(np.full(n, 0.5), zeros, zeros)  # of measurements
    assert np.isnan(ends).all() and p == 1


def test_a_class_with_one_group_varies_as_the_others_do():
    values = np.array([0, 2, 4, 1, 1, 5, 9, 9.0])
    classes = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 3])  # class 1 has one group
    mean, low, high, _ = interval(values, classes, groups)
    without = np.array([11 / 4, 7 / 3, 8 / 5])  # the mean of class 0, each group left out
    variance = (6 / 8) ** 2 * 2 / 3 * ((without - 13 / 6) ** 2).sum()
    variance *= (2**2 + 3**2 + 1**2 + 2**2) / (2**2 + 3**2 + 1**2)
    half = stats.t.ppf(0.975, 6**2 / (2**2 + 3**2 + 1**2) - 1) * variance**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half))


def test_where_every_class_has_one_group_classes_stand_for_groups():
    values, classes, groups = clustered(3)
    assert interval(values, classes, classes + 7) == interval(values, 0 * classes, classes)


# ------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(("value", "groups"), [(0, 3), (0, 40), (1, 40), (-1, 40)])
def test_differences_have_never_an_interval_of_no_width(value, groups):
    values = np.full(5 * groups, value)
    group_of = np.repeat(np.arange(groups), 5)
    mean, low, high, p = interval(values, np.zeros(5 * groups, int), group_of)
    half = stats.t.ppf(0.975, groups - 1) / (groups + 2)  # as if two more groups disagreed
    assert mean == value
    assert (low, high) == pytest.approx((max(value - half, -1), min(value + half, 1)))
    assert p == pytest.approx(2 * stats.t.sf(abs(value) * (groups + 2), groups - 1))


def test_differences_are_those_of_a_measurement_unless_that_is_too_sure():
    """The least variance is that of two more groups, half of which disagree."""
    rng = np.random.default_rng(0)
    (one, classes, groups), other = clustered(1, classes=20), rng.random(1000) < 0.4
    wide = one.astype(int) - other[: len(one)]
    narrow = (np.arange(len(one)) == 3).astype(int)
    for less, floor in ((wide, False), (narrow, True)):
        mean, low, high, p = interval(less, classes, groups)
        variance, freedom = variance_of(less, classes, groups)
        least = 1 / (groups.max() + 3) ** 2
        assert (variance < least) == floor
        law = stats.t(freedom, mean, max(variance, least) ** 0.5)
        assert (low, high) == pytest.approx(law.interval(0.95))
        assert p == pytest.approx(2 * min(law.cdf(0), law.sf(0)))
        _, free_low, free_high, _ = interval(less.astype(float), classes, groups)
        assert (high - low > free_high - free_low) == floor


# ------------------------------------------------------------------------------- several seeds


def test_the_mean_of_seeds_varies_with_groups_and_with_seeds():
    """Satterthwaite, An approximate distribution of estimates of variance components, 1946."""
    _, classes, groups = clustered(2)
    rng = np.random.default_rng(0)
    seeds = rng.normal(0.3, 1, (4, len(groups))) + rng.normal(0, 0.3, (4, 1)) + np.sin(groups)
    mean, low, high, p = interval(seeds, classes, groups)
    between, freedom = variance_of(seeds.mean(0), classes, groups)
    drawn = np.var(seeds.mean(1), ddof=1) / 4
    degrees = (between + drawn) ** 2 / (between**2 / freedom + drawn**2 / 3)
    law = stats.t(degrees, seeds.mean(), (between + drawn) ** 0.5)
    assert (mean, low, high) == pytest.approx((seeds.mean(), *law.interval(0.95)))
    assert p == pytest.approx(2 * min(law.cdf(0), law.sf(0)))


def test_the_mean_accuracy_of_seeds_is_a_proportion_of_that_variance():
    _, classes, groups = clustered(2)
    seeds = np.stack([clustered(2)[0], np.roll(clustered(2)[0], 5), np.arange(len(groups)) % 3 > 0])
    mean, low, high, _ = interval(seeds, classes, groups)
    between, freedom = variance_of(seeds.mean(0), classes, groups)
    drawn = np.var(seeds.mean(1), ddof=1) / 3
    degrees = (between + drawn) ** 2 / (between**2 / freedom + drawn**2 / 2)
    expected = korn_graubard(seeds.mean(), between + drawn, degrees, len(groups))
    assert (mean, low, high) == pytest.approx((seeds.mean(), *expected))


@pytest.mark.parametrize("kind", [bool, int, float])
def test_seeds_that_agree_are_as_one(kind):
    values, classes, groups = clustered(1)
    one = interval(values.astype(kind), classes, groups)
    for times in (1, 3):
        again = interval(np.stack([values.astype(kind)] * times), classes, groups)
        np.testing.assert_allclose(again, one)


def test_seeds_that_disagree_widen_it_though_no_group_varies():
    classes = np.repeat(np.arange(4), 10)
    groups = np.arange(40) // 5
    for right in (np.ones((2, 40), bool), np.array([[1] * 40, [0] * 40], bool)):
        _, low, high, _ = interval(right, classes, groups)
        assert (high - low > 0.9) == (right.mean() == 0.5)


@pytest.mark.parametrize(
    ("size", "seeds"), [(7, 3), (10, 3), (11, 3), (10, 5), (35, 5), (7, 7), (70, 7)]
)
def test_groups_count_as_pictures_do_where_rounding_alone_varies(size, seeds):
    """Each picture is right for one seed: all means are equal, if not to the last bit."""
    right = np.arange(6 * size) % seeds == np.arange(seeds)[:, None]
    groups = np.arange(6 * size) // size
    assert set(right.sum(1)) == {6 * size // seeds}  # the seeds agree, too
    _, low, high, _ = interval(right, groups // 3, groups)
    exact = stats.binomtest(1, 6).proportion_ci()  # about that of so few
    assert high - low > 0.8 * (exact.high - exact.low)


# ------------------------------------------------------------------------------- in any case


@pytest.mark.parametrize("kind", [bool, int, float])
def test_the_order_of_pictures_and_the_numbers_of_groups_do_not_matter(kind):
    values, classes, groups = clustered(4)
    order = np.random.default_rng(0).permutation(len(values))
    expected = interval(values.astype(kind), classes, groups)
    again = interval(values.astype(kind)[order], 9 - classes[order], 1000 - 7 * groups[order])
    np.testing.assert_allclose(again, expected)


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_an_interval_of_accuracies_stays_within_0_and_1_and_holds_the_mean(share):
    for seed in range(20):
        _, classes, groups = clustered(seed, classes=2)
        values = np.random.default_rng(seed).random((1 + seed % 3, len(groups))) < share
        mean, low, high, _ = interval(values, classes, groups)
        assert 0 <= low <= mean <= high <= 1 and low < high


# ------------------------------------------------------------------------------- coverage

NOISE = stats.norm.ppf((np.arange(200) + 0.5) / 200)  # in place of an integral
REPETITIONS, CLASSES, GROUPS, PICTURES, SEEDS = 400, 20, 3, 10, 4


def bootstrap(values, classes, groups):
    """What is not wanted: whole groups drawn again, whatever their class; of seeds the mean."""
    rng, sizes = np.random.default_rng(0), np.bincount(groups)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), 200)
    ends = [
        np.quantile((drawn @ np.bincount(groups, one)) / (drawn @ sizes), [0.025, 0.975])
        for one in np.atleast_2d(values)
    ]
    return 0, *np.mean(ends, axis=0), np.nan


def coverage(way, target, class_effect, sizes=(PICTURES,) * GROUPS, shared=False):
    """How often an interval holds what is true of these classes, whatever their groups."""
    rng, held = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(CLASSES * GROUPS), np.tile(sizes, CLASSES))
    classes, told = groups // GROUPS, groups % GROUPS if shared else groups
    for _ in range(REPETITIONS):
        level = rng.normal(1, class_effect, CLASSES)
        effect, other = rng.normal(0, 1, (2, CLASSES * GROUPS))
        if shared:
            effect, other = (np.tile(one[:GROUPS], CLASSES) for one in (effect, other))
        odds = np.repeat(level, GROUPS) + effect

        def true(shift, spread=1.0, level=level):
            return expit(level[:, None] + shift + spread * NOISE).mean()

        def answers(shift, odds=odds):
            return rng.random(len(groups)) < expit(odds + shift)[groups]

        if target == "accuracy":
            values, truth = answers(0), true(0)
        elif target == "mean of seeds":
            values = np.stack([answers(shift) for shift in rng.normal(0, 0.5, SEEDS)])
            truth = true(0, (1 + 0.5**2) ** 0.5)
        else:
            rival = answers(0.3, np.repeat(level, GROUPS) + 0.6 * effect + 0.8 * other)
            values, truth = rival - answers(0).astype(int), true(0.3) - true(0)
        _, low, high, _ = way(values, classes, told)
        held += low <= truth <= high
    return held / REPETITIONS


@pytest.mark.parametrize("class_effect", [0, 2])
@pytest.mark.parametrize("target", ["accuracy", "difference", "mean of seeds"])
def test_the_interval_holds_the_truth_as_often_as_it_says(target, class_effect):
    assert 0.92 < coverage(interval, target, class_effect) < 0.98  # 95 %, sd of the simulation 1 %


@pytest.mark.parametrize("sizes", [(16, 9, 5), (24, 5, 1), (27, 2, 1)])
@pytest.mark.parametrize("target", ["accuracy", "difference", "mean of seeds"])
def test_so_it_does_if_one_group_of_a_class_is_larger_than_the_others(target, sizes):
    """As looks are. It may be too wide, but not too narrow."""
    assert coverage(interval, target, 1, sizes) > 0.92


@pytest.mark.parametrize("target", ["accuracy", "difference", "mean of seeds"])
def test_so_it_does_if_classes_share_groups(target):
    """As days: what makes one hard makes it hard for all classes."""
    assert 0.92 < coverage(interval, target, 1, shared=True) <= 1


def test_drawing_whole_groups_again_does_not():
    assert coverage(bootstrap, "accuracy", 2) > 0.98  # too wide: classes are not drawn
    assert coverage(bootstrap, "mean of seeds", 0) < 0.8  # other seeds are not meant


# ------------------------------------------------------------------------------- many comparisons


def test_holm_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.005])  # 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 but not less
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.3]), [0.3])
    np.testing.assert_allclose(holm([0.6, 0.5, 1]), [1, 1, 1])
    assert holm([]).shape == (0,)


def test_holm_refuses_what_the_stepwise_procedure_refuses():
    rng = np.random.default_rng(0)
    for p in (rng.random(12) ** 4, np.repeat(rng.random(3) ** 4, 3)):
        for level in (0.001, 0.01, 0.05, 0.2, 0.9):
            rejected, left = set(), sorted(range(len(p)), key=lambda i: p[i])
            while left and p[left[0]] <= level / len(left):
                rejected.add(left.pop(0))
            assert set(np.flatnonzero(holm(p) <= level)) == rejected


# ------------------------------------------------------------------------------- classes


def test_confusions_by_hand():
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([0, 1, 1, 2, 1, 0, 2, 2, 2, 1])
    table = confusions(y, predicted, ["fig", "kiwi", "pear"])
    assert table.to_dict("list") == {
        "true": ["fig", "kiwi", "fig", "pear"],
        "predicted": ["kiwi", "fig", "pear", "kiwi"],
        "share": [0.5, 0.5, 0.25, 0.25],
        "pictures": [2, 1, 1, 1],
    }


def test_confusions_equal_scikit_learn():
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 6, (2, 300))
    matrix = confusion_matrix(y, predicted, normalize="true")
    table = confusions(y, predicted, list("abcdef"))
    assert len(table) == (matrix - np.diag(np.diag(matrix)) > 0).sum()
    for row in table.itertuples():
        expected = matrix["abcdef".index(row.true), "abcdef".index(row.predicted)]
        assert row.share == pytest.approx(expected)


def test_no_mistakes_are_no_confusions():
    table = confusions(np.array([0, 1]), np.array([0, 1]), ["a", "b"])
    assert table.empty and list(table.columns) == ["true", "predicted", "share", "pictures"]


@pytest.mark.parametrize("count", [5, 100])
def test_answers_that_are_all_right_are_no_certainty(count):
    y = np.arange(count) % 3
    temperature = fit_temperature(2 * np.eye(3)[y], y)
    chance = np.exp(2 / temperature) / (np.exp(2 / temperature) + 2)
    assert chance == pytest.approx((count + 1) / (count + 2), abs=1e-4)  # Laplace's rule


@pytest.mark.parametrize("factor", [0.1, 1, 7])
def test_the_temperature_that_scores_were_multiplied_by_is_found(factor):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (chances.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert fit_temperature(factor * logits, y) == pytest.approx(factor, rel=0.05)


# ------------------------------------------------------------------------------- calibration


def logits(n, classes=10, seed=0):
    """Scores, and classes drawn with the probabilities that are their softmax."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (n, classes))
    y = (softmax(scores, axis=1).cumsum(1) < rng.random((n, 1))).sum(1)
    return scores.astype(np.float32), y.clip(max=classes - 1)


@pytest.mark.parametrize("factor", [0.3, 1, 4])
def test_the_expected_calibration_error_is_the_mean_distance_over_equal_bins(factor):
    scores, y = logits(1500)
    shares = softmax(factor * scores.astype(float), axis=1)
    order = np.argsort(shares.max(1))
    bins, gaps = calibration(factor * scores, y)
    expected, error = [], 0
    for rows in np.array_split(order, 15):
        sure, right = shares[rows].max(1).mean(), (shares[rows].argmax(1) == y[rows]).mean()
        expected.append((sure, right, len(rows)))
        error += len(rows) / 1500 * abs(sure - right)
    np.testing.assert_allclose(bins, expected, rtol=1e-6)
    assert gaps.shape == (1500,) and gaps.mean() == pytest.approx(error)


def test_perfect_probabilities_have_no_error_and_too_sure_ones_that_of_their_excess():
    scores, y = logits(60_000)
    bins, gaps = calibration(scores, y)
    assert gaps.mean() < 0.006 and np.abs(bins.accuracy - bins.confidence).max() < 0.02
    bins, gaps = calibration(5 * scores, y)
    excess = softmax(5 * scores, axis=1).max(1).mean() - softmax(scores, axis=1).max(1).mean()
    assert excess > 0.2 and gaps.mean() == pytest.approx(excess, abs=0.006)
    assert (bins.accuracy < bins.confidence).all()


def test_equal_confidences_share_a_bin():
    """So that the order of the pictures does not matter."""
    scores, y = np.zeros((100, 2)), np.arange(100) // 50
    bins, gaps = calibration(scores, y)
    assert bins.values.tolist() == [[0.5, 0.5, 100]] and gaps.mean() == 0
    sure = np.where(np.arange(100) < 95, 1000, 1)[:, None] * np.array([[1, 0]])
    bins, _ = calibration(sure, y)
    assert sorted(bins.pictures) == [5, 95]


def test_each_fold_s_temperature_is_that_of_the_others():
    scores, y = logits(3000)
    folds = [Fold(np.zeros(0, int), np.zeros(0, int), np.arange(n)) for n in (500, 1500, 1000)]
    number = np.repeat([0, 1, 2], [500, 1500, 1000])
    scores *= np.array([1, 3, 10])[number, None]
    found = cross_temperatures(scores, y, folds)
    assert found.shape == (3000, 1)
    for one in range(3):
        others = number != one
        assert set(found[number == one, 0]) == {fit_temperature(scores[others], y[others])}
    assert found[-1] < 3 < found[0]  # the third fold, ten times too sure, has not chosen its own
    assert set(cross_temperatures(scores[:500], y[:500], folds[:1])[:, 0]) == {1}


def test_labels_are_ranked_by_how_unlikely_they_are():
    index = pd.DataFrame({"path": list("abcd"), "label": ["x", "y", "z", "x"]})
    shares = np.array([[0.2, 0.2, 0.6], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])
    table = doubtful_labels(index, np.array([3, 2, 1]), shares)
    columns = ["path", "label", "probability", "taken_for", "taken_for_probability"]
    assert list(table.columns) == columns
    assert table.values.tolist() == [
        ["c", "z", 0.1, "x", 0.7],
        ["d", "x", 0.2, "z", 0.6],
        ["b", "y", 0.9, "y", 0.9],
    ]


@pytest.mark.parametrize("judged", [
    lambda scores, y: top_k(scores, y, 1),
    fit_temperature,
    calibration,
    lambda scores, y: doubtful_labels(
        pd.DataFrame({"path": "x.png", "label": ["a", "b", "a"]}), np.arange(3), scores
    ),
])  # fmt: skip
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_was_not_extracted_is_not_judged(judged, odd):
    scores, y = np.array([[1.0, 0.0], [0.2, 0.1], [0.5, 0.9]]), np.array([0, 1, 0])
    judged(scores, y)
    scores[1] = odd
    with pytest.raises(ValueError, match="numbers: extract the features of these pictures"):
        judged(scores, y)


def test_lists_are_judged_as_arrays_are():
    scores, y = [[1.0, 0.0], [0.2, 0.1], [0.5, 0.9]], [0, 1, 0]
    assert top_k(scores, y).tolist() == [True, False, False]
    table, gaps = calibration(scores, y)
    again, same = calibration(np.array(scores), np.array(y))
    assert table.equals(again) and np.array_equal(gaps, same)
