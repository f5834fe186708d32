"""Notebooks 3 and 4 by hand: the penalty's strength, and the pictures behind each confusion."""

from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd

from cliphelpers.cache import kept
from cliphelpers.classifiers import Ridge
from cliphelpers.evaluation import confusions
from cliphelpers.index import classes, targets
from cliphelpers.parallel import in_parallel
from cliphelpers.splits import test_rows
from cliphelpers.widgets import parts

_STRENGTHS = [float(f"{10**power:.1e}") for power in np.linspace(1, -6, 29)]
_MOST = 8  # confusions in the table
_BLOCK = 2048  # pictures whose scores with all strengths are in memory at once


def probe_widget(features, index, splits):
    """The strength of ridge's penalty, and the pictures behind each confusion.

    All strengths of all encoders are computed first, with a progress bar.

    Parameters
    ----------
    features : dict of str to float32 array, shape (N, D)
        For each encoder's name.
    index : DataFrame
    splits : dict of str to list of Fold

    Returns
    -------
    ipywidgets.Widget
    """
    labels, y = classes(index), targets(index)

    @lru_cache
    def path(encoder, split):
        """Test pictures' positions, their classes by strength, accuracies, the best strength."""
        asked, found = test_rows(splits[split]), _ridge_path(features[encoder], y, splits[split])
        told = found.pop("predicted")
        found["test"] = told == y[asked]
        table = pd.DataFrame({name: right.mean(1) for name, right in found.items()}, _STRENGTHS)
        judge = "validation" if "validation" in table else "training"
        return asked, told, table, judge, table[judge].idxmax()

    def show(encoder, split, strength, label):
        asked, told, table, judge, best = path(encoder, split)
        strength = strength or best
        told, rows = told[_STRENGTHS.index(strength)], y[asked] == labels.index(label)
        confused = confusions(y[asked], told, labels).head(_MOST)
        melted = table.rename_axis("strength").reset_index().melt("strength")
        axis = {"xscale": "log", "xlabel": "strength of the penalty", "ylim": (0, 1.02)}
        chart = parts.lines(melted, "strength", "variable", strength, **axis)
        return (
            f"<b>ridge, strength {strength:.1e}: accuracy {table.test[strength]:.1%}</b> of "
            f"{len(asked)} test pictures; {judge} would choose {best:.1e}<br>"
            + parts.beside(chart, parts.table(confused))
            + _taken_for(label, np.array(labels)[told[rows]], index.path.iloc[asked[rows]])
        )

    in_parallel(lambda where: path(*where), [*product(features, splits)], "path")  # now, not later
    options = [("best", 0), *((f"{value:.1e}", value) for value in _STRENGTHS)]
    return parts.interactive(
        show,
        encoder=parts.choice("encoder", features),
        split=parts.choice("split", splits, value=list(splits)[-1]),
        strength=parts.steps("strength", options),
        label=parts.choice("pictures of", labels),
    )


def _ridge_path(X, y, folds):
    """What ridge regression says with each of S strengths; kept on disk: dict of str to array.

    "predicted" are the classes of the test pictures of all folds, one fold after the other (S, M);
    "training" and, where there are such pictures, "validation" are whether those are right.
    """

    def fitted(rows):
        return Ridge(_STRENGTHS).fit(X[rows], y[rows], int(y.max()) + 1)

    def told(ridge, rows):
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        return np.hstack([ridge.scores(X[block]).argmax(2) for block in blocks])

    def compute():
        found = {"training": [], "validation": [], "predicted": []}
        for fold in folds:
            ridge = fitted(fold.fit)
            found["training"].append(told(ridge, fold.fit) == y[fold.fit])
            found["predicted"].append(told(ridge, fold.test))
            if len(fold.val):
                found["validation"].append(told(fitted(fold.train), fold.val) == y[fold.val])
        return {name: np.hstack(arrays) for name, arrays in found.items() if arrays}

    return kept("ridge-path", ("ridge answers", X, y, folds, _STRENGTHS), compute)


def _taken_for(label, told, paths):
    """A class's test pictures by what they are taken for, the most frequent confusion first."""
    counts = pd.Series(told).value_counts()
    page = f"<br><b>{parts.escaped(label)}, {len(told)} test pictures</b>"
    for name in sorted(counts.index, key=lambda name: name == label):  # the right ones last
        title = f"taken for {parts.escaped(name)}: {counts[name]}"
        page += parts.gallery(title, paths[told == name])
    return page
