"""A study: questions put to encoders, answered side by side, and kept as tidy rows of results.

A question is a method (a classifier) and an encoder; it is put to every fold of every split, for
each k and seed. The answer says of each test picture what it was taken for.
"""

import re
import shutil
import tempfile
import warnings
import weakref
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from cliphelpers import classifiers
from cliphelpers.answers import judge, save_answers
from cliphelpers.cache import kept, key_of, write_table
from cliphelpers.classifiers import fit_chosen
from cliphelpers.encoders.encoder import Encoder
from cliphelpers.evaluation import LEVEL, fit_temperature, holm, interval, top_k
from cliphelpers.features import extract_features
from cliphelpers.index import classes, prompt_names, targets
from cliphelpers.looks import group_of
from cliphelpers.parallel import in_parallel
from cliphelpers.saved import save_classifier
from cliphelpers.splits import few_shot_fold

WHERE = ["split", "encoder", "features", "method", "shots", "seed"]  # what an answer is to
COLUMNS = ["experiment", "dataset", *WHERE, "metric", "value", "low", "high", "low_classes"]
COLUMNS += ["high_classes", "balanced", "n", "p", "verdict", "chosen", "at_edge"]
CURVE_COLUMNS = [*COLUMNS[:8], "fold", "chosen", "epoch", "part", "loss", "accuracy"]


@dataclass
class Answers:
    """What was said of the test pictures of a split, one fold after the other.

    Attributes
    ----------
    rows, y : int arrays, shape (M,)
        Positions of the pictures in the index, and their classes.
    predicted : int array, shape (M,)
        The class of each answer.
    scores : float32 array, shape (M, C), or None
        Only of questions without shots.
    chosen : tuple of str or None
        What validation chose, for each fold.
    learnt : int
        How many pictures the largest fold has to learn from.
    """

    rows: np.ndarray
    y: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray | None
    chosen: tuple
    learnt: int

    @property
    def right(self):
        """Whether each answer is right: bool array, shape (M,)."""
        return self.predicted == self.y

    @cached_property
    def temperature(self):
        """Of scores, that makes them probabilities: fitted on at most 2,000 of these answers."""
        some = np.unique(np.linspace(0, len(self.y) - 1, 2000).astype(int))
        return fit_temperature(self.scores[some], self.y[some])

    @property
    def probability(self):
        """How sure each answer is, at this temperature: float array, shape (M,)."""
        return softmax(self.scores / self.temperature, axis=1).max(1)


@dataclass(eq=False)
class _Question:
    """One method, encoder and fold; of a few-shot question the fold as each seed draws it."""

    method: str
    classifier: object
    encoder: Encoder
    folds: list
    chosen: str | None
    few: bool

    @cached_property
    def rows(self):
        """The pictures whose features it takes."""
        tests = [fold.test for fold in self.folds]
        if self.classifier.learns or len(self.classifier.candidates) > 1:
            tests += [rows for fold in self.folds for rows in (fold.train, fold.val, fold.fit)]
        return np.unique(np.concatenate(tests))


