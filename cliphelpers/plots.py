"""The figures of the series, in one style that is safe for colour-blind readers."""

from functools import partial
from itertools import product
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator, PercentFormatter
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from cliphelpers.cache import as_bytes, kept, write_atomically
from cliphelpers.encoders.encoder import normalize
from cliphelpers.fonts import more_fonts
from cliphelpers.images import read_image
from cliphelpers.index import classes, targets
from cliphelpers.looks import group_of

COLOURS = sns.color_palette("colorblind")
RIGHT, WRONG = COLOURS[2], COLOURS[3]
SPLITS = {
    "official": "official\n(as the folders state it)",
    "by_group": "by_group\n(whole groups held out)",
    "by_look": "by_look\n(what looks alike held out)",
    "random": "random\n(test pictures drawn at random)",
}
_MAPPED = 1000  # pictures on a map: t-SNE takes 3 seconds
WIDTH = 9  # inches, at 100 dpi about the width of a README
_STROKES, _GREY = ("--", ":", "-."), {"color": "0.35", "lw": 1.4}  # of lines to compare with
HALO = withStroke(linewidth=3, foreground="white")  # numbers stay legible where lines cross them


def set_style(text=""):
    """Use the style of the series, with fonts for the text, for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette=COLOURS)
    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    plt.rcParams["font.family"] = ["sans-serif", *more_fonts(text)]


def save_fig(figure, output, name):
    """Write a figure as ``<output>/pics/<name>.jpg``."""
    path = Path(output) / "pics" / f"{name}.jpg"
    look = {"quality": 88, "optimize": True}
    write_atomically(path, as_bytes(figure.savefig, format="jpg", pil_kwargs=look))


# ------------------------------------------------------------------------------- rows of results


def dots(table, y, hue, title, xlabel="top-1 accuracy", lines=None):
    """Results with their intervals as dots, a panel for each split.

    Parameters
    ----------
    table : DataFrame
        Result rows; columns split, value, low, high and those that ``y`` and ``hue`` name.
        Differences, some of which are below 0, get a line at 0.
    y, hue : str
        The columns of the vertical axis, top down in the order of the table, and of the colours.
    title, xlabel : str
    lines : DataFrame, optional
        Result rows drawn as upright lines, labelled by their encoder.

    Returns
    -------
    matplotlib Figure
    """
    names, hues = list(table[y].unique()), list(table[hue].unique())
    height = 0.5 + len(names) * max(0.34, 0.23 * len(hues))
    for axis, part, ends in _panels(table, lines, None, height, xlabel):
        draw_dots(axis, part, y, hue, names, hues)
        for number, end in enumerate(ends.itertuples()):
            axis.axvline(end.value, ls=_STROKES[number % 3], label=_label(end.encoder), **_GREY)
            left = end.value > 0.5
            axis.annotate(
                f"{end.value:.1%}", (end.value, 0.02 + 0.09 * number), (-3 if left else 3, 0),
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
                ha="right" if left else "left", color="0.35", path_effects=[HALO],
            )  # fmt: skip
        if table.low.min() < 0:
            axis.axvline(0, color="0.35", lw=1.2, zorder=0)
        else:
            axis.set_xlim(0, max(1.04 * table.high.max(), 0.1))
    return _finished(axis.figure, title, len(hues) > 1 or lines is not None)


def draw_dots(axis, table, y, hue="split", names=None, hues=None):
    """Draw ``value`` with low to high as dots on an axis, the values of column y down it."""
    names, hues = names or list(table[y].unique()), hues or table[hue].unique()
    for number, one in enumerate(hues):
        part, colour = table[table[hue] == one], COLOURS[number % 10]
        places = np.array([names.index(name) for name in part[y]])
        places = places + 0.8 * ((number + 0.5) / len(hues) - 0.5)
        spread = np.clip([part.value - part.low, part.high - part.value], 0, None)
        style = {"fmt": "os^D"[number % 4], "color": colour, "capsize": 2.5, "ms": 5}
        style |= {"label": _label(one), "clip_on": False, "zorder": 3}
        axis.errorbar(part.value, places, xerr=spread, **style)
        signed = "+.1%" if part.low.min() < 0 else ".1%"
        for value, place in zip(part.value, places, strict=True):
            axis.annotate(
                format(value, signed), (value, place), (0, 4), textcoords="offset points",
                ha="center", fontsize=7, color=colour, path_effects=[HALO], zorder=4,
            )  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="y", visible=False)


def curves(table, x, hue, title, xlabel, row="encoder", y="value", log=True, lines=None):
    """Results against a number as lines, a panel for each split.

    Parameters
    ----------
    table : DataFrame
        Result rows, a line through their means with a ribbon of their intervals, if they have any.
    x, hue : str
        The columns of the horizontal axis and of the colours.
    title, xlabel : str
    row : str, optional
        A column: a row of panels for each of its values; none if it is ``hue``.
    y : str
        The column of the vertical axis.
    log : bool
        Whether the horizontal axis is logarithmic.
    lines : DataFrame, optional
        Result rows drawn as level lines, labelled by their method.

    Returns
    -------
    matplotlib Figure
    """
    row, hues, ticks = None if row == hue else row, table[hue].unique(), sorted(set(table[x]))
    for axis, part, ends in _panels(table, lines, row, 2.6, xlabel):
        draw_lines(axis, part, x, hue, y, hues)
        for number, end in enumerate(ends.itertuples()):
            axis.axhline(end.value, ls=_STROKES[number % 3], label=_label(end.method), **_GREY)
        if log:
            axis.set_xscale("log", base=2)
        if log or len(ticks) < 8:
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_ylim(0, 1.02)
    return _finished(axis.figure, title, True)


def draw_lines(axis, table, x, hue, y="value", hues=None):
    """Draw means of ``y`` against column x as lines on an axis, a colour for each value of hue."""
    for number, one in enumerate(table[hue].unique() if hues is None else hues):
        groups = table[table[hue] == one].groupby(x)
        mean, colour, label = groups[y].mean(), COLOURS[number % 10], _label(one)
        axis.plot(mean.index, mean, "o-", color=colour, label=label, ms=4, clip_on=False, zorder=3)
        if "low" in table:
            ends = groups.low.mean(), groups.high.mean()
            axis.fill_between(mean.index, *ends, color=colour, alpha=0.2, lw=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1))


def costs(ways, taken=None):
    """Accuracy against cost, and the Pareto front: what nothing cheaper is more accurate than.

    Parameters
    ----------
    ways : list of cliphelpers.answers.Way
        Of the same pictures, with their costs.
    taken : Way, optional
        The recommended one, which gets a ring.

    Returns
    -------
    matplotlib Figure
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    encoders = list(dict.fromkeys(way.encoder for way in ways))
    methods = list(dict.fromkeys(way.method for way in ways))
    markers, best = "os^DvPX*", 0
    for number, encoder in enumerate(encoders):
        axis.plot([], [], color=COLOURS[number % 10], lw=6, label=encoder)
    for number, method in enumerate(methods):
        axis.plot([], [], markers[number % 8], color="0.35", label=method)
    for way in sorted(ways, key=lambda way: (way.cost, -way.accuracy()[0])):
        mean, low, high = way.accuracy()
        colour, marker = COLOURS[encoders.index(way.encoder) % 10], methods.index(way.method)
        place = way.cost * 1.04 ** (marker - (len(methods) - 1) / 2)
        style = {"fmt": markers[marker % 8], "color": colour, "capsize": 2.5, "ms": 6}
        axis.errorbar(place, mean, [[mean - low], [high - mean]], **style)
        if mean > best:  # the front goes on, on this height
            front = {"color": "0.6", "lw": 1, "ls": ":", "label": "the best up to this cost"}
            axis.hlines(mean, place, axis.get_xlim()[1] * 1e3, **front)
            best = mean
        if way is taken:
            axis.plot(place, mean, "o", ms=15, mfc="none", mec="black", label="recommended")
    ends = [way.cost for way in ways]
    axis.set(xscale="log", xlim=(min(ends) / 1.6, max(ends) * 1.6), ylim=(0, 1.02))
    axis.set_xlabel("milliseconds a picture (ways of an encoder side by side)")
    axis.set_ylabel("top-1 accuracy")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params("x", which="both", length=0, pad=4)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    return _finished(figure, f"What does accuracy cost? ({ways[0].split})", True)


