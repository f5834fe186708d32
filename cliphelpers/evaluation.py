"""Accuracies with intervals, and the tidy rows that every experiment writes."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.data import clip_of

RESAMPLES = 2000
LEVEL = 0.95
COLUMNS = [
    "experiment", "dataset", "split", "encoder", "features", "method", "shots", "seed",
    "metric", "value", "low", "high", "n",
]  # fmt: skip


def top_k(scores, y, k=1):
    """Whether the right class is among the k best: bool array, shape (N,).

    ``scores`` is (N, C), ``y`` is (N,). With fewer than k classes it always is.
    """
    if k >= scores.shape[1]:
        return np.ones(len(y), bool)
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k > 1 else scores.argmax(1)[:, None]
    return (best == y[:, None]).any(1)


def by_name(scores, y, names):
    """Whether the best class has the name of the right one: bool array, shape (N,)."""
    names = np.asarray(names)
    return names[scores.argmax(1)] == names[y]


def bootstrap(values, clips, resamples=RESAMPLES, seed=0):
    """Mean and its 95 % interval, resampling whole clips.

    Frames of one clip are alike, so clips are what is drawn with replacement (a cluster
    bootstrap with percentiles; Davison and Hinkley, Bootstrap methods and their application,
    1997, sections 3.8 and 5.3). For the difference of two encoders, give the difference of
    their values picture by picture: the interval is then a paired one.

    Parameters
    ----------
    values : array, shape (N,)
        For each picture 0 or 1 (wrong, right), or a difference of such.
    clips : array of str or int, shape (N,)
        What belongs together: see :func:`cliphelpers.data.clip_of`.

    Returns
    -------
    mean, low, high : float
    """
    values = np.asarray(values, dtype=float)
    _, number = np.unique(np.asarray(clips), return_inverse=True)
    sizes = np.bincount(number)
    sums = np.bincount(number, weights=values)
    # Clips of the same size and sum are interchangeable: draw how often each kind comes.
    kinds, counts = np.unique(np.stack([sums, sizes], 1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sizes), counts / len(sizes), size=resamples)
    means = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


class Results:
    """The tidy rows of one experiment.

    Parameters
    ----------
    experiment : str
        The notebook's name.
    index : DataFrame
        Its pictures; the name of the data set and the clips are taken from it.
    """

    def __init__(self, experiment, index):
        self.experiment, self.dataset = experiment, index.attrs["name"]
        self.clips = np.unique(clip_of(index), return_inverse=True)[1]  # numbers sort faster
        self.rows = []

    def add(self, metric, values, rows, **where):
        """Add the mean of values with its interval.

        Parameters
        ----------
        metric : str
        values : array, shape (M,)
            For each tested picture, as in :func:`bootstrap`.
        rows : int array, shape (M,)
            Positions of these pictures in the index.
        **where
            Any of split, encoder, features, method, shots, seed.

        Returns
        -------
        mean, low, high : float
        """
        if unknown := set(where) - set(COLUMNS):
            raise TypeError(f"No column {unknown.pop()!r} in results: use some of {COLUMNS}")
        mean, low, high = bootstrap(values, self.clips[rows])
        self.rows.append(
            {"experiment": self.experiment, "dataset": self.dataset, "metric": metric, **where}
            | {"value": mean, "low": low, "high": high, "n": len(values)}
        )
        return mean, low, high

    def table(self, **where):
        """The rows as a DataFrame, those that match ``where``."""
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        table = table.astype({"shots": "Int64", "seed": "Int64"})
        for column, value in where.items():
            table = table[table[column] == value]
        return table.reset_index(drop=True)

    def save(self, output):
        """Write ``<output>/results/<experiment>.csv`` and return its path."""
        path = Path(output) / "results" / f"{self.experiment}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.table().to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
        return path


def paired_differences(results, right, rows, **where):
    """Add the difference of each two encoders, picture by picture, to the results.

    Parameters
    ----------
    results : Results
    right : dict of str to bool array, shape (M,)
        For each encoder whether it was right.
    rows : int array, shape (M,)
        Positions of the pictures in the index.
    **where
        As in :meth:`Results.add`.
    """
    for first, second in combinations(right, 2):
        difference = right[first].astype(float) - right[second]
        name = f"{first} − {second}"
        results.add("top-1 difference", difference, rows, encoder=name, **where)


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
    table = pd.DataFrame({"true": y, "predicted": predicted})
    sizes = table.groupby("true").size()
    wrong = table[table.true != table.predicted]
    pairs = wrong.groupby(["true", "predicted"]).size().rename("pictures").reset_index()
    pairs["share"] = pairs.pictures / pairs.true.map(sizes)
    pairs = pairs.sort_values(["share", "true", "predicted"], ascending=[False, True, True])
    names = np.asarray(labels, dtype=object)
    pairs["true"], pairs["predicted"] = names[pairs.true], names[pairs.predicted]
    return pairs[["true", "predicted", "share", "pictures"]].reset_index(drop=True)


def per_class(correct, y, labels):
    """Accuracy of each class: Series of label to accuracy, worst first."""
    accuracy = pd.Series(np.asarray(correct, float)).groupby(np.asarray(labels)[y]).mean()
    return accuracy.sort_values(kind="stable")
