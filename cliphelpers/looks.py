"""What looks alike: groups of pictures where nobody has named any."""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from cliphelpers.cache import kept, key_of
from cliphelpers.encoders.encoder import normalize, raw_pixels
from cliphelpers.features import extract_features
from cliphelpers.index import shares_groups

_MOST = 5000  # pictures of a class that are compared pair by pair: 100 MB


def looks(index, count=5):
    """Number the looks of each class, clusters of pictures that resemble each other.

    Within each class pictures are clustered by 10x10 raw pixels less the mean of all pictures,
    with average linkage on the cosine distance; this is no encoder's view, so none is favoured.
    Of a class of more than 5,000 pictures so many, evenly spaced, are clustered, and the others
    join the cluster whose mean direction is nearest.

    Parameters
    ----------
    index : DataFrame
    count : int
        Looks a class, or as many as it has pictures. Five come nearest to named groups, on
        fruits-mini and Fruits-360: see ``benchmarks/looks.py``.

    Returns
    -------
    int array, shape (N,)
        From 0, the look with the most different pictures, on. The same pictures share one.
    """
    pixels = extract_features(raw_pixels(10), index)

    def compute():
        directions, found = pixels - pixels.mean(0), np.zeros(len(index), int)
        for members in index.groupby("label").indices.values():
            different, same = np.unique(directions[members], axis=0, return_inverse=True)
            found[members] = _clusters(different, count)[same.ravel()]
        return {"found": found}

    return kept("looks", (key_of(pixels), index.label.tolist(), count), compute)["found"]


def _clusters(directions, count):
    some = np.unique(np.linspace(0, len(directions) - 1, _MOST).astype(int))
    if len(some) == 1:
        return np.zeros(len(directions), int)
    distances = np.nan_to_num(pdist(directions[some], "cosine"), nan=1)  # of the mean itself
    found = fcluster(linkage(distances, "average"), min(count, len(some)), "maxclust")
    _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
    found = np.argsort(np.argsort(-sizes, kind="stable"))[found]
    X, onehot = normalize(directions), np.eye(len(sizes), dtype=np.float32)[found]
    nearest = (X @ normalize(onehot.T @ X[some]).T).argmax(1)
    nearest[some] = found
    return nearest


def group_of(index):
    """What varies together: str (N,). "label/group", or "/group" of those that classes share, and
    "label/look" where no group is named."""
    found, whose = index["group"].astype(str).to_numpy(object, copy=True), index.label.copy()
    if (unnamed := found == "").any():
        found[unnamed] = [f"look {number}" for number in looks(index)[unnamed]]
    if shares_groups(index):
        whose[~unnamed] = ""
    return (whose + "/").to_numpy(object) + found