def _panels(table, lines, row, height, xlabel):
    """Yield each panel of a new figure: its axis, and its part of the table and of the lines."""
    splits, rows = table.split.unique(), table[row].unique() if row else [None]
    size = (WIDTH, 1.1 + (height + 0.3) * len(rows))
    grid = {"sharex": True, "sharey": True, "squeeze": False}
    _, axes = plt.subplots(len(rows), len(splits), figsize=size, **grid)
    for axis, (one, split) in zip(axes.flat, product(rows, splits), strict=True):
        heading = SPLITS.get(split, split) if one == rows[0] else split
        axis.set_title(heading if row is None else f"{one}\n{heading}", fontsize=9)
        axis.set_xlabel(xlabel)
        axis.label_outer()
        parts = [table, table.head(0) if lines is None else lines]
        for column, value in ({"split": split} | ({row: one} if row else {})).items():
            parts = [part[part[column] == value] for part in parts]
        yield axis, *parts


def _finished(figure, title, legend):
    """The figure with its title, and one legend below for all panels."""
    if legend:
        found = {}
        for axis in figure.axes:
            handles, labels = axis.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        place = {"loc": "outside lower center", "ncols": 3, "fontsize": 9}
        figure.legend(found.values(), found.keys(), **place)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


# ------------------------------------------------------------------------------- pictures


