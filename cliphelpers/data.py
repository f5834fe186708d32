"""From a folder of pictures to an index, its splits and its few-shot subsets.

An index is a DataFrame with the columns ``path``, ``label``, ``split`` and ``clip``. ``split``
is "train", "val", "test" or "" (not stated); ``clip`` names the video clip a picture is a frame
of, or is "" where pictures are independent.
"""

import hashlib
import os
import re
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.images import digests, find_images

COLUMNS = ["path", "label", "split", "clip"]
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
CLIP_NAME = re.compile(r"(?:(r\d*)_)?\d+_100\.jpe?g", re.IGNORECASE)
VALIDATION = 0.2  # of the training part, where no clips exist
TEST = 0.25  # of everything, where there is no official test part


# ------------------------------------------------------------------------------- the index


def index_images(root):
    """List the pictures of a folder or of a CSV manifest.

    Understood are: Fruits-360's layout (Training/ and Test/ with class folders, the clip in the
    prefix of the file name), train/, val/ and test/ folders of class folders, plain class
    folders, and a CSV file with the columns ``path`` (relative to the CSV), ``label`` and, if
    known, ``split`` and ``clip``. Pictures in sub-folders of a class folder belong to the class.
    Hidden files and files that are no pictures are ignored.

    Parameters
    ----------
    root : str or Path

    Returns
    -------
    pandas.DataFrame
        Columns path, label, split, clip (all str), sorted by label and path, never by the order
        of the file system; ``attrs`` holds ``root`` and ``name``.

    Raises
    ------
    FileNotFoundError
        There is no such folder or file.
    ValueError
        No pictures, a class without training pictures, or a faulty manifest.
    """
    root = Path(root)
    if root.is_file():
        index = _from_manifest(root)
    elif root.is_dir():
        index = _from_folders(root)
    else:
        raise FileNotFoundError(f"There is no folder or CSV file {root}")
    untrained = sorted(set(index.label) - set(index.label[index.split == "train"]))
    if untrained and (index.split != "").any():
        raise ValueError(f"The class {untrained[0]!r} of {root} has no training pictures")
    index = index.sort_values(["label", "path"], ignore_index=True)
    place = root.resolve()
    name = place.stem if root.is_file() else place.name
    index.attrs = {"root": str(root.parent if root.is_file() else root), "name": name}
    return index


def _from_folders(root):
    children = _folders(root)
    parts = {child.name: SPLIT_FOLDERS.get(child.name.lower(), "") for child in children}
    if "train" in parts.values():
        if others := sorted(name for name, split in parts.items() if not split):
            warnings.warn(f"Left out, being no split of {root}: {', '.join(others)}", stacklevel=3)
        sources = [(child, parts[child.name]) for child in children if parts[child.name]]
    elif "test" in parts.values():
        raise ValueError(f"{root} has a test folder but no train folder beside it")
    else:
        sources = [(root, "")]
    rows = [
        (path, unicodedata.normalize("NFC", folder.name), split)
        for source, split in sources
        for folder in _folders(source)
        for path in _pictures(folder)
    ]
    if not rows:
        raise ValueError(
            f"No pictures in {root}: expected a folder for each class, "
            "or train/ and test/ folders that hold such folders"
        )
    index = pd.DataFrame(rows, columns=COLUMNS[:3], dtype=str)
    return index.assign(clip=_clips(index.path))


def _folders(folder):
    paths = [Path(e.path) for e in _scan(folder) if not e.name.startswith(".")]
    folders = [path for path in paths if os.path.isdir(path)]
    for path in folders:
        if Path(folder).resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{path} is a link to a folder that it lies in: remove it")
    return folders


def _scan(folder):
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _pictures(folder):
    found = find_images(folder)
    if not found:
        warnings.warn(f"The class folder {folder} is empty and is left out", stacklevel=5)
    return found


def _clips(paths):
    """Fruits-360's clips: "12_100.jpg" is of clip r0, "r_12_100.jpg" of r1, "r2_…" of r2."""
    matches = [CLIP_NAME.fullmatch(os.path.basename(path)) for path in paths]
    if not all(matches):
        if sum(map(bool, matches)) > len(matches) / 2:
            odd = next(path for path, match in zip(paths, matches, strict=True) if not match)
            warnings.warn(f"No clips: {odd} is not named <clip>_<frame>_100.jpg", stacklevel=4)
        return ""
    return [{None: "r0", "r": "r1"}.get(match[1], match[1]) for match in matches]


