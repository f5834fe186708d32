"""Right or wrong, how sure that is, and what is taken for what."""

import numpy as np
import pandas as pd

RESAMPLES = 2000
LEVEL = 0.95


def top_k(scores, y, k=1):
    """Whether the right class is among the k best: bool array, shape (N,).

    ``scores`` is (N, C), ``y`` is (N,). With fewer than k classes it always is.
    """
    if k >= scores.shape[1]:
        return np.ones(len(y), bool)
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k > 1 else scores.argmax(1)[:, None]
    return (best == y[:, None]).any(1)


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
        What belongs together: see :func:`cliphelpers.index.group_of`.

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
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values.mean()), float(low), float(high)


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
    pairs = table[table.true != table.predicted].value_counts().rename("pictures").reset_index()
    pairs["share"] = pairs.pictures / pairs.true.map(table.true.value_counts())
    pairs = pairs.sort_values(["share", "true", "predicted"], ascending=[False, True, True])
    names = np.asarray(labels, dtype=object)
    pairs["true"], pairs["predicted"] = names[pairs.true], names[pairs.predicted]
    return pairs[["true", "predicted", "share", "pictures"]].reset_index(drop=True)