def picture_grid(pictures, captions, rows, colours=None, row_titles=(), title=""):
    """Pictures in rows, each with a caption below and enlarged pixel by pixel.

    Parameters
    ----------
    pictures : list of str or of uint8 arrays (H, W, 3), length N
        Paths or pixels, row by row.
    captions : list of str, length N
    rows : int
    colours : list, length N, optional
        Of the captions.
    row_titles : list of str
        A line above each row.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    columns = -(-len(pictures) // rows)
    fit = partial(wrap, width=int(13 * WIDTH / columns))  # characters
    captions = ["\n".join(sum(map(fit, words.split("\n")), [])) for words in captions]
    words = 0.35 + 0.15 * max(caption.count("\n") + 1 for caption in captions)
    size = (WIDTH, 0.35 + rows * (WIDTH / columns + words))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    colours = colours or ["0.15"] * len(pictures)
    for axis, picture, caption, colour in zip(axes.flat, pictures, captions, colours, strict=False):
        axis.imshow(read_image(picture) if isinstance(picture, str) else picture)
        axis.annotate(
            caption, (0.5, 0), (0, -5), xycoords="axes fraction", textcoords="offset points",
            color=colour, fontsize=8.5, ha="center", va="top", linespacing=1.15,
        )  # fmt: skip
    for row, row_title in enumerate(row_titles):
        axes[row, 0].set_title(row_title, fontsize=10)
    return _finished(figure, title, False)


def confusion_matrix(y, predicted, labels, title, most=20):
    """What the classes with the most errors are taken for, counts on a colour of their share.

    Parameters
    ----------
    y, predicted : int arrays, shape (N,)
    labels : list of str, length C
    title : str
    most : int
        How many classes to show, and of what they are taken for how many, the most frequent
        ones; the other predictions are a last column.

    Returns
    -------
    matplotlib Figure
    """
    names = np.asarray(labels)
    accuracy = pd.Series(y == predicted).groupby(names[y]).mean().sort_values(kind="stable")
    counts = pd.crosstab(names[y], names[predicted]).loc[sorted(accuracy.index[:most])]
    if len(names) <= most:  # all of them, so that the right answers are the diagonal
        counts = counts.reindex(columns=sorted(names), fill_value=0)
    told = sorted(counts.sum().sort_values(ascending=False, kind="stable").index[:most])
    others = counts.drop(columns=told).sum(axis=1).rename("others")  # a class may be called so, too
    matrix = pd.concat([counts[told], others] if others.any() else [counts[told]], axis=1)
    matrix = matrix.rename(index=_short, columns=_short)
    height = 1 + 0.07 * max(map(len, matrix.columns)) + 0.3 * len(matrix)
    figure, axis = plt.subplots(figsize=(WIDTH, height))
    sns.heatmap(
        matrix.div(matrix.sum(axis=1), axis=0), ax=axis, cmap="Blues", vmin=0, vmax=1,
        annot=matrix.astype(str).where(matrix > 0, ""), fmt="", annot_kws={"fontsize": 7},
        linewidths=0.5, xticklabels=True, yticklabels=True,
        cbar_kws={"label": "share of the true class", "format": PercentFormatter(1)},
    )  # fmt: skip
    axis.tick_params(labelsize=8)
    some = f"true: the {most} of {len(names)} with the most errors" if len(names) > most else "true"
    axis.set(xlabel="predicted", ylabel=some)
    return _finished(figure, title, False)


def _short(name):
    """A name of at most 28 characters, both of whose ends are there."""
    return name if len(name) <= 28 else f"{name[:14]}…{name[-13:]}"


def _label(name):
    """A name as legends take it: they leave out what begins with "_", so a space goes before it."""
    return f" {name}" if name.startswith("_") else name


def feature_map(features, index, rows, title, seed=0):
    """Pictures as points that are near where their features are, a panel for each encoder.

    t-SNE (van der Maaten and Hinton, Visualizing data using t-SNE, 2008) of the first 50
    principal components of the features, each picture's divided by their length. Only who is near
    whom means something, not how far apart islands lie. The line under it counts neighbours
    among all of the rows in the features themselves, by cosine.

    Parameters
    ----------
    features : dict of str to float32 array, shape (N, D)
        For each encoder's name.
    index : DataFrame
    rows : int array
        Pictures to show; of more than 1,000 so many are drawn at random.
    title : str
    seed : int
        Of that draw, and of t-SNE.

    Returns
    -------
    matplotlib Figure
    """
    some = np.random.default_rng(seed).permutation(len(rows))[:_MAPPED]
    labels, y, groups = classes(index), targets(index)[rows], group_of(index)[rows]
    kind = "group" if (index["group"] != "").all() else "look"
    size = (WIDTH, 0.9 + WIDTH / len(features) * (0.7 if len(features) == 1 else 1))
    figure, axes = plt.subplots(1, len(features), figsize=size, squeeze=False)
    for axis, (name, X) in zip(axes.flat, features.items(), strict=True):
        X = normalize(X[rows])
        place = _tsne(X[some], seed)
        for number, label in enumerate(labels):
            style = {"color": COLOURS[number % 10], "marker": "os^Dv"[number // 10 % 5]}
            style |= {"label": _label(_short(label)), "s": 9, "lw": 0}
            axis.scatter(*place[y[some] == number].T, **style)
        shown = np.empty((0, 2))  # where there is a picture: none on another
        for point, row in zip(place, rows[some], strict=True):
            if (np.abs(shown - point).max(1) > 0.1).all():
                shown = np.vstack([shown, point])
                thumb = read_image(index.path.iloc[row])
                thumb.thumbnail((64, 64))
                box = OffsetImage(thumb, zoom=18 / max(thumb.size))
                above = {"xybox": (0, 15), "boxcoords": "offset points", "pad": 0.1}
                axis.add_artist(AnnotationBbox(box, point, **above))
        near = NearestNeighbors(n_neighbors=min(11, len(X)), metric="cosine").fit(X)
        near = near.kneighbors(X[some], return_distance=False)[:, 1:]  # the first is itself
        if near.size:
            same = [(values[near] == values[some, None]).mean() for values in (y, groups)]
            words = f"of {near.shape[1]} nearest neighbours {same[0]:.0%} share the class"
            axis.set_xlabel(f"{words}, {same[1]:.0%} the {kind}", fontsize=9)
        axis.set(xticks=[], yticks=[], ylim=(-0.05, 1.12))
        axis.set_title(name)
    return _finished(figure, title, len(labels) <= 10)


def _tsne(X, seed):
    """Places of pictures on a map, from 0 to 1: float32 (M, 2); kept on disk."""
    if np.ptp(X, axis=0).max() < 1e-6:  # one picture alone, or copies of it
        return np.zeros((len(X), 2), np.float32)

    def compute():
        few = PCA(min(50, *X.shape), random_state=seed).fit_transform(X)
        perplexity = min(30, (len(X) - 1) / 3)
        place = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(few)
        place -= place.min(0)
        return {"place": place / np.maximum(place.max(0), 1e-9)}

    return kept("maps", (X, seed), compute)["place"]