def _from_manifest(file):
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' errors and wrong encodings are among them
        raise ValueError(f"{file} is no CSV table in UTF-8: {error}") from error
    if missing := {"path", "label"} - set(table.columns):
        raise ValueError(f"The manifest {file} has no column {' and '.join(sorted(missing))}")
    if unknown := set(table.columns) - set(COLUMNS):
        raise ValueError(
            f"The manifest {file} has unknown columns {sorted(unknown)}: use {COLUMNS}"
        )
    table = table.reindex(columns=COLUMNS, fill_value="")
    if table.empty:
        raise ValueError(f"The manifest {file} lists no pictures")
    for column in ("path", "label"):
        if (table[column] == "").any():
            line = int(np.flatnonzero(table[column] == "")[0]) + 2
            raise ValueError(f"Line {line} of the manifest {file} has no {column}")
    if wrong := sorted(set(table.split) - {"", "train", "val", "test"}):
        raise ValueError(f"The manifest {file} has the split {wrong[0]!r}: use train, val or test")
    if table.path.duplicated().any():
        again = table.path[table.path.duplicated()].iloc[0]
        raise ValueError(f"The manifest {file} lists {again} more than once")
    table["label"] = table.label.str.normalize("NFC")
    table["path"] = [str(file.parent / path) for path in table.path]
    if gone := [path for path in table.path if not os.path.isfile(path)]:
        raise FileNotFoundError(f"{len(gone)} pictures of {file} do not exist, first {gone[0]}")
    return table


def classes(index):
    """The class names of an index, sorted: list of str, length C."""
    return sorted(set(index.label))


def targets(index):
    """Class numbers, the positions in :func:`classes`: int64 array, shape (N,).

    Raises
    ------
    ValueError
        There is one class only.
    """
    names = classes(index)
    if len(names) < 2:
        raise ValueError(f"All pictures are of one class, {names[0]!r}: there must be two to tell")
    return np.searchsorted(names, np.asarray(index.label, dtype=str)).astype(np.int64)


def clip_of(index):
    """What varies together, for bootstraps: "label/clip", or the path where no clips exist."""
    return np.where(index["clip"] == "", index.path, index.label + "/" + index["clip"])


