"""Right or wrong, how sure that is, and what is taken for what."""

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cliphelpers.index import classes, targets

LEVEL = 0.95
_ROUNDING = 1e-20  # a variance below it is none


def top_k(scores, y, k=1):
    """Whether the right class is among the k best: bool array, shape (N,).

    ``scores`` is (N, C), ``y`` is (N,). With fewer than k classes it always is. The best is the
    first of equals; behind it a class counts only if no more than k are as good, so that of
    neighbours' votes none counts that got no vote. Raises a ValueError if scores are no numbers.
    """
    scores, y = _numbers(scores), np.asarray(y)
    own = np.take_along_axis(scores, y[:, None], axis=1)
    return (scores.argmax(1) == y) | ((scores >= own).sum(1) <= k)


def _numbers(scores):
    """The scores as an array; an error if they come from features that were not extracted."""
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("Scores are no numbers: extract the features of these pictures, too")
    return scores


def interval(values, classes, groups, level=LEVEL, crossed=None):
    """Mean, its interval for these classes and other groups, and how likely chance is.

    Pictures of one group are alike, so groups are what varies. The variance is the jackknife's,
    which leaves out each group of each class (Wolter, Introduction to variance estimation, 2007,
    section 4.5), or of all classes that share it; of several seeds also that of their means, as of
    other draws. For an accuracy the interval is Korn and Graubard's (Confidence intervals for
    proportions with small expected number of positive counts, 1998), Clopper and Pearson's with the
    effective sample size; else t. Its degrees of freedom are groups less classes (those that share
    groups are one), where a class's groups of sizes n count as (sum n)^2 / sum n^2 (as Carter,
    Schnepel and Steigerwald, Asymptotic behavior of a t-test robust to cluster heterogeneity,
    2017).

    Parameters
    ----------
    values : array, shape (N,) or (S, N)
        For each picture, of one seed or of S. The type says what: bool, whether it is told right;
        int, the difference of two such; float, a measurement.
    classes : int array, shape (N,)
        All 0 for the interval over other classes, with the classes as ``groups``.
    groups : int array, shape (N,)
        Numbers of groups, from 0 on: see :func:`cliphelpers.looks.group_of`.
    level : float
        Of the interval, 0.95 for 95 %.
    crossed : int array, shape (N,), optional
        Groups of another kind that vary, too, such as days beside classes: clustered both ways
        (Cameron, Gelbach and Miller, Robust inference with multiway clustering, 2011).

    Returns
    -------
    mean, low, high : float
        Of measurements of a single group low and high are NaN.
    p : float
        Two-sided, of a mean of 0; NaN for an accuracy.

    Notes
    -----
    A class with one group cannot tell how its groups vary: it gets the others' share; where every
    class has one, these are compared, or the classes if they share it. If nothing varies, each
    group of each class counts as one picture; a difference varies at least as if two more groups
    disagreed half the time (as Agresti and Min, Simple improved confidence intervals for comparing
    matched proportions, 2005).
    """
    kind, seeds = np.asarray(values).dtype.kind, np.atleast_2d(values).astype(float)
    each = seeds.mean(0)
    mean, pictures = float(each.mean()), len(each)
    variance, units, freedom = _between_groups(each, classes, groups)
    if crossed is not None:
        both = np.unique(_ranks(groups) * pictures + _ranks(crossed), return_inverse=True)[1]
        if both.max() > _ranks(crossed).max():  # else each lies within a group
            other, _, fewer = _between_groups(each, classes, crossed)
            variance += max(other - _between_groups(each, classes, both)[0], 0)
            freedom = min(freedom, fewer)
    if kind == "i":
        variance = max(variance, 1 / (units + 2) ** 2)
    if len(seeds) > 1 and (drawn := seeds.mean(1).var(ddof=1) / len(seeds)) > _ROUNDING:
        parts = variance**2 / freedom + drawn**2 / (len(seeds) - 1)  # Satterthwaite
        variance, freedom = variance + drawn, (variance + drawn) ** 2 / parts
    tail = (1 - level) / 2
    if kind == "f" and units == 1:
        return mean, np.nan, np.nan, 1.0
    if kind != "b":
        half = stats.t.isf(tail, freedom) * variance**0.5
        most = 1 if kind == "i" else np.inf
        low, high = np.clip([mean - half, mean + half], -most, most)
        p = 2 * stats.t.sf(abs(mean) / variance**0.5, freedom) if variance else float(mean == 0)
        return mean, float(low), float(high), float(p)
    size = units
    if variance:
        ratio = stats.t.isf(tail, pictures - 1) / stats.t.isf(tail, freedom)
        size = min(mean * (1 - mean) / variance * ratio**2, pictures)
    right, wrong = mean * size, size - mean * size
    low = stats.beta.ppf(tail, right, wrong + 1) if right > 0 else 0.0
    high = stats.beta.isf(tail, right + 1, wrong) if wrong > 0 else 1.0
    return mean, float(low), float(high), np.nan