class Study:
    """An experiment: what is asked, what was answered, and the tidy rows of its results.

    Parameters
    ----------
    name : str
        The notebook's, and of the table.
    index : DataFrame
    splits : dict of str to list of Fold
        Of :func:`cliphelpers.splits.make_splits`.
    top : sequence of int
        The accuracies of questions without shots: (1, 5) for top-1 and top-5; those of as many
        classes as there are, or more, are left out.

    Attributes
    ----------
    y : int array, shape (N,)
        Class numbers of the index's pictures.

    Raises
    ------
    ValueError
        The index has no ``attrs``, which pandas drops where it makes one of several; or folds
        are not called as their split is.
    """

    def __init__(self, name, index, splits, top=(1,), words=None):
        if "name" not in index.attrs:
            todo = "give it those of what index_images made: index.attrs = other.attrs"
            raise ValueError(f"The index has lost its attrs, as in concat and merge: {todo}")
        for split, folds in splits.items():
            if len({fold.number for fold in folds if fold.split == split}) < len(folds):
                todo = f"give each split={split!r} and a number of its own, by dataclasses.replace"
                raise ValueError(f"Folds of the split {split!r} do not say which they are: {todo}")
        self.name, self.index, self.splits, self.y = name, index, splits, targets(index)
        self.words = words or prompt_names(classes(index))
        self.top = [k for k in top if k <= self.y.max()]
        self._groups = np.unique(group_of(index), return_inverse=True)[1]  # numbers sort faster
        self._asked, self._parts, self._answers, self._rows = [], {}, {}, {}
        self._draw = cache(partial(few_shot_fold, index))  # the same for all methods
        self._specs = {}  # of the encoder of each question; of one that sees shrunk pictures none
        self._judged, self._to_save, self._saved = {}, {}, Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._saved, ignore_errors=True)

    def ask(self, method, classifier, encoder, folds=None, shots=None, seeds=(0,), chosen=None):
        """Put a question, which :meth:`run` answers.

        Parameters
        ----------
        method : str
            Its name in the results.
        classifier : NearestMean, KNearest, TipAdapter, Ridge, Logistic or Linear
            Or one of your own: see :mod:`cliphelpers.classifiers`.
        encoder : Encoder
        folds : list of Fold, optional
            The only ones to ask now; by default every fold of every split. Rows come once all
            folds of a split are answered; :meth:`save` warns where some are not.
        shots : list of int, optional
            Learn from k pictures a class, for each of these k that every class of every fold has,
            with a warning of the others: see :func:`cliphelpers.splits.few_shot_fold`. By default
            from all.
        seeds : sequence of int
            Of the draws. The first seed's draw chooses among candidates, for all.
        chosen : str, optional
            What validation chose before: for the column of that name.

        Raises
        ------
        ValueError
            No class, or not every one, has as many training pictures as the least of ``shots``; or
            that is below 1, or there is none.
        TypeError
            A classifier of your own lacks something.
        """
        if lacks := {"candidates", "fit", "grid", "learns", "scores"} - set(dir(classifier)):
            what = f"{type(classifier).__name__} has no {', '.join(sorted(lacks))}"
            raise TypeError(f"{what}: see cliphelpers.classifiers, which says what it needs")
        if folds is None:
            folds = [fold for some in self.splits.values() for fold in some]
        for fold, k in product(folds, [None] if shots is None else self._possible(shots, folds)):
            drawn = [replace(self._draw(fold, k, seed), shots=k) for seed in seeds] if k else [fold]
            self._asked.append(_Question(method, classifier, encoder, drawn, chosen, bool(k)))

    def _possible(self, shots, folds):
        if not len(shots) or min(shots) < 1:
            raise ValueError(f"k must be from 1 on, but shots are {shots}: leave it out for all")
        most = min(np.bincount(self.y[fold.fit]).min() for fold in folds)
        if most < min(shots):
            raise ValueError(f"A class has {most} pictures to learn from: lower k, now {shots}")
        if most < max(shots):
            words = f"A class has {most} pictures to learn from in a fold: without larger k"
            warnings.warn(words, stacklevel=3)
        return [k for k in shots if k <= most]

    def run(self):
        """Answer all that was asked since the last call: side by side on all cores.

        Features and answers are kept on disk, so that nothing is computed twice.

        Returns
        -------
        DataFrame
            See :meth:`table`.
        """
        asked, self._asked, self._features = self._asked, [], {}
        for encoder in dict.fromkeys(question.encoder for question in asked):
            rows = [question.rows for question in asked if question.encoder is encoder]
            X = extract_features(encoder, self.index, np.unique(np.concatenate(rows)))
            self._features[encoder] = X, key_of(X)
        jobs = sorted(asked, key=lambda question: -self._features[question.encoder][0].shape[1])
        answers = dict(zip(jobs, in_parallel(self._answer, jobs), strict=True))  # long ones first
        for question in asked:
            self._note(question, answers[question])
        jobs, self._to_save = list(self._to_save.values()), {}
        in_parallel(self._save_classifier, jobs, unit="classifier")
        return self.table()

    def _answer(self, question):
        """Classes that each draw of a question's fold gives, int (S, M), and perhaps scores."""
        folds, classifier = question.folds, question.classifier
        X, key = self._features[question.encoder]

        def compute():
            fitted, said = classifier, []
            for place, fold in enumerate(folds):
                if not place or not np.array_equal(fold.fit, folds[place - 1].fit):
                    fitted = fit_chosen(fitted, X, self.y, fold)
                    scores = fitted.scores(X[fold.test])[0]
                if not place:  # the first one chooses
                    choice = {"chosen": fitted.chosen_, "at_edge": fitted.at_edge_}
                said.append(scores.argmax(1))
            choice["predicted"] = np.stack(said)
            return choice if question.few else choice | {"scores": scores}

        if not _ours(classifier):
            return compute()
        rows = [(fold.train, fold.val, fold.fit, fold.test) for fold in folds]
        parts = (5, question.few, type(classifier).__name__, classifier, key, self.y, rows)
        return kept("answers", parts, compute)

    def _note(self, question, arrays):
        """Add the answers on one fold; once all folds of its split are there, the rows."""
        encoder, chosen, at_edge = question.encoder, question.chosen, None
        if len(question.classifier.candidates) > 1:
            chosen = str(arrays["chosen"])
        if chosen and question.classifier.grid:
            at_edge = float(arrays["at_edge"])
        for fold, told in zip(question.folds, arrays["predicted"], strict=True):
            where = (fold.split, encoder.name, encoder.features, question.method, fold.shots)
            self._specs[where] = "" if encoder.preprocess.shrink else encoder.spec
            parts = self._parts.setdefault((where, fold.seed), {})
            said = (fold.test, told, arrays.get("scores"), chosen, at_edge, len(fold.fit))
            parts[fold.number] = said
            if len(parts) == len(self.splits[fold.split]):
                parts = self._parts.pop((where, fold.seed))
                self._complete(where, fold.seed, [part for _, part in sorted(parts.items())])
                self._judge(question, where, fold.seed)

    def _complete(self, where, seed, parts):
        rows, predicted, scores, chosen, at_edge, learnt = zip(*parts, strict=True)
        rows, predicted = np.concatenate(rows), np.concatenate(predicted)
        scores = None if scores[0] is None else np.concatenate(scores)
        drawn = self._answers.setdefault(where, {})
        drawn[seed] = told = Answers(rows, self.y[rows], predicted, scores, chosen, max(learnt))
        at = dict(zip(WHERE, where, strict=False))
        at["at_edge"] = None if at_edge[0] is None else float(np.mean(at_edge))
        words = _words(chosen)
        self.add("top-1", told.right, rows, seed=seed, chosen=words, **at)
        if len(drawn) > 1:
            every = _words([one for answers in drawn.values() for one in answers.chosen])
            right = np.stack([one.right for one in drawn.values()])
            self.add("top-1", right, rows, chosen=every, **at)
        if scores is not None:
            for k in self.top[1:]:
                self.add(f"top-{k}", top_k(scores, told.y, k), rows, seed=seed, chosen=words, **at)

    def _judge(self, question, where, seed):
        """Note a classifier to be saved, unless it was judged on as good a split before."""
        split, name = where[0], where[1:4]
        best = judge([self._judged.get(name, split), split])
        wanted = self._specs[where] and not question.few and _ours(question.classifier)
        if wanted and best != self._judged.get(name):
            self._judged[name], self._to_save[name] = split, (question, where, seed)

    def _save_classifier(self, job):
        """Fit it on all pictures; one on a few, or a fine-tuned one, stays as it was judged."""
        question, where, seed = job
        asked, fold = (question.classifier, question.encoder), question.folds[0]
        rows = fold.fit if fold.shots or question.encoder.tuned else np.arange(len(self.y))
        told, row = self._answers[where][seed], self._rows[("top-1", *where, seed)]
        name = where[1:4]
        alike = [one for one in self._judged if _folder(one) == _folder(name)].index(name)
        folder = self._saved / (_folder(name) + (f"-{alike + 1}" if alike else ""))
        save_classifier(folder, *asked, self.index, self.words, rows, told, row)

    def answers(self, **where):
        """The answers to one question.

        Parameters
        ----------
        **where
            What tells it from the others: any of split, encoder, features, method, shots, seed.

        Returns
        -------
        Answers

        Raises
        ------
        KeyError
            There is none, or there are several.
        """
        found = []
        for at, drawn in self._answers.items():
            for seed, answers in drawn.items():
                if where.items() <= dict(zip(WHERE, (*at, seed), strict=True)).items():
                    found.append(answers)
        if len(found) != 1:
            raise KeyError(f"{len(found)} answers of {self.name} are to {where}")
        return found[0]

    def add(self, metric, values, rows, **where):
        """Add a row: the mean of values, with its interval. It replaces an earlier one.

        Parameters
        ----------
        metric : str
        values : array, shape (M,) or (S, M)
            For each tested picture, of one seed or of S, as in
            :func:`cliphelpers.evaluation.interval`.
        rows : int array, shape (M,)
            Positions of these pictures in the index.
        **where
            Any of split, encoder, features, method, shots, seed, chosen, at_edge.

        Raises
        ------
        TypeError
            There is no such column.
        """
        if unknown := set(where) - {*WHERE, "chosen", "at_edge"}:
            raise TypeError(f"No column {unknown.pop()!r} in results: use some of {WHERE}")
        rows = np.arange(len(self.y))[rows]  # of a mask, too
        classes, groups = self.y[rows], self._groups[rows]
        mean, low, high, p = interval(values, classes, groups)
        _, low_classes, high_classes, _ = interval(values, 0 * classes, classes, crossed=groups)
        balanced = pd.Series(np.atleast_2d(values).mean(0)).groupby(classes).mean().mean()
        row = {"experiment": self.name, "dataset": self.index.attrs["name"], "metric": metric}
        row |= {"value": mean, "low": low, "high": high, "balanced": balanced, "n": len(rows)}
        row |= {"low_classes": low_classes, "high_classes": high_classes}
        row["p"] = p if metric.endswith("difference") else None
        self._rows[(metric, *map(where.get, WHERE))] = where | row

    def differences(self, column, values, name=None, **where):
        """Add the paired differences of answers, picture by picture: "top-1 difference".

        Of several seeds it is the difference of the means. Where the second did not learn from k
        pictures a class, as zero-shot does not, it is compared with each k.

        Parameters
        ----------
        column : {"encoder", "method", "features"}
            What the two answers of a pair differ in.
        values : list of str
            The values of that column; each but the last is compared with all that follow.
        name : str, optional
            Of the difference; by default "first − second".
        **where
            Only answers with these values, as in :meth:`answers`. Where none have the first value
            of a pair, as where a training was left out, no row is added.

        Raises
        ------
        KeyError
            Answers with the first value have none with the second to compare them with.
        """
        free = [column, "features"] if column == "encoder" else [column]
        for first, second in combinations(values, 2):
            for at, drawn in list(self._answers.items()):
                at = dict(zip(WHERE, at, strict=False))
                if not (where | {column: first}).items() <= at.items():
                    continue
                same = {key: value for key, value in at.items() if key not in free}
                less = []
                for seed, one in drawn.items():
                    rival = self._rival(same | {column: second, "seed": seed})
                    less.append(one.right.astype(int) - rival.right)
                row = same | {column: name or f"{first} − {second}"}
                row["seed"] = None if len(drawn) > 1 else seed
                self.add("top-1 difference", np.stack(less), one.rows, **row)

    def _rival(self, where):
        try:
            return self.answers(**where)
        except KeyError:
            return self.answers(**where | {"shots": None, "seed": None})

    def table(self, every_seed=False, **where):
        """The results as tidy rows, those that match ``where``: DataFrame.

        Columns are experiment, dataset, split, encoder, features, method, shots, seed (empty for
        the mean of several), metric, value, low and high (of the 95 % interval for these classes
        and other groups), low_classes and high_classes (for other classes, too), balanced (the
        mean of the classes' own means), n (pictures); of differences p and verdict: "better",
        "worse" or "not decided", by Holm's correction for all differences of this metric; and
        what validation chose, with the share of folds where that is at_edge of its grid.

        Parameters
        ----------
        every_seed : bool
            Whether rows of single seeds stand beside that of their mean.
        **where
            Values of columns.
        """
        table = pd.DataFrame(self._rows.values(), columns=COLUMNS)
        table = table.astype({"shots": "Int64", "seed": "Int64", "verdict": object})
        for _, some in table.dropna(subset="p").groupby("metric"):
            decided = np.where(holm(some.p) < 1 - LEVEL, np.sign(some.value), 0)
            words = {-1: "worse", 0: "not decided", 1: "better"}
            table.loc[some.index, "verdict"] = [words[sign] for sign in decided]
        if not every_seed:
            table = of_seeds_the_mean(table)
        for column, value in where.items():
            table = table[table[column] == value]
        return table.reset_index(drop=True)

    def save(self, output, curves=None):
        """Write ``<output>/results/<name>.csv``, the curves of trainings beside it, and answers.

        The answers go to ``<output>/answers/<name>.npz``: see :mod:`cliphelpers.answers`.

        Into ``<output>/classifiers/<name>/`` go the classifiers of all questions without shots,
        but for encoders that know nothing: see :func:`cliphelpers.saved.load_classifier`.

        Parameters
        ----------
        output : str or Path
        curves : DataFrame, optional
            Of :func:`cliphelpers.finetuning.training.fine_tune`, of one training or several;
            goes to ``<name>_curves.csv``.

        Returns
        -------
        DataFrame
            The results.
        """
        if self._parts:
            words = "some folds of a split were not asked, and there are rows of whole splits alone"
            warnings.warn(f"{len(self._parts)} questions have no rows: {words}", stacklevel=2)
        folder, form = Path(output) / "results", {"float_format": "%.6f"}
        write_table(folder / f"{self.name}.csv", self.table(every_seed=True), **form)
        classifiers = Path(output) / "classifiers" / self.name
        shutil.rmtree(classifiers, ignore_errors=True)
        if self._judged:
            shutil.copytree(self._saved, classifiers, dirs_exist_ok=True)  # if two do so at once
        if curves is not None:
            curves = curves.assign(experiment=self.name, dataset=self.index.attrs["name"])
            write_table(folder / f"{self.name}_curves.csv", curves[CURVE_COLUMNS], **form)
        said = Path(output, "answers", f"{self.name}.npz")
        save_answers(said, self.index, self._groups, self._said())
        return self.table()

    def _said(self):
        """Yield of each question where it was put, with the encoder's text, and its answers."""
        for at, drawn in self._answers.items():
            where = dict(zip(WHERE, at, strict=False))
            yield where | {"spec": self._specs[at]}, list(drawn.values())


