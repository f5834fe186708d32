"""A study: questions put to encoders, answered side by side, and kept as tidy rows of results.

A question is a method (a classifier) and an encoder; it is put to every fold of every split, for
each k and seed. The answer says of each test picture what it was taken for.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.cache import kept, key_of
from cliphelpers.classifiers import fit_chosen
from cliphelpers.encoders.encoder import Encoder
from cliphelpers.evaluation import bootstrap, top_k
from cliphelpers.features import extract_features
from cliphelpers.index import group_of, targets
from cliphelpers.parallel import in_parallel
from cliphelpers.splits import few_shot_fold, test_rows

WHERE = ["split", "encoder", "features", "method", "shots", "seed"]  # what an answer is to
COLUMNS = ["experiment", "dataset", *WHERE, "metric", "value", "low", "high", "n"]
CURVE_COLUMNS = [*COLUMNS[:8], "fold", "chosen", "epoch", "part", "loss", "accuracy"]


@dataclass
class Answers:
    """What was said of the test pictures of a split, one fold after the other.

    Attributes
    ----------
    rows, y : int arrays, shape (M,)
        Positions of the pictures in the index, and their classes.
    right : float array, shape (M,)
        1 where the answer is right and 0 where it is not; a mean over seeds lies between.
    predicted : int array, shape (M,)
        The class of each answer; of several seeds that of the first.
    scores : float32 array, shape (M, C), or None
        Only of questions without shots.
    """

    rows: np.ndarray
    y: np.ndarray
    right: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray | None


@dataclass(eq=False)
class _Question:
    """One method, encoder and fold; of a few-shot question the fold as each seed draws it."""

    method: str
    classifier: object
    encoder: Encoder
    folds: list
    average: bool

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
        The accuracies of questions without shots: (1, 5) for top-1 and top-5.

    Attributes
    ----------
    y : int array, shape (N,)
        Class numbers of the index's pictures.
    """

    def __init__(self, name, index, splits, top=(1,)):
        self.name, self.index, self.splits = name, index, splits
        self.top, self.y = top, targets(index)
        self._groups = np.unique(group_of(index), return_inverse=True)[1]  # numbers sort faster
        self._asked, self._drawn, self._parts, self._answers, self._rows = [], {}, {}, [], []

    def rows(self, split):
        """Positions of the test pictures of a split, one fold after the other: int (M,)."""
        return test_rows(self.splits[split])

    def ask(self, method, classifier, encoder, fold=None, shots=None, seeds=(0,), average=False):
        """Put a question, which :meth:`run` answers.

        Parameters
        ----------
        method : str
            Its name in the results.
        classifier : NearestMean, TipAdapter, Ridge, Logistic or Linear
        encoder : Encoder
        fold : Fold, optional
            The only one to ask; by default every fold of every split.
        shots : list of int, optional
            Learn from k pictures a class, for each of these k: see
            :func:`cliphelpers.splits.few_shot_fold`. By default from all.
        seeds : sequence of int
            Of the draws. The first seed's draw chooses among candidates, for all.
        average : bool
            Whether all seeds together are one row, their mean.
        """
        folds = [fold] if fold else [one for parts in self.splits.values() for one in parts]
        for one in folds:
            for k in shots or [None]:
                drawn = [self._draw(one, k, seed) for seed in seeds] if k else [one]
                question = _Question(method, classifier, encoder, drawn, average)
                self._asked.append(question)

    def _draw(self, *fold_k_seed):
        if fold_k_seed not in self._drawn:
            self._drawn[fold_k_seed] = few_shot_fold(self.index, *fold_k_seed)
        return self._drawn[fold_k_seed]

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
        return self.table()

    def _answer(self, question):
        """Classes that each draw of a question's fold gives, int (S, M), and perhaps scores."""
        folds, classifier = question.folds, question.classifier
        X, key = self._features[question.encoder]

        def compute():
            fitted, said = classifier, []
            for place, fold in enumerate(folds):
                if not place or not np.array_equal(fold.fit, folds[place - 1].fit):
                    fitted = fit_chosen(fitted, X, self.y, fold)  # the first one chooses
                    scores = fitted.scores(X[fold.test])[0]
                said.append(scores.argmax(1))
            return {"predicted": np.stack(said)} | ({} if fold.shots else {"scores": scores})

        rows = [(fold.train, fold.val, fold.fit, fold.test) for fold in folds]
        parts = (type(classifier).__name__, classifier, key, self.y, rows)
        return kept("answers", parts, compute)

    def _note(self, question, arrays):
        """Add the answers on one fold; once all folds of its split are there, the rows."""
        encoder, folds, all_scores = question.encoder, question.folds, arrays.get("scores")
        drawn = [folds] if question.average else [[fold] for fold in folds]
        for some, told in zip(drawn, np.split(arrays["predicted"], len(drawn)), strict=True):
            fold, seed = some[0], None if question.average else some[0].seed
            where = (fold.split, encoder.name, encoder.features, question.method, fold.shots, seed)
            parts = self._parts.setdefault(where, {})
            right = (told == self.y[fold.test]).mean(0)
            parts[fold.number] = (fold.test, right, told[0], all_scores)
            if len(parts) == len(self.splits[fold.split]):
                self._complete(where, [part for _, part in sorted(self._parts.pop(where).items())])

    def _complete(self, where, parts):
        rows, right, predicted, scores = zip(*parts, strict=True)
        rows, right, predicted = map(np.concatenate, (rows, right, predicted))
        y, where = self.y[rows], dict(zip(WHERE, where, strict=True))
        scores = None if scores[0] is None else np.concatenate(scores)
        self._answers.append((where, Answers(rows, y, right, predicted, scores)))
        self.add("top-1", right, rows, **where)
        if scores is not None:
            for k in self.top[1:]:
                self.add(f"top-{k}", top_k(scores, y, k), rows, **where)

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
        found = [answers for at, answers in self._answers if where.items() <= at.items()]
        if len(found) != 1:
            raise KeyError(f"{len(found)} answers of {self.name} are to {where}")
        return found[0]

    def add(self, metric, values, rows, **where):
        """Add a row: the mean of values, with its interval.

        Parameters
        ----------
        metric : str
        values : array, shape (M,)
            For each tested picture, as in :func:`cliphelpers.evaluation.bootstrap`.
        rows : int array, shape (M,)
            Positions of these pictures in the index.
        **where
            Any of split, encoder, features, method, shots, seed.

        Raises
        ------
        TypeError
            There is no such column.
        """
        if unknown := set(where) - set(WHERE):
            raise TypeError(f"No column {unknown.pop()!r} in results: use some of {WHERE}")
        mean, low, high = bootstrap(values, self._groups[rows])
        here = {"experiment": self.name, "dataset": self.index.attrs["name"], "metric": metric}
        row = {"value": mean, "low": low, "high": high, "n": len(values)}
        self._rows.append(here | where | row)

    def differences(self, column, values, name=None, **where):
        """Add the paired differences of answers, picture by picture: "top-1 difference".

        Parameters
        ----------
        column : {"encoder", "method", "features"}
            What the two answers of a pair differ in.
        values : list of str
            The values of that column; each but the last is compared with all that follow.
        name : str, optional
            Of the difference; by default "first − second".
        **where
            Only answers with these values, as in :meth:`answers`.
        """
        free = [column, "features"] if column == "encoder" else [column]
        for first, second in combinations(values, 2):
            wanted = where | {column: first}
            for at, one in [pair for pair in self._answers if wanted.items() <= pair[0].items()]:
                same = {key: value for key, value in at.items() if key not in free}
                less = one.right - self.answers(**same, **{column: second}).right
                row = same | {column: name or f"{first} − {second}"}
                self.add("top-1 difference", less, one.rows, **row)

    def table(self, **where):
        """The results as tidy rows, those that match ``where``: DataFrame.

        Columns are experiment, dataset, split, encoder, features, method, shots, seed, metric,
        value, low, high (of the 95 % interval) and n (pictures).
        """
        table = pd.DataFrame(self._rows, columns=COLUMNS).astype(dict.fromkeys(WHERE[4:], "Int64"))
        for column, value in where.items():
            table = table[table[column] == value]
        return table.reset_index(drop=True)

    def save(self, output, curves=None):
        """Write ``<output>/results/<name>.csv``, and the curves of trainings beside it.

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
        folder = Path(output) / "results"
        folder.mkdir(parents=True, exist_ok=True)
        form = {"index": False, "float_format": "%.6f", "lineterminator": "\n"}
        self.table().to_csv(folder / f"{self.name}.csv", **form)
        if curves is not None:
            names = {"experiment": self.name, "dataset": self.index.attrs["name"]}
            curves = curves.assign(**names)[CURVE_COLUMNS]
            curves.to_csv(folder / f"{self.name}_curves.csv", **form)
        return self.table()
