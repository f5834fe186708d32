"""From a folder of pictures to an index, and from class names to words.

An index is a DataFrame with the columns ``path``, ``label``, ``split`` and ``group``. ``split``
is "train", "val", "test" or "" (not stated); ``group`` names what a picture was taken of or with
other pictures (a video clip, an object, a day, a camera), or is "" where nobody has said.
"""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.folders import from_folders
from cliphelpers.images import digests, tell
from cliphelpers.tables import from_manifest, read_table

_SHIPPED = Path(__file__).parents[1] / "data" / "prompt_names.csv"  # for any data

# ------------------------------------------------------------------------------- the index


def index_images(root):
    """List the pictures of a folder or of a CSV manifest.

    Understood are:

    - A folder of class folders. Pictures in sub-folders of a class folder belong to the class; some
      must lie straight in it, else the folder is taken to be one level too high.
    - train/, val/ and test/ folders of class folders, under any of their usual names
      ("training_set", "TrainImages", "fruits_valid"). Val without test is what is tested.
    - A CSV file in UTF-8 with the columns ``path`` (relative to the file; or ``file_name``,
      ``image`` and the like), ``label`` (or ``class``, ``category``) and, if known, ``split`` and
      ``group`` (or ``clip``), separated by commas, semicolons, tabs or bars.

    The groups of folders are Fruits-360's video clips, where files are named so. What is left out
    is counted in warnings, one for each kind, but for hidden files and what systems make for
    themselves: see :func:`cliphelpers.images.find_images`.

    Parameters
    ----------
    root : str or Path

    Returns
    -------
    pandas.DataFrame
        Columns path, label, split, group (all str), sorted by label and path, never by the order
        of the file system; ``attrs`` holds ``root``, ``name`` and ``shared``: whether groups of
        one name are one group in all classes, as days and cameras are, or one in each, as clips.

    Raises
    ------
    FileNotFoundError
        There is no such folder or file.
    ValueError
        No pictures in class folders, a folder one level too high, a class without training
        pictures, a single class, or a faulty manifest.
    """
    if not os.path.exists(root):  # Path("") is the current folder
        raise FileNotFoundError(f"There is no folder or CSV file {str(root) or repr(root)}")
    root = Path(root)
    if root.is_file():
        index, folder, name = from_manifest(root), root.parent, root.resolve().stem
    else:
        index, folder, name = from_folders(root), root, root.resolve().name
    untrained = sorted(set(index.label) - set(index.label[index.split == "train"]))
    if untrained and (index.split != "").any():
        raise ValueError(f"The class {untrained[0]!r} of {root} has no training pictures")
    if index.label.nunique() < 2:
        raise ValueError(
            f"All pictures of {root} are of one class, {index.label.iloc[0]!r}: there must be two "
            "to tell. Give the folder that holds a folder for each class, or a CSV file"
        )
    if "test" not in set(index.split):
        val = index.path[index.split == "val"]
        tell(f"Pictures of {root} tested though called val, as it has no test part", val)
        index["split"] = index.split.replace("val", "test")
    index = index.sort_values(["label", "path"], ignore_index=True)
    shared = root.is_file() or (index["group"] == "").all()  # what a user names later is shared
    index.attrs = {"root": str(folder), "name": name, "shared": bool(shared)}
    return index


def shares_groups(index):
    """Whether groups of a manifest go across classes, as days and cameras do."""
    pairs = index.loc[index["group"] != "", ["label", "group"]].drop_duplicates()
    return index.attrs.get("shared", False) and pairs["group"].duplicated().any()


def classes(index):
    """The class names of an index, sorted: list of str, length C.

    Raises
    ------
    TypeError
        A label is no str.
    """
    found = set(index.label)
    if odd := [label for label in found if not isinstance(label, str)]:
        raise TypeError(f"The index needs labels of nothing but str, not {odd[0]!r}")
    return sorted(found)


def targets(index):
    """Class numbers, the positions in :func:`classes`: int64 array, shape (N,)."""
    return np.searchsorted(classes(index), np.asarray(index.label, dtype=str)).astype(np.int64)


def summary(index):
    """Counts of an index: DataFrame with a row for each stated split and one for all.

    The last column counts leakage: pictures that are, byte by byte, also in the training part
    (all that is not stated to be test) under another path. Where there are any, a warning says so.
    """
    index = index.reset_index(drop=True)
    copied, unit = _copied(index), ["group"] if index.attrs.get("shared") else ["label", "group"]
    groups = [(split or "not stated", part) for split, part in index.groupby("split")]
    columns = {
        name: {
            "pictures": len(part),
            "classes": part.label.nunique(),
            "groups": len(part.loc[part["group"] != "", unit].drop_duplicates()),
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
        tested = f", {(copied & ~learnt).sum()} of them of the test part, are copies of training"
        what = " are copies of other" if learnt.all() else tested
        words = f"{copied.sum()} pictures{what} pictures, such as {one} and {other}"
        todo = "accuracies can be too high. Keep one of each"
        warnings.warn(f"{words}: {todo}", stacklevel=3)
    return copied


# ------------------------------------------------------------------------------- names


def prompt_names(labels, table=None):
    """The words for each class in a prompt: "Apple Golden 1" becomes "apple golden".

    Parameters
    ----------
    labels : sequence of str
    table : str or Path, optional
        CSV with the columns ``label`` and ``name``; it goes before the rule, which drops a
        trailing number and underscores and writes in lower case. Labels that are none of
        ``labels`` are counted in a warning, unless it is the project's own table, for any data.

    Returns
    -------
    list of str
        In the order of ``labels``. Classes can share a name.
    """
    known = {}
    if table is not None:
        names = read_table(table)
        if sorted(names.columns) != ["label", "name"]:
            raise ValueError(f"{table} must have the columns label,name, not {list(names.columns)}")
        names = names.apply(lambda column: column.str.strip().str.normalize("NFC"))
        names = names.drop_duplicates()
        for label in names.label[(names.name == "") | names.label.duplicated()]:
            raise ValueError(f"{table} has no name, or more than one, for {label!r}")
        known = dict(zip(names.label, names.name, strict=True))
        if Path(table).resolve() != _SHIPPED.resolve():
            unused = known.keys() - {label.strip() for label in labels}
            tell(f"Labels of {table} that no class has", [repr(label) for label in unused])
    return [known.get(label.strip()) or _words(label) for label in labels]


def _words(label):
    words = re.sub(r"[_\s]+", " ", label).strip()
    return (re.sub(r"\s+\d+$", "", words) or label).lower()