def of_seeds_the_mean(table):
    """Rows of results without those of single seeds where the row of their mean is there."""
    key = [table[name] for name in ["experiment", "metric", *WHERE[:-1]]]
    mean = table.seed.isna().groupby(key, dropna=False)
    return table[table.seed.isna() | ~mean.transform("any")]


def _ours(classifier):
    """Whether it is the package's own: code of others can change under one name."""
    return type(classifier).__module__ == classifiers.__name__


def _folder(name):
    """What the folder of a classifier is called."""
    encoder, features, method = name
    return re.sub(r"[^\w=.]+", "-", f"{method} {encoder} {features}")


def _words(chosen):
    return "; ".join(dict.fromkeys(chosen)) if chosen[0] else None


def read_results(file):
    """A table of results as :meth:`Study.save` has written it: DataFrame.

    A data set may be called "2024" or "NA".
    """
    return pd.read_csv(file, dtype={"dataset": str}, keep_default_na=False, na_values=[""])


def in_words(row):
    """A row of results as text: its value, its interval and, of a difference, the verdict."""
    form = "{:+.1%}" if row.metric.endswith("difference") else "{:.1%}"
    value, low, high = map(form.format, (row.value, row.low, row.high))
    verdict = f", {row.verdict}" if isinstance(row.verdict, str) else ""
    return f"{value} ({low} to {high}){verdict}"
