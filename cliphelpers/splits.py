"""How an index is split: what is learnt from, what chooses, what is tested; and few-shot draws."""

import hashlib
import os
import unicodedata
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from pandas.api.types import is_string_dtype

from cliphelpers.images import tell
from cliphelpers.index import shares_groups
from cliphelpers.looks import looks

_VALIDATION = 0.2  # of the training part of a random split
_QUARTERS = 4
_MOST = 10  # folds by group, where each picture may be a group by itself


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

    Where there is no validation folder, validation is taken out of training: of every class a
    whole group, where it has two, else a whole look.

    Raises
    ------
    ValueError
        The index states no test part.
    """
    if "test" not in set(index.split):
        raise ValueError("There is no official test part")
    train, val, test = (np.flatnonzero(index.split == part) for part in ("train", "val", "test"))
    if not len(val):
        train, val = _validation(index, seed, train)
    return [Fold(train, val, test)]


def by_group(index, seed=0):
    """Whole groups held out: folds in which every group is tested once.

    There are as many folds as the class with the fewest groups has groups (classes with one group
    do not count: theirs stays in training), but no more than 10. So in every fold every class keeps
    a group for training. Averages over the test pictures of all folds count each picture once.
    Validation is as in :func:`official`. Groups that several classes share, such as days in a
    manifest, are held out as a whole by scikit-learn's StratifiedGroupKFold; a class whose groups
    all fall into one fold stays in training.

    Raises
    ------
    ValueError
        No class has two groups.

    Warns
    -----
    UserWarning
        Classes share groups: that of a class with a single one is learnt from, though other classes
        may be tested on it.
    """
    named = index["group"].replace("", None)
    sizes = named.groupby(index.label).nunique()
    if not (sizes > 1).any():
        raise ValueError("No class has two named groups")
    groups, folds = pd.factorize(named, sort=True)[0], min(sizes[sizes > 1].min(), _MOST)
    if shares_groups(index):
        from sklearn.model_selection import StratifiedGroupKFold  # here, since few need it

        words = "Classes share groups: these are held out as a whole, but for classes with a single"
        words += " one, which is learnt from"
        warnings.warn(words, stacklevel=3)
        several = np.flatnonzero((groups >= 0) & (index.label.map(sizes) > 1))
        known = several, index.label.iloc[several], groups[several]
        groups, folds = np.full(len(index), -1), StratifiedGroupKFold(int(folds))
        for number, (_, test) in enumerate(folds.split(*known)):
            groups[several[test]] = number
        folds = None
    return _in_turn(index, groups, folds, partial(_validation, index, seed))


def by_look(index, seed=0, count=5):
    """Whole looks held out: folds in which the pictures of a class that look alike go together.

    A cluster-based cross-validation (Spezia et al. 2025, arXiv 2507.22299) for pictures whose
    groups nobody has named. ``random`` is too kind; this comes nearer, now too strict, now too
    kind: ``benchmarks/looks.py`` sets both beside the truth of three data sets. Each look is
    tested once; a class with one look stays in training.

    Parameters
    ----------
    index : DataFrame
    seed : int
        Of the choice of validation looks only.
    count : int
        Looks a class, and folds: see :func:`cliphelpers.looks.looks`.

    Raises
    ------
    ValueError
        No class has two looks.
    """
    found = looks(index, count)
    if not found.any():
        raise ValueError("No class has two pictures that differ, one to learn from and one to test")
    return _in_turn(index, found, count, partial(_validation, index, seed, found=found))


def random(index, seed=0):
    """A quarter of every class for the test in turn, drawn at random: four folds.

    Each picture is tested once; that of a class with a single one stays in training. Validation
    is a fifth of what is left.

    Raises
    ------
    ValueError
        No class has two pictures.
    """
    place = _place(index, np.arange(len(index)), seed)
    if not place.any():
        raise ValueError("No class has two pictures, one to learn from and one to test")
    return _in_turn(index, place, _QUARTERS, partial(_fifth, index, seed))


SPLITS = {"official": official, "by_group": by_group, "by_look": by_look, "random": random}
_STAND_INS = {"official": "random", "by_group": "by_look"}


def make_splits(index, names, seed=0, folds=None, tested=None):
    """The named splits, as far as the index allows them.

    Parameters
    ----------
    index : DataFrame
    names : list of {"official", "by_group", "by_look", "random"}
    seed : int
    folds : int, optional
        Only so many folds of each; by default all.
    tested : int, optional
        Only so many test pictures a class of each fold, drawn at random; by default all.

    Returns
    -------
    dict of str to list of Fold
        With a warning ``random`` instead of ``official`` where no test part is stated, and
        ``by_look`` instead of ``by_group`` where no groups are named; and one of pictures that are
        never tested.

    Raises
    ------
    ValueError
        An unknown name, or a folder that cannot be split at all.
    TypeError
        The index lacks a column, or one has other values than str.
    """
    for column in ("path", "label", "split", "group"):
        cells = index.get(column, pd.Series([None]))
        if not is_string_dtype(cells) or cells.dtype == "category" or cells.isna().any():
            raise TypeError(f'The index needs a column {column} of nothing but str, "" for unknown')
    made = {}
    for name in names:
        if name not in SPLITS:
            raise ValueError(f"Unknown split {name!r}: use some of {', '.join(SPLITS)}")
        try:
            parts = SPLITS[name](index, seed)
        except ValueError as error:
            if name not in _STAND_INS:
                raise
            missing, name = name, _STAND_INS[name]
            parts = SPLITS[name](index, seed)
            warnings.warn(f"{error}: instead of {missing} the split is {name}", stacklevel=2)
        left = index.path.drop(index.index[test_rows(parts)]) if name != "official" else []
        words = "of no named group or the only part of their class"
        tell(f"Pictures that the split {name} never tests, {words}", left)
        made[name] = []
        for number, fold in enumerate(parts[:folds]):
            test = fold.test if tested is None else few_shot(index, tested, seed, fold.test)
            made[name].append(replace(fold, test=test, split=name, number=number))
    return made


def _in_turn(index, parts, folds, validation):
    """Folds that test each class's parts, int (N,), in turn; -1 and a class's only part never.

    The classes begin at different folds, so that the folds have about one size; without a number
    of ``folds`` the parts are the folds. ``validation`` splits the other rows into (train, val).
    """
    turn, everything = np.full(len(index), -1), np.arange(len(index))
    for first, members in enumerate(index.groupby("label").indices.values()):
        members = members[parts[members] >= 0]
        names, place = np.unique(parts[members], return_inverse=True)
        if len(names) > 1:
            turn[members] = (place + first) % folds if folds else parts[members]
    made = []
    for number in np.unique(turn[turn >= 0]):
        test, rest = np.flatnonzero(turn == number), everything[turn != number]
        made.append(Fold(*validation(rest), test))
    return made


def _fifth(index, seed, rows):
    """Split training rows into (train, val): of each class a fifth, drawn at random."""
    labels = index.label.iloc[rows]
    size = labels.groupby(labels).transform("size").to_numpy()
    val = _place(index, rows, seed) < np.maximum(np.round(size * _VALIDATION), size > 1)
    return rows[~val], rows[val]


def _validation(index, seed, rows, found=None):
    """Split training rows into (train, val): of each class a group, else a look.

    Without looks ``found`` of the whole index they are those of the training rows, so that the
    pictures of the test choose nothing.
    """
    found = looks(index.iloc[rows]) if found is None else found[rows]
    groups, val = index["group"].to_numpy(str), np.zeros(len(rows), bool)
    shared = shares_groups(index)
    for label, members in index.iloc[rows].groupby("label").indices.items():
        own, where = rows[members], "" if shared else label  # so that classes draw the same
        for names in (groups[own], found[members].astype(str)):
            several = sorted(set(names) - {""}, key=lambda name: _draw(seed, where, name))
            if len(several) > 1:
                val[members] = names == several[0]
                break
    return rows[~val], rows[val]


def _place(index, rows, seed):
    """Of each row, from 0 on, among those of its class: random, the same on every machine."""
    root = index.attrs.get("root", "") + os.sep
    pictures = tuple(index.label.tolist()), tuple(index.path.tolist())
    places = pd.Series(_places(seed, root, *pictures)[rows])
    return places.groupby(index.label.to_numpy()[rows]).rank().to_numpy(int) - 1


@lru_cache(maxsize=16)  # an index is drawn from again for every fold and k
def _places(seed, root, labels, paths):
    """The place of each picture in a random order of all: int array, shape (N,)."""
    names = [path.removeprefix(root).replace(os.sep, "/") for path in paths]
    draws = [_draw(seed, *words) for words in zip(labels, names, strict=True)]
    return np.argsort(np.argsort(draws, kind="stable"))


def _draw(seed, *words):
    text = "\0".join([str(seed), *(unicodedata.normalize("NFC", word) for word in words)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def few_shot(index, k, seed=0, rows=None):
    """Draw k pictures a class, or as many as it has.

    The draws are nested (those for k=1 are among those for k=2) and depend on the seed, the
    labels and the paths below the index's root alone, so they are the same on every machine.

    Parameters
    ----------
    index : DataFrame
    k : int
        At least 1.
    seed : int
    rows : int array, optional
        The positions to draw from, such as a fold's ``fit``; by default all.

    Returns
    -------
    ndarray of int, shape (M,)
        Sorted positions in ``index``.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1 picture a class, not {k}")
    rows = np.arange(len(index)) if rows is None else np.sort(rows)
    return rows[_place(index, rows, seed) < k]


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
        With k as its ``shots``, or None where no class has more pictures in the whole index.
    """
    train = few_shot(index, k, seed, fold.train)
    val = few_shot(index, min(k, 4), seed, fold.val)
    fit = few_shot(index, k, seed, fold.fit) if refit else train
    whole = k >= index.label.value_counts().max()  # the same for all folds
    return replace(fold, train=train, val=val, fit=fit, shots=None if whole else k, seed=seed)