def _between_groups(values, classes, groups):
    """Variance of the mean over groups, how many there are in all classes, degrees of freedom."""
    y, group = _ranks(classes), _ranks(groups)
    cells, cell = np.unique(y * len(y) + group, return_inverse=True)
    if len(cells) == y.max() + 1:  # every class has one group
        group, y = group if group.any() else y, np.zeros_like(y)
        cells, cell = np.unique(group, return_inverse=True)
    class_of, group_of = np.divmod(cells, len(y))
    links = (np.ones(len(cells)), (class_of, group_of + y.max() + 1))
    stratum = connected_components(coo_array(links, shape=2 * [links[1][1].max() + 1]))[1]
    stratum = _ranks(stratum[y.max() + 1 :])  # classes and the groups that they share are one
    pictures, share = np.bincount(group), np.bincount(cell) / np.bincount(y)[class_of]
    left, several = np.where(share < 1, 1 - share, np.inf), (share < 1)[cell]
    centre = np.bincount(y, values) / np.bincount(y)
    totals = np.bincount(cell, values - centre[y]) / len(values)
    moved = np.bincount(group_of, totals / left)  # the mean, where a group is left out
    members = np.bincount(stratum)[stratum]
    variance = ((1 - 1 / members) * moved**2).sum()
    known = np.bincount(group, several)
    variance *= (pictures**2).sum() / (known**2).sum() if several.any() else 1
    whole, squares = np.bincount(stratum, pictures), np.bincount(stratum, pictures**2)
    freedom = max((whole**2 / squares - 1).sum(), 1)
    return variance * (variance > _ROUNDING), len(cells), freedom


def _ranks(numbers):
    """From 0 on, with none missing, in the order of the numbers: int array of their shape."""
    return (np.cumsum(np.bincount(numbers) > 0) - 1)[numbers]


