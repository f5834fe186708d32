"""From a folder of pictures to an index, and from class names to words.

An index is a DataFrame with the columns ``path``, ``label``, ``split`` and ``group``. ``split``
is "train", "val", "test" or "" (not stated); ``group`` names what a picture was taken of or with
other pictures (a video clip, an object, a day, a camera), or is "" where nobody has said.
"""

import os
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.images import digests, find_images

_COLUMNS = ["path", "label", "split", "group"]
_SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_CLIP_NAME = re.compile(r"(?:(r\d*)_)?\d+_100\.jpe?g", re.IGNORECASE)


# ------------------------------------------------------------------------------- the index


def index_images(root):
    """List the pictures of a folder or of a CSV manifest.

    Understood are: Fruits-360's layout (Training/ and Test/ with class folders, the group, a
    video clip, in the prefix of the file name), train/, val/ and test/ folders of class folders,
    plain class folders, and a CSV file with the columns ``path`` (relative to the CSV), ``label``
    and, if known, ``split`` and ``group`` (or ``clip``). Pictures in sub-folders of a class folder
    belong to the class. Hidden files and files that are no pictures are ignored.

    Parameters
    ----------
    root : str or Path

    Returns
    -------
    pandas.DataFrame
        Columns path, label, split, group (all str), sorted by label and path, never by the order
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
        index, folder, name = _from_manifest(root), root.parent, root.resolve().stem
    elif root.is_dir():
        index, folder, name = _from_folders(root), root, root.resolve().name
    else:
        raise FileNotFoundError(f"There is no folder or CSV file {root}")
    untrained = sorted(set(index.label) - set(index.label[index.split == "train"]))
    if untrained and (index.split != "").any():
        raise ValueError(f"The class {untrained[0]!r} of {root} has no training pictures")
    index = index.sort_values(["label", "path"], ignore_index=True)
    index.attrs = {"root": str(folder), "name": name}
    return index


def _from_folders(root):
    children = _folders(root)
    parts = {child.name: _SPLIT_FOLDERS.get(child.name.lower(), "") for child in children}
    if "train" in parts.values():
        if others := sorted(name for name, split in parts.items() if not split):
            warnings.warn(f"Left out, being no split of {root}: {', '.join(others)}", stacklevel=3)
        sources = [(child, parts[child.name]) for child in children if parts[child.name]]
    elif "test" in parts.values():
        raise ValueError(f"{root} has a test folder but no train folder beside it")
    else:
        sources = [(root, "")]
    rows = []
    for source, split in sources:
        for folder in _folders(source):
            found, label = find_images(folder), unicodedata.normalize("NFC", folder.name)
            rows += [(path, label, split) for path in found]
            if not found:
                warnings.warn(f"The class folder {folder} is empty and is left out", stacklevel=3)
    if not rows:
        raise ValueError(
            f"No pictures in {root}: expected a folder for each class, "
            "or train/ and test/ folders that hold such folders"
        )
    index = pd.DataFrame(rows, columns=_COLUMNS[:3], dtype=str)
    return index.assign(group=_clips(index.path))


def _folders(folder):
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    for path in found:
        if folder.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{path} is a link to a folder that it lies in: remove it")
    return found


def _clips(paths):
    """Fruits-360's clips: "12_100.jpg" is of clip r0, "r_12_100.jpg" of r1, "r2_…" of r2."""
    matches = [_CLIP_NAME.fullmatch(os.path.basename(path)) for path in paths]
    if not all(matches):
        if sum(map(bool, matches)) > len(matches) / 2:
            odd = next(path for path, match in zip(paths, matches, strict=True) if not match)
            warnings.warn(f"No groups: {odd} is not named <clip>_<frame>_100.jpg", stacklevel=4)
        return ""
    return [{None: "r0", "r": "r1"}.get(match[1], match[1]) for match in matches]


def _from_manifest(file):
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' errors and wrong encodings are among them
        raise ValueError(f"{file} is no CSV table in UTF-8: {error}") from error
    if "group" not in table:
        table = table.rename(columns={"clip": "group"})
    if missing := {"path", "label"} - set(table.columns):
        raise ValueError(f"The manifest {file} has no column {' and '.join(sorted(missing))}")
    if unknown := set(table.columns) - set(_COLUMNS):
        known = f"the manifest may have {', '.join(_COLUMNS)}"
        raise ValueError(f"{file} has unknown columns {sorted(unknown)}: {known}")
    table = table.reindex(columns=_COLUMNS, fill_value="")
    if table.empty:
        raise ValueError(f"The manifest {file} lists no pictures")
    for column in ("path", "label"):
        if (table[column] == "").any():
            line = int(np.flatnonzero(table[column] == "")[0]) + 2
            raise ValueError(f"Line {line} of the manifest {file} has no {column}")
    if wrong := sorted(set(table.split) - {"", "train", "val", "test"}):
        raise ValueError(f"The manifest {file} has the split {wrong[0]!r}: use train, val or test")
    if len(again := table.path[table.path.duplicated()]):
        raise ValueError(f"The manifest {file} lists {again.iloc[0]} more than once")
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


def summary(index):
    """Counts of an index: DataFrame with a row for each stated split and one for all.

    The last column counts leakage: pictures that are, byte by byte, also in the training part
    (all that is not stated to be test) under another path. Where there are any, a warning says so.
    """
    copied = _copied(index)
    groups = [(split or "not stated", part) for split, part in index.groupby("split")]
    columns = {
        name: {
            "pictures": len(part),
            "classes": part.label.nunique(),
            "groups": part[part["group"] != ""].groupby("label")["group"].nunique().sum(),
            "pictures of the smallest class": part.label.value_counts().min(),
            "copies of training pictures": copied[part.index].sum(),
        }
        for name, part in [*groups, ("all", index)]
    }
    return pd.DataFrame(columns).T


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
        In the order of ``labels``. Classes can share a name.
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
