"""Notebook 2 by hand: k, the seed and the method, what taught and what was asked."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cliphelpers.index import classes
from cliphelpers.plots import draw_dots
from cliphelpers.splits import few_shot
from cliphelpers.widgets import parts


def shots_widget(study):
    """k, seed and method: accuracies, the pictures that taught and the pictures that were asked.

    Parameters
    ----------
    study : Study
        Its methods with a number of shots, and "zero-shot" without one.

    Returns
    -------
    ipywidgets.Widget
    """
    index, y, labels = study.index, study.y, classes(study.index)
    few = study.table(metric="top-1", every_seed=True).dropna(subset=["shots", "seed"])

    def show(encoder, split, k, seed, method, label):
        at, folds = {"encoder": encoder, "split": split}, study.splits[split]
        part = few[(few.encoder == encoder) & (few.split == split) & (few.shots == k)]
        zero = study.table(metric="top-1", method="zero-shot", **at)
        values = part[part.method == method].set_index("seed").value
        fold, number = folds[0], labels.index(label)  # whose answers come first
        learnt = few_shot(index, k, seed, fold.fit[y[fold.fit] == number])
        test = np.flatnonzero(y[fold.test] == number)
        answers = study.answers(method=method, shots=k, seed=seed, **at)
        right, told = answers.right[test], answers.predicted[test]
        where = parts.escaped(label) + (" (first fold)" if len(folds) > 1 else "")
        taught = f"{where}: {len(learnt)} to learn from"
        asked = f"{where}: {right.sum():.0f} of {len(test)} test pictures right"
        marks = [parts.marked(one == number, labels[one]) for one in told]
        gain = parts.points(values[seed] - zero.value.item())
        return (
            f"<b>{parts.escaped(method)}, k = {k}, seed {seed}: accuracy {values[seed]:.1%}</b>, "
            f"{gain} points against zero-shot; over the seeds {values.min():.1%} to "
            f"{values.max():.1%}<br>{_chart(part, zero, seed)}"
            f"{parts.gallery(taught, index.path.iloc[learnt])}"
            f"{parts.gallery(asked, index.path.iloc[fold.test[test]], marks)}"
        )

    return parts.interactive(
        show,
        encoder=parts.choice("encoder", few.encoder.unique()),
        split=parts.choice("split", study.splits),
        k=parts.steps("k", sorted(set(few.shots))),
        seed=parts.steps("seed", sorted(set(few.seed))),
        method=parts.choice("method", few.method.unique()),
        label=parts.choice("pictures of", labels),
    )


def _chart(part, zero, seed):
    """All methods with one seed and its intervals, the other seeds as ticks."""
    methods, others = list(part.method.unique()), part[part.seed != seed]
    figure = Figure((8, 1 + 0.35 * len(methods)), layout="constrained")
    axis = figure.subplots()
    axis.plot(others.value, [methods.index(one) for one in others.method], "|", color="0.4", ms=12)
    draw_dots(axis, pd.concat([part[part.seed == seed], zero]), "method")
    axis.set_xlabel(f"top-1 accuracy with seed {seed}; ticks: with the other seeds")
    return parts.image(figure.savefig, "png", dpi=80)
