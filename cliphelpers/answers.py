"""The answers of a run, and what they recommend: which encoder, which method, how many labels.

Notebooks leave their answers in ``OUTPUT/answers``; those to the same pictures are the ways to
tell pictures between which a recommendation is made.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.cache import as_bytes, write_atomically
from cliphelpers.evaluation import LEVEL, interval
from cliphelpers.index import targets

MARGIN = 0.02  # of accuracy: who is not worse by more is as good
JUDGES = ["by_group", "by_look", "random", "official"]  # the first that was asked decides


@dataclass(eq=False)
class Way:
    """One way to tell pictures, and what came of it.

    Attributes
    ----------
    split, encoder, features, method, shots, spec
        Where the question was put, k or None, and the text of the encoder, "" of a baseline.
    notebook : str
        That put it, such as "01_zero_shot".
    rows, predicted : int arrays, shapes (M,) and (S, M)
        The tested pictures' positions in the index, sorted, and the class of each answer for each
        seed.
    y, groups : int arrays, shape (M,)
        Classes and groups of these pictures.
    labels : int
        Labelled pictures that it learns from.
    probability : float array, shape (M,), or None
        How sure its answers are, calibrated; of a way without shots.
    cost : float
        Milliseconds a picture, once somebody has measured them.
    """

    split: str
    encoder: str
    features: str
    method: str
    shots: int | None
    spec: str
    notebook: str
    rows: np.ndarray
    predicted: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    labels: int
    probability: np.ndarray | None = None
    cost: float = 0.0

    @cached_property
    def right(self):
        """Whether each answer is right, 0 or 1: int array, shape (S, M)."""
        return (self.predicted == self.y).astype(int)

    @property
    def name(self):
        """In words."""
        few = f", k = {self.shots}" if self.shots else ""
        chosen = " with a chosen prompt" if self.method == "zero-shot" and self.labels else ""
        return f"{self.encoder}, {self.method}{chosen}{few}"

    def accuracy(self, level=LEVEL):
        """Accuracy and its interval: mean, low, high."""
        return interval(self.right.astype(bool), self.y, self.groups, level)[:3]

    def better_than(self, other, level=LEVEL):
        """Mean difference of accuracy to another way on the same pictures, and its interval."""
        return interval(self.right - other.right, self.y, self.groups, level)[:3]


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What the rule of :func:`recommend` says.

    Attributes
    ----------
    taken : Way or None
        The recommended one; None: the pictures do not decide it.
    best : Way
        That of the highest accuracy; of equals the cheapest.
    ties : int
        How many others are exactly as accurate as the best.
    open : list of Way
        Those that are not shown to be worse than the best, after it from the most accurate on: of
        those with k labelled pictures a class only where there are no others.
    share : float or None
        Of the largest class, if no way is shown to be better than always naming it.
    level : float
        Of the differences' intervals, by Bonferroni's correction for all ways.
    few : Way or None
        Of the ways with k labelled pictures a class and the encoder of ``taken`` the one with the
        fewest that is as good as ``taken``.
    """

    taken: Way | None
    best: Way
    ties: int
    open: list
    share: float | None
    level: float
    few: Way | None = None

    @property
    def groups(self):
        """How many groups were tested."""
        return len(np.unique(self.best.groups))

    def wanted(self, margin=MARGIN):
        """How many groups would narrow all intervals to a margin, from the variance seen.

        Those that were tested are copied until the intervals are that narrow, in steps of an
        eighth, since what was seen is a guess. None where a thousand copies are not enough, as
        where seeds differ.
        """
        copies = 1
        for other in self.open[1:]:
            while _half_width(self.best, other, copies, self.level) > margin:
                copies += -(-copies // 8)
                if copies > 1000:
                    return None
        return copies * self.groups


def recommend(ways, margin=MARGIN):
    """The cheapest way that no other is shown, or may be supposed, to beat by more than a margin.

    Ways are tried from the cheapest on (milliseconds a picture, then labels, then accuracy), those
    with k labelled pictures a class after the others. One is taken if the interval of every other's
    paired difference to it ends below the margin: then it is within the margin of the best,
    whichever that is (multiple comparisons with the best: Hsu, Simultaneous confidence intervals
    for all distances from the "best", 1981). The intervals' level is Bonferroni's for all of them.
    None is taken that is not shown to be better than always naming the largest class. If none can
    be taken, nothing is decided.

    Parameters
    ----------
    ways : list of Way
        Of the same pictures.
    margin : float
        Of accuracy.

    Returns
    -------
    Recommendation
    """
    level = 1 - (1 - LEVEL) / len(ways)
    cheap = sorted(ways, key=lambda way: (way.cost, way.labels, -_accuracy(way)))
    ranked = sorted(cheap, key=_accuracy, reverse=True)
    best, share = ranked[0], np.bincount(cheap[0].y).max() / len(cheap[0].y)
    able = [way for way in cheap if way.accuracy(level)[1] > share]
    taken = None
    for way in sorted(able, key=lambda way: bool(way.shots)):
        rivals = [one for one in ranked if one is not way]
        if all(one.better_than(way, level)[2] <= margin for one in rivals):
            taken = way
            break
    for few in (False, True):
        others = [way for way in ranked if way is not best and bool(way.shots) == few]
        undecided = [way for way in others if best.better_than(way, level)[1] <= 0]
        if undecided:
            break
    own = [way for way in cheap if way.shots and taken and way.encoder == taken.encoder]
    alone = 1 - (1 - LEVEL) / max(len(own), 1)
    enough = [way for way in own if taken.better_than(way, alone)[2] <= margin]
    return Recommendation(
        taken, best, sum(_accuracy(way) == _accuracy(best) for way in ways) - 1,
        [best, *undecided], None if able else share, level,
        min(enough, key=lambda way: (way.labels, -_accuracy(way)), default=None),
    )  # fmt: skip


def _half_width(one, other, copies, level):
    """Of the interval of a difference, had each group been seen so many times."""
    groups = np.arange(copies)[:, None] * (one.groups.max() + 1) + one.groups
    values, y = np.tile(one.right - other.right, copies), np.tile(one.y, copies)
    mean, low, high, _ = interval(values, y, groups.ravel(), level)
    return max(mean - low, high - mean)  # one of them can end at 1


def _accuracy(way):
    return way.right.mean()


def save_answers(path, index, groups, said):
    """Write the answers of a study.

    Parameters
    ----------
    path : Path
        Of a .npz file.
    index : DataFrame
    groups : int array, shape (N,)
    said : iterable of (dict, list of Answers)
        Where each question was put, and the answers of each seed: see :class:`Way`.
    """
    arrays, questions = {}, []
    for number, (where, drawn) in enumerate(said):
        arrays[f"rows{number}"] = drawn[0].rows.astype(np.int32)
        arrays[f"predicted{number}"] = np.stack([one.predicted for one in drawn]).astype(np.int16)
        if drawn[0].scores is not None:
            arrays[f"probability{number}"] = drawn[0].probability.astype(np.float16)
        unseen = where["method"] == "zero-shot" and not drawn[0].chosen[0]  # not even its prompt
        labels = 0 if unseen else drawn[0].learnt
        questions.append(where | {"labels": labels})
    paths = [os.path.abspath(path) for path in index.path]  # however the folder was named
    arrays |= {"path": np.array(paths), "label": index.label.to_numpy(str)}
    arrays |= {"groups": groups, "dataset": index.attrs["name"], "questions": json.dumps(questions)}
    write_atomically(path, as_bytes(np.savez_compressed, **arrays))


def read_answers(output, dataset, notebooks):
    """The answers that the notebooks of a run have left.

    Parameters
    ----------
    output : str or Path
    dataset : str
        Name of the data set: a folder can hold runs on several.
    notebooks : list of str
        Whose answers are wanted, such as "01_zero_shot".

    Returns
    -------
    ways : list of Way
        No two of one split, encoder, features, method, k and labels: that on the most pictures
        stands, and of equals the later notebook's.
    index : DataFrame or None
        Columns path and label, of the notebook with the most pictures.

    Raises
    ------
    ValueError
        A file is damaged, or tells of other pictures or labels than one before. Notebook 7's
        sample is left out.
    """
    ways, index = {}, None
    files = sorted(Path(output, "answers").glob("*.npz"))
    for path in [path for path in files if path.stem in notebooks]:
        try:
            arrays = dict(np.load(io.BytesIO(path.read_bytes())))
            questions, name = json.loads(str(arrays["questions"])), str(arrays["dataset"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            raise ValueError(f"{path} is damaged: run {path.stem} again") from None
        if name != dataset:
            continue
        pictures = pd.DataFrame({column: arrays[column] for column in ("path", "label")})
        y = targets(pictures)
        if index is not None and not pictures.equals(index):
            if path.stem.startswith("07") and len(pictures) < len(index):
                continue
            words = f"{path} is of other pictures or labels than what was asked before it"
            raise ValueError(f"{words}: run the notebooks of {output} again")
        index = pictures
        for number, question in enumerate(questions):
            order = arrays[f"rows{number}"].argsort()  # that of the index, whatever the folds'
            rows, sure = arrays[f"rows{number}"][order], arrays.get(f"probability{number}")
            told = {"predicted": arrays[f"predicted{number}"][:, order], "rows": rows}
            told |= {"y": y[rows], "groups": arrays["groups"][rows]}
            told |= {"probability": None if sure is None else sure[order]}
            way = Way(**question, notebook=path.stem, **told)
            key = way.split, way.encoder, way.features, way.method, way.shots, way.labels
            if key not in ways or len(rows) >= len(ways[key].rows):
                ways[key] = way
    return list(ways.values()), index


def comparable(ways, split):
    """Of the ways of a split those that were asked for the most pictures, the same ones.

    Baselines are left out.
    """
    own = [way for way in ways if way.split == split and way.spec]
    most = max((way.rows for way in own), key=len, default=None)
    return [way for way in own if np.array_equal(way.rows, most)]


def judge(splits):
    """The one of some splits that decides: of :data:`JUDGES` the first, else any; None of none."""
    return min(splits, key=lambda name: (*JUDGES, name).index(name), default=None)
