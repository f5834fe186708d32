"""CSV files as people and programs write them: manifests of pictures, and names of classes."""

import os
import re

import pandas as pd

from cliphelpers.folders import part_of
from cliphelpers.images import tell

_COLUMNS = ["path", "label", "split", "group"]
_KNOWN_AS = {  # without spaces and marks between the words
    "file": "path", "filename": "path", "filepath": "path", "image": "path", "imagepath": "path",
    "imagefile": "path", "imagename": "path", "imgpath": "path", "class": "label",
    "classname": "label", "category": "label", "set": "split", "subset": "split", "clip": "group",
}  # fmt: skip


def read_table(file):
    """A CSV file in UTF-8 with commas, semicolons, tabs or bars: DataFrame of str.

    The index holds the numbers of the lines, counted from 0 at the names of the columns.

    Raises
    ------
    ValueError
        It is no such file, a line has more cells than the first, or quotes are not closed.
    """
    try:
        with open(file, encoding="utf-8") as text:
            separator = max(",;\t|", key=text.readline().count)
        table = pd.read_csv(
            file, sep=separator, header=None, dtype=str, keep_default_na=False,
            skipinitialspace=True, skip_blank_lines=False,
        )  # fmt: skip
    except ValueError as error:  # pandas' errors and wrong encodings are among them
        raise ValueError(f"{file} is no CSV table in UTF-8: {error}") from error
    broken = table.apply(lambda column: column.str.contains("[\r\n]")).any(axis=1)
    if broken.any():
        raise ValueError(f"Line {broken.idxmax() + 1} of {file} ends within quotes: close them")
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ValueError(f"{file} is empty")
    return table[1:].set_axis(table.iloc[0].str.strip().rename(None), axis=1)


def from_manifest(file):
    """The index that a CSV file lists: DataFrame with the columns path, label, split, group.

    Raises
    ------
    ValueError
        Missing, unknown or repeated columns, blank cells, an unknown split, or a picture that is
        listed twice and not as the same.
    FileNotFoundError
        Pictures do not exist.
    """
    table = _read_manifest(file)
    if missing := {"path", "label"} - set(table.columns):
        raise ValueError(f"The manifest {file} has no column {' and '.join(sorted(missing))}")
    if odd := sorted({*set(table) - set(_COLUMNS), *table.columns[table.columns.duplicated()]}):
        known = f"the manifest may have {', '.join(_COLUMNS)}, each once"
        raise ValueError(f"{file} has unknown or repeated columns {odd}: {known}")
    table = table.reindex(columns=_COLUMNS, fill_value="")
    if table.empty:
        raise ValueError(f"The manifest {file} lists no pictures")
    spaced = table.label[table.label != table.label.str.strip()]
    tell(f"Labels of {file} read without the spaces at their ends", spaced.map(repr))
    for column in ("label", "split", "group"):
        table[column] = table[column].str.strip().str.normalize("NFC")
    for column in ["path", "label", "split"] if any(table.split) else ["path", "label"]:
        if (blank := table[column] == "").any():
            raise ValueError(f"Line {blank.idxmax() + 1} of the manifest {file} has no {column}")
    for name in set(table.split) - {""}:
        if part_of(name) not in [("train", ()), ("val", ()), ("test", ())]:
            raise ValueError(f"The manifest {file} has the split {name!r}: use train, val or test")
    table["split"] = [part_of(name)[0] for name in table.split]
    table["path"] = [_found(file.parent, path) for path in table.path]
    if gone := [path for path in table.path if not os.path.isfile(path)]:
        raise FileNotFoundError(f"{len(gone)} pictures of {file} do not exist, first {gone[0]}")
    tell(f"Lines of {file} that repeat another one, read once", table.path[table.duplicated()])
    table = table.drop_duplicates()
    for path, rows in table[table.path.duplicated(keep=False)].groupby("path"):
        cases = " and as ".join(", ".join(filter(None, row[1:])) for row in rows.to_numpy())
        raise ValueError(f"{file} lists {path} more than once, as {cases}")
    return table


def listed_paths(file):
    """Paths of the pictures that a CSV file lists, labelled or not: list of str.

    Raises
    ------
    ValueError
        It is no CSV file in UTF-8, or has no column of paths, or several.
    """
    table = _read_manifest(file)
    if list(table.columns).count("path") != 1:
        raise ValueError(f"{file} needs one column path, but has {', '.join(table.columns)}")
    if (blank := table.path.str.strip() == "").any():
        raise ValueError(f"Line {blank.idxmax() + 1} of {file} has no path")
    return [_found(os.path.dirname(file), path) for path in table.path]


def _read_manifest(file):
    """A manifest's cells as they are, under the names of columns that are used here."""
    table = read_table(file).drop(columns="", errors="ignore")  # pandas' numbers of rows
    plain = [re.sub(r"[\W_]", "", name).lower() for name in table.columns]
    return table.set_axis([_KNOWN_AS.get(name, name) for name in plain], axis=1)


def _found(folder, path):
    """Where a path of a manifest leads. Windows' backslashes are read as slashes, and spaces at
    its ends are dropped, unless there is such a file."""
    if not os.path.isfile(os.path.join(folder, path)):
        path = path.replace("\\", "/").strip()
    return os.path.join(folder, os.path.normpath(path))
