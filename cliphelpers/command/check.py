"""What is understood of a folder of pictures, and what is wrong with it."""

import math

import numpy as np
import pandas as pd

from cliphelpers.encoders.encoder import normalize, raw_pixels
from cliphelpers.features import extract_features
from cliphelpers.images import check_images
from cliphelpers.index import index_images
from cliphelpers.progress import say_warnings
from cliphelpers.splits import make_splits

_NEAR = 0.999  # cosine of copies, as measured: see near_copies
_BLOCK = 256  # pictures compared at once: 100 MB for 10^5 others


def check(data, say=print):
    """Say what a run makes of a folder or manifest, and what is wrong with its pictures.

    Parameters
    ----------
    data : str or Path
    say : function
        Takes texts of one line or several: by default they are printed.

    Returns
    -------
    int
        How many pictures have a problem: see :func:`cliphelpers.images.check_images`.

    Raises
    ------
    ValueError, OSError
        There are no pictures, or they cannot be understood or split. What was found until then is
        said.
    """
    say_warnings()
    index = index_images(data)
    whole = index.assign(**check_images(index.path))
    wrong, index = whole[whole.problem != ""], whole[whole.width > 0].reset_index(drop=True)
    for row in wrong.itertuples():
        say(f"{row.path}: {row.problem}")
    todo = ": remove or replace them" if len(wrong) else ""
    say(f"{len(whole)} pictures, {len(wrong)} with problems{todo}")
    if len(index):
        _show_classes(index, say)
        _show_copies(index, say)
        _show_splits(index, say)
    return len(wrong)


def _show_classes(index, say):
    parts, every = index.split.replace("", "not stated"), f"all {index.label.nunique()} classes"
    table = pd.crosstab(index.label, parts, margins=True, margins_name=every)
    table = table.rename(columns={every: "pictures"}).rename_axis(index=None, columns=None)
    say(table.to_string(max_rows=24))
    named = index[index["group"] != ""]
    unit = ["group"] if index.attrs.get("shared") else ["label", "group"]
    parts = named.groupby(unit).split.nunique()
    found = f"{len(parts)} groups of {len(named)} pictures are named"
    found += f", {sum(parts > 1)} of them in several parts" if any(parts > 1) else ""
    say(found if len(parts) else "No groups are named: looks are found")
    sizes = sorted(zip(index.width, index.height, strict=True), key=math.prod)
    three = ["{}x{}".format(*sizes[place]) for place in (0, len(sizes) // 2, -1)]
    say("Sizes: smallest {}, median {}, largest {}".format(*three))


def _show_copies(index, say):
    tested = (index.split == "test").to_numpy()
    pairs = near_copies(extract_features(raw_pixels(10), index), tested)
    which, whose = ("test ", "training pictures") if tested.any() else ("", "others")
    say(f"{len(pairs)} {which}pictures are near copies of {whose}{', such as' if pairs else ''}")
    for one, other, _ in pairs[:5]:
        say(f"  {index.path[one]} and {index.path[other]}")


def _show_splits(index, say):
    folds = sum(make_splits(index, ["official", "by_group"]).values(), [])
    rows = [(one.split, one.number, *map(len, (one.train, one.val, one.test))) for one in folds]
    columns = ["split", "fold", "training", "validation", "test"]
    say(pd.DataFrame(rows, columns=columns).to_string(index=False))


def near_copies(looks, tested):
    """Pictures that look like another one, the most alike first.

    Compared are the small pictures, each less its mean and of length 1. Measured on 300 pictures
    each of fruits-mini, Fruits-360 and the grocery photographs: copies of half the size (JPEG
    quality 75), of twice the size, of JPEG quality 30 and of WebP quality 50 all have a cosine of
    0.999 or more. Of the 5,125 grocery photographs one pair has, too (the same potatoes), and no
    two pictures of different classes have more than 0.993 in any of the three data sets. Frames of
    a video clip can be near copies, and cropped or turned copies are not found.

    Parameters
    ----------
    looks : float32 array, shape (N, D)
        Of :func:`cliphelpers.encoders.encoder.raw_pixels`, 10x10.
    tested : bool array, shape (N,)
        These are compared with the others; if there are none, each picture with those before it.

    Returns
    -------
    list of tuple (row, other, cosine)
        For each picture that has near copies the nearest one.
    """
    looks = normalize(looks - looks.mean(1, keepdims=True))
    rows, others = np.flatnonzero(tested), np.flatnonzero(~tested)
    alone, learnt, pairs = not len(rows), looks[others], []
    rows = others if alone else rows
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        cosines = looks[some] @ learnt[: start + len(some) if alone else None].T
        if alone:  # the last square is of the block with itself
            cosines[:, start:] = np.tril(cosines[:, start:], -1)
        pairs += zip(some, others[cosines.argmax(1)], cosines.max(1), strict=True)
    return sorted([pair for pair in pairs if pair[2] >= _NEAR], key=lambda pair: -pair[2])
