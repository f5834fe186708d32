"""New pictures told by a classifier that a run has saved."""

import os

import pandas as pd

from cliphelpers.features import AT_ONCE
from cliphelpers.images import ImageError, check_images, find_images
from cliphelpers.progress import progress, say_warnings
from cliphelpers.saved import DESCRIBED, load_classifier
from cliphelpers.tables import listed_paths


def predict(folder, places, encoder=None):
    """What pictures are taken for, and how sure that is, as the text of a CSV file.

    Columns are those of :meth:`cliphelpers.saved.SavedClassifier.describe`; a picture that cannot
    be read is a row whose ``note`` says why. Features are kept on disk, so that after an interrupt
    nothing is computed twice.

    Parameters
    ----------
    folder : str or Path
        Of the classifier.
    places : list of str
        Pictures, folders of pictures, and CSV files that list them.
    encoder : str, optional
        See :func:`cliphelpers.saved.load_classifier`.

    Yields
    ------
    str
        The rows of 1,024 pictures each, the first with the names of the columns.

    Raises
    ------
    EncoderError
        The classifier cannot be loaded.
    ValueError
        There are no pictures.
    OSError
        One of the places does not exist.
    """
    say_warnings()
    classifier = load_classifier(folder, encoder)
    paths = [path for place in places for path in _pictures(place)]
    if not paths:
        raise ValueError(f"There are no pictures in {', '.join(places)}")
    for start in progress(range(0, len(paths), AT_ONCE), desc="predict", unit="1024 images"):
        table = _describe(classifier, paths[start : start + AT_ONCE])
        form = {"index": False, "float_format": "%.4f", "lineterminator": "\n"}
        yield table.to_csv(header=start == 0, **form)


def _pictures(place):
    if os.path.isdir(place):
        return find_images(place)
    if not os.path.lexists(place):
        raise FileNotFoundError(f"There is no {place}: give pictures, folders and CSV files")
    return listed_paths(place) if place.lower().endswith((".csv", ".tsv", ".txt")) else [place]


def _describe(classifier, paths):
    try:
        return classifier.describe(paths)
    except ImageError:
        seen = check_images(paths)
        bad = seen[seen.width == 0].rename(columns={"problem": "note"})
        good = [path for path, width in zip(seen.path, seen.width, strict=True) if width]
        told = [classifier.describe(good)] if good else []
        every = pd.concat([*told, bad[["path", "note"]]]).drop_duplicates("path").set_index("path")
        return every.loc[paths].reset_index().reindex(columns=DESCRIBED)
