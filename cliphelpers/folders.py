"""Folders of pictures: which are parts, which are classes, and what file names say of groups."""

import os
import re

import pandas as pd

from cliphelpers.images import entries, find_images, tell

_PARTS = {  # the words of Hugging Face's datasets
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_NO_MATTER = re.compile(  # at the end of a word, as in "trainset"
    r"((data)?sets?|data|splits?|parts?|folder|files|images?|imgs?|pictures?|pics?|photos?)\b"
)
_FRUITS_360 = re.compile(r"(?:(r\d*)_)?\d+(_100)?(?:_\w+)?\.\w+")


def part_of(name):
    """What a name states: "train", "val", "test" or "", and a tuple of its other words.

    "training_set", "TrainImages" and "train2017" state train without other words, "fruits-test"
    states test with the word "fruits".
    """
    words = re.sub(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = _NO_MATTER.sub(" ", words).split()
    stated = [_PARTS[word] for word in words if word in _PARTS]
    others = tuple(word for word in words if word not in _PARTS)
    return stated[0] if len(stated) == 1 else "", others


def from_folders(root):
    """The index of a folder: DataFrame with the columns path, label, split, group.

    Raises
    ------
    ValueError
        No class folder to learn from, or one that holds folders only.
    """
    prefix = os.path.join(root, "")
    inside = {path: path[len(prefix) :].split(os.sep)[:-1] for path in find_images(root)}
    parts = _parts({names[0] for names in inside.values() if names})
    depth = 1 if parts else 0  # of the class folders
    rows = [
        (path, names[depth], parts.get(names[0], ""), os.path.join(root, *names[: depth + 1]))
        for path, names in inside.items()
        if len(names) > depth and (not parts or names[0] in parts)
    ]
    index = pd.DataFrame(rows, columns=["path", "label", "split", "folder"], dtype=str)
    if not index.split.isin(["", "train"]).any():
        raise ValueError(
            f"{root} has no class folder with pictures to learn from ({len(inside)} pictures in "
            "all): expected a folder for each class, or train/ and test/ folders that hold such "
            "folders. If it is one class, give the folder above; else a CSV file of path and label"
        )
    deep = index[~index.folder.isin(index.path.map(os.path.dirname))]
    if len(deep):  # the folder is probably one level too high
        largest = deep.path[deep.folder == deep.folder.mode()[0]]
        meant = os.path.commonpath([os.path.dirname(os.path.dirname(path)) for path in largest])
        raise ValueError(
            f"{deep.folder.nunique()} class folders of {root} hold no pictures but folders, such "
            f"as {deep.folder.iloc[0]}. Was {meant} meant? Else put pictures straight into their "
            "class folder, call parts train, val and test, or list the pictures in a CSV file"
        )
    where = f" of {', '.join(sorted(parts))}" if parts else ""
    tell(f"Pictures left out, in no class folder{where}", inside.keys() - set(index.path))
    inner = {path for part in parts or [""] for path in entries(prefix + part)}
    empty = filter(os.path.isdir, inner - set(index.folder))
    tell("Class folders left out, without a picture", list(empty))
    index["label"] = index.label.str.normalize("NFC")
    return index.drop(columns="folder").assign(group=_groups(index))


def _parts(names):
    """Which folders are parts: dict of name to "train", "val" or "test"; empty if none is.

    They are if their names state different ones, with the same other words, or if there is nothing
    beside them. So a class "train" among others is a class.
    """
    families = {}
    for name in sorted(names):
        stated, others = part_of(name)
        if stated:
            families.setdefault(others, {})[name] = stated
    ranked = [families[others] for others in sorted(families, key=len)]
    best = max(ranked, key=lambda family: len(set(family.values())), default={})
    return best if len(set(best.values())) > 1 or len(best) == len(names) else {}


def _groups(index):
    """The video clips that Fruits-360's file names state, in all its editions: Series of str.

    "12_100.jpg" and "r0_12.jpg" are of clip r0, "r_12_100.jpg" of r1, "r2_…" of r2. A class has
    clips if more than a quarter of its names are clear ones, with an r or with _100.
    """
    names = index.path.map(lambda path: _FRUITS_360.fullmatch(os.path.basename(path).lower()))
    clear = names.map(lambda name: bool(name and (name[1] or name[2])))
    fruits = clear.groupby(index.label).transform("mean") > 1 / 4
    odd = index.path[fruits & names.isna()]
    tell("Pictures without a group, not named <clip>_<frame> as others of their class", odd)
    clips = names[fruits].dropna().map(lambda name: {None: "r0", "r": "r1"}.get(name[1], name[1]))
    return clips.reindex(index.index, fill_value="").astype(str)