def summary(index):
    """Counts of an index: DataFrame with a row for each stated split and one for all.

    The last column counts leakage: pictures that are, byte by byte, also in the training part
    (all that is not stated to be test) under another path. Where there are any, a warning says so.
    """
    copied = _copied(index)
    groups = [(split or "not stated", part) for split, part in index.groupby("split")]
    rows = {
        name: [
            len(part),
            part.label.nunique(),
            len(set(clip_of(part))),
            part.label.value_counts().min(),
            copied[part.index].sum(),
        ]
        for name, part in [*groups, ("all", index)]
    }
    columns = ["pictures", "classes", "clips", "pictures of the smallest class"]
    columns += ["copies of training pictures"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _copied(index):
    """Whether a picture is also in the training part under another path: bool Series."""
    content, learnt = pd.Series(digests(index.path), index.index), index.split != "test"
    copied = content.map(content[learnt].value_counts()).fillna(0) > learnt
    if copied.any():
        one, other = index.path[content == content[copied].iloc[0]].iloc[:2]
        warnings.warn(
            f"{copied.sum()} pictures, {(copied & ~learnt).sum()} of them of the test part, are "
            f"copies of training pictures, such as {one} and {other}: accuracies can be too high. "
            "Remove the copies",
            stacklevel=3,
        )
    return copied


# ------------------------------------------------------------------------------- splits


@dataclass(frozen=True)
class Fold:
    """Row positions of an index: ``train`` to learn, ``val`` to choose, ``test`` to report.

    ``val`` comes out of the training part and can hold some of the classes only; ``fit`` is
    both together, for the last fit after everything is chosen.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def fit(self):
        return np.sort(np.concatenate([self.train, self.val]))


def test_rows(folds):
    """Positions of the test pictures of all folds, one fold after the other."""
    return np.concatenate([fold.test for fold in folds])


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
        raise ValueError("There is no official test part: use the split by_clip or random")
    train, val, test = (np.flatnonzero(index.split == part) for part in ("train", "val", "test"))
    if not len(val):
        train, val = _validation(index, train, seed)
    return [Fold(train, val, test)]


def by_clip(index, seed=0):
    """Whole clips held out: folds in which every clip is tested once.

    There are as many folds as the class with the fewest clips has clips (classes with one clip
    do not count: theirs stays in training). So in every fold every class keeps a clip for
    training. Averages over the test pictures of all folds count each picture once.

    Raises
    ------
    ValueError
        No class has two clips.
    """
    clips = {label: sorted(set(group["clip"]) - {""}) for label, group in index.groupby("label")}
    counts = [len(names) for names in clips.values() if len(names) > 1]
    if not counts:
        raise ValueError("No class has two clips: use the split official or random")
    folds = min(counts)
    held = {  # the classes begin at different folds, so that the folds have about one size
        (label, clip): (position + shift) % folds if len(names) > 1 else -1
        for shift, (label, names) in enumerate(clips.items())
        for position, clip in enumerate(names)
    }
    fold_of = np.array([held.get(key, -1) for key in zip(index.label, index["clip"], strict=True)])
    result = []
    for fold in range(folds):
        train, val = _validation(index, np.flatnonzero(fold_of != fold), seed)
        result.append(Fold(train, val, np.flatnonzero(fold_of == fold)))
    return result


def random(index, seed=0):
    """A quarter of every class for the test, drawn at random: one fold.

    A class with a single picture keeps it for training.

    Raises
    ------
    ValueError
        No class has two pictures.
    """
    train, test = _stratified(index, np.arange(len(index)), TEST, seed)
    if not len(test):
        raise ValueError("No class has two pictures, one to learn from and one to test")
    train, val = _validation(index, train, seed)
    return [Fold(train, val, test)]


SPLITS: dict[str, Callable] = {"official": official, "by_clip": by_clip, "random": random}


def make_splits(index, names, seed=0):
    """The named splits, as far as the index allows them.

    Parameters
    ----------
    index : DataFrame
    names : list of {"official", "by_clip", "random"}
    seed : int

    Returns
    -------
    dict of str to list of Fold
        Never empty: where none of the named splits is possible, ``random`` with a warning.
    """
    result = {}
    for name in names:
        if name not in SPLITS:
            raise ValueError(f"Unknown split {name!r}: use some of {', '.join(SPLITS)}")
        try:
            result[name] = SPLITS[name](index, seed)
        except ValueError as error:
            warnings.warn(f"Without the split {name}. {error}", stacklevel=2)
    return result or {"random": random(index, seed)}


def _validation(index, rows, seed):
    """Split training rows into (train, val): by clip where some class has two, else a fifth."""
    part = index.iloc[rows]
    val = []
    for label, group in part.groupby("label"):
        clips = sorted(set(group["clip"]) - {""}, key=lambda clip: _draw(seed, label, clip))
        if len(clips) > 1:
            val.append(rows[(part.label == label) & (part["clip"] == clips[0])])
    if not val:
        return _stratified(index, rows, VALIDATION, seed)
    val = np.sort(np.concatenate(val))
    return np.setdiff1d(rows, val), val


def _stratified(index, rows, fraction, seed):
    """Split rows into (kept, taken): of n pictures a class, round(n * fraction), at least one
    where there are two or more, are taken."""
    taken = []
    for _, members in _ranked(index.iloc[rows], seed):
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        taken.append(rows[members[:count]])
    taken = np.sort(np.concatenate(taken))
    return np.setdiff1d(rows, taken), taken


def _ranked(index, seed):
    """For each label its row positions in a random order that is the same on every machine."""
    root = index.attrs.get("root", "") + os.sep
    rows = {label: [] for label in classes(index)}
    for row, (label, path) in enumerate(zip(index.label, index.path, strict=True)):
        name = path.removeprefix(root).replace(os.sep, "/")
        rows[label].append((_draw(seed, label, name), row))
    for label, drawn in rows.items():
        yield label, np.array([row for _, row in sorted(drawn)])


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
    if k < 1:
        raise ValueError(f"k must be at least 1 picture a class, not {k}")
    ranked = dict(_ranked(index, seed))
    drawn = [row for members in ranked.values() for row in members[:k]]
    rows = np.array(sorted(drawn), dtype=int)
    return rows, {label: len(members) for label, members in ranked.items() if len(members) < k}


def few_shot_fold(index, fold, k, seed=0):
    """Draw k pictures a class of a fold, and min(k, 4) to choose hyper-parameters on.

    The protocol of CoOp (Zhou et al., Learning to prompt for vision-language models, 2022,
    section 4.1) and Tip-Adapter.

    Returns
    -------
    train, val, fit : int arrays
        Rows of the index, for :func:`cliphelpers.classifiers.fit_chosen`: k a class of the
        fold's train, min(k, 4) of its val, k of both together.
    """

    def draw(rows, count):
        return rows[few_shot(index.iloc[rows], count, seed)[0]]

    return draw(fold.train, k), draw(fold.val, min(k, 4)), draw(fold.fit, k)


# ------------------------------------------------------------------------------- names


def prompt_names(labels, table=None):
    """The words for each class in a prompt: "Apple Golden 1" becomes "apple golden".

    Parameters
    ----------
    labels : sequence of str
    table : str or Path, optional
        CSV with the columns ``label`` and ``name``; it goes before the rule, which drops a
        trailing number and underscores and writes in lower case.

    Returns
    -------
    list of str
        In the order of ``labels``. Classes can share a name: see :func:`shared_names`.
    """
    known = {}
    if table is not None:
        names = pd.read_csv(table, dtype=str, keep_default_na=False)
        if list(names.columns) != ["label", "name"]:
            raise ValueError(f"{table} must have the columns label,name, not {list(names.columns)}")
        if (blank := names.name.str.strip() == "").any():
            raise ValueError(f"{table} has no name for {names.label[blank].iloc[0]!r}")
        known = dict(zip(names.label, names.name, strict=True))
    return [known.get(label) or _words(label) for label in labels]


def _words(label):
    words = re.sub(r"[_\s]+", " ", label).strip()
    return (re.sub(r"\s+\d+$", "", words) or label).lower()


def shared_names(labels, names):
    """Names that several classes share: dict of name to list of labels."""
    groups = pd.Series(list(labels)).groupby(list(names)).agg(list)
    return {name: group for name, group in groups.items() if len(group) > 1}
