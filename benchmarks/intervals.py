"""How often does an interval hold the truth, and how wide is it? A simulation of two ways.

    python benchmarks/intervals.py        # writes benchmarks/intervals.csv, about two minutes

Right and wrong answers are drawn for classes of groups of pictures (clips, days, cameras): a
picture's log-odds are those of its class plus those of its group. The truth is the accuracy on the
same classes and new groups. Two intervals of 95 % are put to it:

- ``resampled``: the package's, which draws whole groups with replacement, whatever their class;
- ``within classes``: the variance of the groups within each class (stratified, in closed form)
  and from it the interval of Korn and Graubard, Confidence intervals for proportions with small
  expected number of positive counts estimated from survey data, 1998: Clopper and Pearson's with
  the effective sample size.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.special import expit

from cliphelpers.evaluation import bootstrap

SIZES = [(4, 4, 4), (4, 3, 20), (30, 2, 10), (30, 3, 36), (122, 2, 80)]  # classes, groups, pictures
EFFECTS = [(0, 0.5), (0, 2), (2, 0.5), (2, 2)]  # standard deviations of class and group, log-odds
ACCURACIES = [0.2, 0.7, 0.98]
REPETITIONS = 300


def within_classes(values, classes, groups):
    """Mean of values and its interval: these classes, other groups.

    Parameters
    ----------
    values : array, shape (N,)
        For each picture whether it is told right, or a share of seeds.
    classes, groups : int arrays, shape (N,)
        Groups are numbered across classes.

    Returns
    -------
    mean, low, high : float
        Where no group errs, or all do, each group counts as one picture.
    """
    n, mean = len(values), values.mean()
    centre = np.bincount(classes, values) / np.bincount(classes)
    totals = np.bincount(groups, values - centre[classes]) / n
    class_of = classes[np.unique(groups, return_index=True)[1]]
    members = np.bincount(class_of)
    factor = members / np.maximum(members - 1, 1)
    variance = (np.bincount(class_of, totals**2) * factor).sum()
    size = len(class_of)
    if variance > 0:
        t = stats.t.ppf(0.975, [n - 1, (members - 1).sum()])
        size = min(mean * (1 - mean) / variance * (t[0] / t[1]) ** 2, n)
    right = mean * size
    low = stats.beta.ppf(0.025, right, size - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(0.975, right + 1, size - right) if right < size else 1.0
    return mean, low, high


def cell(classes, groups, pictures, class_effect, group_effect, accuracy, seed=0):
    """How often each interval holds the truth, and its mean width: dict."""
    rng = np.random.default_rng(seed)
    class_of = np.repeat(np.arange(classes), groups * pictures)
    group_of = np.repeat(np.arange(classes * groups), pictures)
    odds, noise = rng.normal(0, class_effect, (classes, 1)), rng.normal(size=20_000)

    def share(level):
        return expit(level + odds + group_effect * noise).mean()

    level = optimize.brentq(lambda level: share(level) - accuracy, -40, 40)
    found = {"resampled": [], "within classes": []}
    for repetition in range(REPETITIONS):
        likely = expit(level + odds + rng.normal(0, group_effect, (classes, groups))).ravel()
        values = (rng.random(len(group_of)) < likely[group_of]).astype(float)
        found["resampled"].append(bootstrap(values, group_of, seed=repetition)[1:])
        found["within classes"].append(within_classes(values, class_of, group_of)[1:])
    result = {}
    for way, intervals in found.items():
        low, high = np.transpose(intervals)
        result[f"{way}, held"] = np.mean((low <= accuracy) & (accuracy <= high))
        result[f"{way}, width"] = np.mean(high - low)
    return result


if __name__ == "__main__":
    rows = []
    for size, effects, accuracy in product(SIZES, EFFECTS, ACCURACIES):
        names = ["classes", "groups", "pictures", "class effect", "group effect", "accuracy"]
        row = dict(zip(names, (*size, *effects, accuracy), strict=True))
        rows.append(row | cell(*size, *effects, accuracy))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4f")
    print(table.filter(like="held").describe().loc[["min", "25%", "50%", "max"]])