def holm(p):
    """Holm's correction of many comparisons: p, float (M,), each as large as all M make it.

    A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p)
    raised = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return raised[np.argsort(order)]


def fit_temperature(scores, y):
    """The temperature T at which ``softmax(scores / T)`` is most likely to be right.

    It minimises the mean cross-entropy (Guo et al., On calibration of modern neural networks, 2017,
    section 4.2) to Platt's targets, (N + 1) / (N + 2) for the right class (Probabilistic outputs
    for support vector machines, 1999, section 2.2): so N right answers are no certainty. Give it
    scores of pictures that the classifier has not learnt from.

    Parameters
    ----------
    scores : float array, shape (N, C)
    y : int array, shape (N,)

    Returns
    -------
    float
        Between exp(-10) and exp(10); 1 if there are no pictures.

    Raises
    ------
    ValueError
        Scores are no numbers.
    """
    if not len(y):
        return 1.0
    scores, target = _numbers(scores).astype(float), (len(y) + 1) / (len(y) + 2)
    right = scores[np.arange(len(y)), y]
    others = (scores.sum(1) - right) / (scores.shape[1] - 1)
    wanted = target * right + (1 - target) * others

    def loss(log_temperature):
        factor = np.exp(-log_temperature)
        return (special.logsumexp(factor * scores, 1) - factor * wanted).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-10, 10), method="bounded").x))


def cross_temperatures(scores, y, folds):
    """For each test picture the temperature that those of the other folds choose: float (M, 1).

    So no picture takes part in the choice of its own: see :func:`fit_temperature`. A single fold
    has no others: 1.

    Parameters
    ----------
    scores : float array, shape (M, C)
        Of the folds' test pictures, one fold after the other.
    y : int array, shape (M,)
        Their classes.
    folds : list of Fold
    """
    number = np.repeat(range(len(folds)), [len(fold.test) for fold in folds])
    found = [fit_temperature(scores[number != n], y[number != n]) for n in range(len(folds))]
    return np.array(found)[number, None]


def calibration(scores, y, bins=15):
    """How far confidence, the likeliest class's probability, is from the share of right answers.

    Parameters
    ----------
    scores : float array, shape (N, C)
        Whose softmax are the probabilities.
    y : int array, shape (N,)
    bins : int
        Of equally many pictures (Nguyen and O'Connor, Posterior calibration and exploratory
        analysis for natural language processing models, 2015, algorithm 1); pictures of the very
        same confidence share one.

    Returns
    -------
    table : DataFrame
        For each bin its mean confidence, accuracy and number of pictures.
    gaps : float array, shape (N,)
        What each picture adds: their mean is the expected calibration error (Guo et al., On
        calibration of modern neural networks, 2017, equation 3), so that :func:`interval` of
        them is its interval, that of bins and signs as they are. Of perfect probabilities it is
        not 0 but what chance leaves in bins of finite size.

    Raises
    ------
    ValueError
        Scores are no numbers.
    """
    scores = _numbers(scores).astype(float)
    right = scores.argmax(1) == y
    confidence = special.softmax(scores, axis=1).max(1)
    place = (stats.rankdata(confidence) - 0.5) * bins // len(y)
    pictures = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(place)
    table = pictures.mean().assign(pictures=pictures.size())
    signs = np.sign(table.accuracy - table.confidence)[place].to_numpy()
    return table.reset_index(drop=True), signs * (right - confidence)


def doubtful_labels(index, rows, probabilities):
    """The pictures by how unlikely their label is, the most doubtful first.

    Parameters
    ----------
    index : DataFrame
    rows : int array, shape (M,)
        Positions of pictures in the index.
    probabilities : float array, shape (M, C)
        Of a classifier that has not learnt from the picture itself, nor from its group: else it
        knows the wrong label by heart (Northcutt et al., Confident learning: estimating
        uncertainty in dataset labels, 2021, section 3).

    Returns
    -------
    DataFrame
        Columns path, label, probability (of the label), taken_for and its probability,
        taken_for_probability.

    Raises
    ------
    ValueError
        Probabilities are no numbers.
    """
    probabilities = _numbers(probabilities)
    best, places = probabilities.argmax(1), np.arange(len(rows))
    table = index.iloc[rows][["path", "label"]].reset_index(drop=True)
    table["probability"] = probabilities[places, targets(index)[rows]]
    table["taken_for"] = np.array(classes(index), dtype=object)[best]
    table["taken_for_probability"] = probabilities[places, best]
    return table.sort_values("probability", kind="stable", ignore_index=True)


def confusions(y, predicted, labels):
    """The most confused pairs of classes.

    Parameters
    ----------
    y, predicted : int arrays, shape (N,)
    labels : list of str, length C

    Returns
    -------
    DataFrame
        Columns true, predicted, share (of the true class's pictures) and pictures, largest
        share first; only wrong answers.
    """
    names = np.asarray(labels, dtype=object)
    table = pd.DataFrame({"true": names[y], "predicted": names[predicted]})
    pairs = table[table.true != table.predicted].value_counts().rename("pictures").reset_index()
    pairs["share"] = pairs.pictures / pairs.true.map(table.true.value_counts())
    pairs = pairs.sort_values(["share", "true", "predicted"], ascending=[False, True, True])
    return pairs[["true", "predicted", "share", "pictures"]].reset_index(drop=True)
