"""How often does an interval hold the truth, and how wide is it? A simulation.

    python benchmarks/intervals.py        # writes benchmarks/intervals.csv, about ten minutes

Right and wrong answers are drawn for classes of groups of pictures (clips, days, cameras): a
picture's log-odds are those of its class plus those of its group. Where groups are ``uneven``, as
looks are, each is half as large as the one before, and ``pictures`` is their mean. Where they are
``shared``, as days are, one group goes across all classes. Intervals of 95 % are put to three
truths on the same classes and new groups:

- ``accuracy``: of one encoder;
- ``difference``: of two encoders on the same pictures, whose group effects correlate by a half;
- ``mean of seeds``: of five draws of training pictures, each with an effect of its own;

and one to ``other classes``: the accuracy where the classes are new, too. ``interval`` is the
package's, :func:`cliphelpers.evaluation.interval`; ``resampled`` is what it replaced, a bootstrap
over whole groups, whatever their class (of several seeds the means of the low and high ends).
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.special import expit

from cliphelpers.evaluation import interval

SIZES = [  # classes, groups, pictures, uneven, shared
    (4, 4, 4, 0, 0), (4, 3, 20, 0, 0), (30, 2, 10, 0, 0), (30, 3, 36, 0, 0), (122, 2, 80, 0, 0),
    (5, 5, 10, 1, 0), (30, 5, 10, 1, 0), (4, 8, 10, 0, 1), (30, 5, 10, 0, 1), (30, 8, 10, 1, 1),
]  # fmt: skip
EFFECTS = [(0, 0.5), (0, 2), (2, 0.5), (2, 2)]  # standard deviations of class and group, log-odds
ACCURACIES = [0.2, 0.7, 0.98]
SEEDS, SEED_EFFECT = 5, 0.3
REPETITIONS, RESAMPLES = 300, 1000


def resampled(values, groups, seed):
    """Low and high end of the mean of values, if whole groups are drawn with replacement."""
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    drawn = np.random.default_rng(seed).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES
    )
    return np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])


def cell(classes, groups, pictures, uneven, shared, class_effect, group_effect, accuracy, seed=0):
    """How often each interval holds its truth, and its mean width: dict."""
    rng = np.random.default_rng(seed)
    shares = 0.5 ** (uneven * np.arange(groups))
    sizes = np.tile(np.ceil(groups * pictures * shares / shares.sum()).astype(int), classes)
    group_of = np.repeat(np.arange(classes * groups), sizes)
    class_of, told = group_of // groups, group_of % groups if shared else group_of
    noise = stats.norm.ppf((np.arange(400) + 0.5) / 400)  # in place of its integral

    def share(level, odds, *effects):
        return expit(level + odds + np.hypot.reduce([*effects, group_effect]) * noise).mean()

    def answers(likely):
        return rng.random(len(group_of)) < likely.ravel()[group_of]

    def solve(odds, *effects):
        return optimize.brentq(lambda level: share(level, odds, *effects) - accuracy, -40, 40)

    everywhere = solve(0, class_effect)  # the level of an accuracy over all classes
    found = {}
    for repetition in range(REPETITIONS):
        odds = rng.normal(0, class_effect, (classes, 1))
        level = solve(odds)
        group, other = rng.normal(0, group_effect, (2, 1 if shared else classes, groups))
        values = answers(expit(level + odds + group))
        rival = answers(expit(level + 0.5 + odds + 0.5 * group + 0.75**0.5 * other))
        drawn = [
            answers(expit(level + odds + group + effect))
            for effect in rng.normal(0, SEED_EFFECT, SEEDS)
        ]
        elsewhere = answers(expit(everywhere + odds + group))
        truths = {
            "accuracy": accuracy,
            "difference": share(level + 0.5, odds) - accuracy,
            "mean of seeds": share(level, odds, SEED_EFFECT),
            "other classes": accuracy,
        }
        intervals = {
            ("accuracy", "interval"): interval(values, class_of, told),
            ("accuracy", "resampled"): (0, *resampled(values, told, repetition)),
            ("difference", "interval"): interval(rival - values.astype(int), class_of, told),
            ("difference", "resampled"): (
                0, *resampled(rival - values.astype(int), told, repetition)
            ),
            ("mean of seeds", "interval"): interval(np.stack(drawn), class_of, told),
            ("mean of seeds", "resampled"): (
                0, *np.mean([resampled(one, told, repetition) for one in drawn], axis=0)
            ),
            ("other classes", "interval"): interval(
                elsewhere, 0 * class_of, class_of, crossed=told
            ),
            ("other classes", "resampled"): (0, *resampled(elsewhere, told, repetition)),
        }  # fmt: skip
        for (target, way), (_, low, high, *_) in intervals.items():
            held, widths = found.setdefault((target, way), ([], []))
            held.append(low <= truths[target] <= high)
            widths.append(high - low)
    return {key: (np.mean(held), np.mean(widths)) for key, (held, widths) in found.items()}


def table():
    """A row for each cell of the grid, target and way: DataFrame."""
    names = ["classes", "groups", "pictures", "uneven", "shared"]
    names += ["class effect", "group effect", "accuracy"]
    rows = []
    for size, effects, accuracy in product(SIZES, EFFECTS, ACCURACIES):
        at = dict(zip(names, (*size, *effects, accuracy), strict=True))
        for (target, way), (held, width) in cell(*at.values()).items():
            rows.append(at | {"target": target, "way": way, "held": held, "width": width})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    made = table()
    made.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4f")
    print(made.groupby(["target", "way"]).held.describe()[["min", "25%", "50%", "max"]])
