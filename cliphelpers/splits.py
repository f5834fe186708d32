"""How an index is split: what is learnt from, what chooses, what is tested; and few-shot draws."""

import hashlib
import os
import unicodedata
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

_VALIDATION = 0.2  # of the training part, where no clips exist
_TEST = 0.25  # of everything, where there is no official test part


@dataclass(frozen=True, eq=False)
class Fold:
    """Row positions of an index, sorted: what a classifier sees of it.

    Attributes
    ----------
    train, val, test : int arrays
        To learn from, to choose on, to report. ``val`` comes out of the training part and can
        hold some of the classes only.
    fit : int array
        For the last fit after everything is chosen; by default train and val together.
    split, number : str, int
        Which split it is of, and which of its folds.
    shots, seed : int, optional
        Of a few-shot draw: see :func:`few_shot_fold`.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    fit: np.ndarray | None = None
    split: str = ""
    number: int = 0
    shots: int | None = None
    seed: int | None = None

    def __post_init__(self):
        if self.fit is None:
            object.__setattr__(self, "fit", np.sort(np.concatenate([self.train, self.val])))


def test_rows(folds):
    """Positions of the test pictures of all folds, one fold after the other."""
    return np.concatenate([fold.test for fold in folds])


def training_rows(folds):
    """Positions of all pictures that some fold learns from or chooses on, sorted."""
    return np.unique(np.concatenate([part for fold in folds for part in (fold.fit, fold.val)]))


def official(index, seed=0):
    """The split that the folders state: one fold.

    Where there is no validation folder, validation is taken out of training: for every class
    with two clips or more a whole clip, else a stratified fifth.

    Raises
    ------
    ValueError
        The index states no test part.
    """
    if "test" not in set(index.split):
        raise ValueError("There is no official test part: use the split by_group or random")
    train, val, test = (np.flatnonzero(index.split == part) for part in ("train", "val", "test"))
    if not len(val):
        train, val = _validation(index, train, seed)
    return [Fold(train, val, test)]


def by_group(index, seed=0):
    """Whole clips held out: folds in which every clip is tested once.

    There are as many folds as the class with the fewest clips has clips (classes with one clip
    do not count: theirs stays in training). So in every fold every class keeps a clip for
    training. Averages over the test pictures of all folds count each picture once.

    Raises
    ------
    ValueError
        No class has two clips.
    """
    clips = {label: sorted(set(part["group"]) - {""}) for label, part in index.groupby("label")}
    folds = min((len(names) for names in clips.values() if len(names) > 1), default=0)
    if not folds:
        raise ValueError("No class has two clips: use the split official or random")
    held = {  # the classes begin at different folds, so that the folds have about one size
        (label, clip): (position + shift) % folds
        for shift, (label, names) in enumerate(clips.items())
        for position, clip in enumerate(names if len(names) > 1 else [])
    }
    fold_of = np.array([held.get(key, -1) for key in zip(index.label, index["group"], strict=True)])
    everything = np.arange(len(index))
    tests = [np.flatnonzero(fold_of == fold) for fold in range(folds)]
    return [Fold(*_validation(index, np.setdiff1d(everything, test), seed), test) for test in tests]


def random(index, seed=0):
    """A quarter of every class for the test, drawn at random: one fold.

    A class with a single picture keeps it for training.

    Raises
    ------
    ValueError
        No class has two pictures.
    """
    everything = np.arange(len(index))
    rest, test = _take_out(everything, _shares(index, everything, _TEST, seed))
    if not len(test):
        raise ValueError("No class has two pictures, one to learn from and one to test")
    return [Fold(*_validation(index, rest, seed), test)]


SPLITS = {"official": official, "by_group": by_group, "random": random}


def make_splits(index, names, seed=0, folds=None, tested=None):
    """The named splits, as far as the index allows them.

    Parameters
    ----------
    index : DataFrame
    names : list of {"official", "by_group", "random"}
    seed : int
    folds : int, optional
        Only so many folds of each; by default all.
    tested : int, optional
        Only so many test pictures a class of each fold, drawn at random; by default all.

    Returns
    -------
    dict of str to list of Fold
        Never empty: where none of the named splits is possible, ``random`` with a warning.

    Raises
    ------
    ValueError
        An unknown name, or a folder that cannot be split at all.
    """
    made = {}
    for name in names:
        if name not in SPLITS:
            raise ValueError(f"Unknown split {name!r}: use some of {', '.join(SPLITS)}")
        try:
            made[name] = SPLITS[name](index, seed)
        except ValueError as error:
            warnings.warn(f"Without the split {name}. {error}", stacklevel=2)
    for name, parts in (made or {"random": random(index, seed)}).items():
        made[name] = []
        for number, fold in enumerate(parts[:folds]):
            test = fold.test if tested is None else _draw_rows(index, fold.test, tested, seed)
            made[name].append(replace(fold, test=test, split=name, number=number))
    return made


def _validation(index, rows, seed):
    """Split training rows into (train, val): by clip where some class has two, else a fifth."""
    part = index.iloc[rows].reset_index(drop=True)
    val = []
    for label, own in part.groupby("label"):
        clips = sorted(set(own["group"]) - {""}, key=lambda clip: _draw(seed, label, clip))
        if len(clips) > 1:
            val.append(rows[own.index[own["group"] == clips[0]]])
    return _take_out(rows, val or _shares(index, rows, _VALIDATION, seed))


def _take_out(rows, parts):
    """Split rows into (those that are left, those of the parts), sorted."""
    taken = np.sort(np.concatenate(parts))
    return np.setdiff1d(rows, taken), taken


def _shares(index, rows, fraction, seed):
    """Of n rows a class, round(n * fraction), at least one where there are two or more."""
    shares = []
    for members in _ranked(index, rows, seed):
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        shares.append(members[:count])
    return shares


def _ranked(index, rows, seed):
    """For each class its rows in a random order that is the same on every machine."""
    root = index.attrs.get("root", "") + os.sep
    pictures = tuple(index.label.tolist()), tuple(index.path.tolist())
    order = rows[_places(seed, root, *pictures)[rows].argsort()]
    classes = index.iloc[order].groupby("label").indices
    return [order[members] for members in classes.values()]


@lru_cache(maxsize=16)  # an index is drawn from again for every fold and k
def _places(seed, root, labels, paths):
    """The place of each picture in a random order of all: int array, shape (N,)."""
    names = [path.removeprefix(root).replace(os.sep, "/") for path in paths]
    draws = [_draw(seed, *words) for words in zip(labels, names, strict=True)]
    return np.argsort(np.argsort(draws, kind="stable"))


def _draw(seed, *words):
    text = "\0".join([str(seed), *(unicodedata.normalize("NFC", word) for word in words)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def few_shot(index, k, seed=0):
    """Draw k pictures a class.

    The draws are nested (those for k=1 are among those for k=2) and depend on the seed, the
    labels and the paths below the index's root alone, so they are the same on every machine.

    Parameters
    ----------
    index : DataFrame
        Usually the training rows of a fold: ``index.iloc[fold.fit]``.
    k : int
        At least 1.
    seed : int

    Returns
    -------
    rows : ndarray of int, shape (M,)
        Sorted positions in ``index``.
    short : dict of str to int
        The classes with fewer than k pictures and how many they gave.
    """
    sizes = index.label.value_counts().sort_index()
    return _draw_rows(index, np.arange(len(index)), k, seed), sizes[sizes < k].to_dict()


def few_shot_fold(index, fold, k, seed=0, refit=True):
    """Draw k pictures a class of a fold, and min(k, 4) to choose hyper-parameters on.

    The protocol of CoOp (Zhou et al., Learning to prompt for vision-language models, 2022,
    section 4.1) and Tip-Adapter.

    Parameters
    ----------
    index : DataFrame
    fold : Fold
    k : int
        At least 1.
    seed : int
    refit : bool
        Whether ``fit`` is drawn from train and validation together, or is the drawn ``train``.

    Returns
    -------
    Fold
    """
    train = _draw_rows(index, fold.train, k, seed)
    val = _draw_rows(index, fold.val, min(k, 4), seed)
    fit = _draw_rows(index, fold.fit, k, seed) if refit else train
    return replace(fold, train=train, val=val, fit=fit, shots=k, seed=seed)


def _draw_rows(index, rows, k, seed):
    if k < 1:
        raise ValueError(f"k must be at least 1 picture a class, not {k}")
    drawn = [row for members in _ranked(index, rows, seed) for row in members[:k]]
    return np.array(sorted(drawn), dtype=int)
