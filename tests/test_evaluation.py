"""cliphelpers.evaluation against scikit-learn, formulas of statistics and tables by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from cliphelpers.evaluation import bootstrap, confusions, top_k

Z = 1.959964  # of a 95 % interval


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(400, 10)), rng.integers(0, 10, 400)
    right = top_k(scores.astype(np.float32), y, k)
    assert right.dtype == bool and right.shape == (400,)
    assert right.mean() == top_k_accuracy_score(y, scores, k=k)


def test_top_k_of_fewer_classes_is_always_right():
    scores = np.array([[0.1, 0.9, 0.5]])
    assert [top_k(scores, np.array([0]), k)[0] for k in (1, 2, 3, 5)] == [False, False, True, True]


# ------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_the_interval_of_independent_pictures_is_the_binomial_one(p):
    n = 1000
    values = np.arange(n) < p * n
    mean, low, high = bootstrap(values, np.arange(n).astype(str), resamples=20_000)
    error = np.sqrt(p * (1 - p) / n)
    assert mean == p
    assert low == pytest.approx(p - Z * error, abs=0.1 * error)
    assert high == pytest.approx(p + Z * error, abs=0.1 * error)


def test_the_interval_of_clips_that_are_all_right_or_all_wrong_counts_clips():
    clips = np.repeat(np.arange(200), 15)
    values = clips % 4 > 0  # three clips of four
    mean, low, high = bootstrap(values, clips.astype(str), resamples=20_000)
    error = np.sqrt(0.75 * 0.25 / 200)  # of 200 clips, not of 3000 pictures
    assert mean == 0.75
    assert (high - low) / (2 * Z) == pytest.approx(error, rel=0.05)


def test_the_interval_of_clips_of_different_sizes_is_that_of_drawing_them_one_by_one():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 30, 40)
    clips = np.repeat(np.arange(40), sizes)
    values = rng.random(len(clips)) < rng.random(40)[clips]
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 40, 40)
        means.append(np.mean(np.concatenate([values[clips == clip] for clip in drawn])))
    _, low, high = bootstrap(values, clips, resamples=20_000)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.1 * np.std(means))


def test_clips_make_the_interval_wider_where_their_frames_are_alike():
    clips = np.repeat(np.arange(30), 20)
    values = np.random.default_rng(0).random(30)[clips] > 0.4
    _, low, high = bootstrap(values, clips)
    _, narrow_low, narrow_high = bootstrap(values, np.arange(len(values)))
    assert high - low > 3 * (narrow_high - narrow_low)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held, share = np.random.default_rng(0), 0, 0.7
    clips = np.repeat(np.arange(40), 5)
    for seed in range(400):
        right = rng.beta(7, 3, 40)[clips]  # clips differ, with the mean 0.7
        _, low, high = bootstrap(rng.random(200) < right, clips, resamples=500, seed=seed)
        held += low <= share <= high
    assert 0.90 < held / 400 < 0.98  # 95 % but for the simulation's noise and 40 clips


def test_the_order_of_pictures_and_the_names_of_clips_do_not_matter():
    rng = np.random.default_rng(0)
    clips, values = rng.integers(0, 9, 100), rng.random(100) < 0.6
    order = rng.permutation(100)
    expected = bootstrap(values, clips)
    assert bootstrap(values[order], clips[order]) == expected
    assert bootstrap(values, np.char.add("clip ", clips.astype(str))) == expected


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others():
    values, clips = np.arange(100) % 3 == 0, np.arange(100) // 4
    assert bootstrap(values, clips) == bootstrap(values, clips)
    assert bootstrap(values, clips, seed=1) != bootstrap(values, clips)


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
