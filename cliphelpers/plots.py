"""The figures of the series, in one style that is safe for colour-blind readers."""

import re
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from PIL import Image

from cliphelpers.images import read_image

COLOURS = sns.color_palette("colorblind")
RIGHT, WRONG = COLOURS[2], COLOURS[3]
SPLIT_TITLES = {
    "official": "official split\n(test frames from the training clips)",
    "by_clip": "whole clips held out\n(each clip tested once)",
    "random": "random split",
}
SPLIT_NAMES = {"official": "official split", "by_clip": "whole clips held out"}
WIDTH = 9  # inches, at 110 dpi about the width of a README
SAVED_DPI = 160
HALO = withStroke(linewidth=3, foreground="white")  # numbers stay legible where lines cross them


def set_style():
    """Use the style of the series for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette=COLOURS)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": SAVED_DPI,
            "figure.constrained_layout.use": True,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "figure.titlesize": "large",
            "figure.titleweight": "bold",
        }
    )


def save_fig(figure, output, name):
    """Write a figure as ``<output>/pics/<name>.jpg``."""
    path = Path(output) / "pics" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"quality": 88, "optimize": True})


def _title(figure, title):
    figure.suptitle(title, x=0.01, ha="left")


def picture_grid(paths, captions, colours, rows, row_titles=(), title=""):
    """Pictures in rows, each with a caption below.

    Parameters
    ----------
    paths, captions, colours : lists, length N
    rows : int
    row_titles : list of str
        A line above each row.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    columns = -(-len(paths) // rows)
    size = (WIDTH, rows * (WIDTH / columns * 0.9 + 0.55))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, path, caption, colour in zip(axes.flat, paths, captions, colours, strict=False):
        axis.imshow(read_image(path).resize((160, 160), Image.Resampling.BICUBIC))
        axis.text(
            0.5, -0.04, caption, transform=axis.transAxes, color=colour, fontsize=8.5,
            ha="center", va="top", linespacing=1.15,
        )  # fmt: skip
    for row, row_title in enumerate(row_titles):
        axes[row, 0].set_title(row_title, fontsize=10)
    _title(figure, title)
    return figure


def bars(labels, values, title, xlabel):
    """A few numbers as labelled horizontal bars, top down: matplotlib Figure."""
    figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 0.9 + 0.35 * len(labels)))
    patches = axis.barh(range(len(labels)), values, color=COLOURS[0])
    axis.bar_label(patches, fmt="{:.1%}", padding=3)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    _title(figure, title)
    return figure


def dots(table, y, title, xlabel="accuracy"):
    """Accuracies with their intervals as dots, a panel for each split and a colour an encoder.

    Differences of accuracies, some of which are below 0, get a line at 0.

    Parameters
    ----------
    table : DataFrame
        Result rows; columns split, encoder, value, low, high and the one that ``y`` names.
    y : str
        What stands on the vertical axis, top down in the order of the table.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    splits, names = _values(table, "split"), _values(table, y)
    encoders = _values(table, "encoder")
    height = 1.6 + 0.24 * len(names) * max(len(encoders), 1.4)
    figure, axes = plt.subplots(
        1, len(splits), figsize=(WIDTH, height), sharey=True, sharex=True, squeeze=False
    )
    for axis, split in zip(axes.flat, splits, strict=True):
        for number, encoder in enumerate(encoders):
            part = table[(table.split == split) & (table.encoder == encoder)]
            shift = 0.18 * (number - (len(encoders) - 1) / 2)
            places = [names.index(name) + shift for name in part[y]]
            _dots(axis, part, places, COLOURS[number], encoder)
        axis.set(title=SPLIT_TITLES.get(split, split), xlabel=xlabel)
        axis.set_yticks(range(len(names)), names)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0, 0].invert_yaxis()
    if table.low.min() < 0:
        for axis in axes.flat:
            axis.axvline(0, color="0.35", lw=1.2, zorder=0)
    else:
        axes[0, 0].set_xlim(left=0)
    if len(encoders) > 1:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), ncols=len(encoders), loc="outside lower center"
        )
    _title(figure, title)
    return figure


def _dots(axis, part, places, colour, label, marker="o"):
    spread = np.clip([part.value - part.low, part.high - part.value], 0, None)
    axis.errorbar(
        part.value, places, xerr=spread, fmt=marker, color=colour, label=label, capsize=3, ms=6
    )


def probe_plot(table, baselines, title):
    """Linear probes as dots with intervals, baselines as lines, a panel for each split.

    Parameters
    ----------
    table : DataFrame
        Result rows of the encoders, methods as markers.
    baselines : DataFrame
        Result rows whose ``encoder`` names the baseline.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    splits, names, methods = (_values(table, column) for column in ("split", "encoder", "method"))
    height = 2.3 + 0.7 * len(names)
    figure, axes = plt.subplots(
        1, len(splits), figsize=(WIDTH, height), sharey=True, sharex=True, squeeze=False
    )
    for axis, split in zip(axes.flat, splits, strict=True):
        for number, method in enumerate(methods):
            part = table[(table.split == split) & (table.method == method)]
            shift = 0.24 * (number - (len(methods) - 1) / 2)
            places = [names.index(name) + shift for name in part.encoder]
            _dots(axis, part, places, COLOURS[number], method, "os^"[number % 3])
            side = (0, 7) if number == 0 else (0, -15)
            for value, place in zip(part.value, places, strict=True):
                axis.annotate(
                    f"{value:.1%}", (value, place), side, textcoords="offset points",
                    ha="center", fontsize=8, color=COLOURS[number], path_effects=[HALO],
                )  # fmt: skip
        _baseline_lines(axis, baselines[baselines.split == split])
        axis.set(title=SPLIT_TITLES.get(split, split), xlabel="top-1 accuracy", xlim=(0, 1.02))
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.35, -0.65)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9
    )
    _title(figure, title)
    return figure


def _baseline_lines(axis, baselines):
    for number, row in enumerate(baselines.itertuples()):
        colour, style = COLOURS[7 if number else 3], ("--", ":", "-.")[number % 3]
        axis.axvline(row.value, color=colour, linestyle=style, lw=1.6, label=row.encoder)
        left = 0.1 < row.value == baselines.value.min()  # labels on the far sides of two lines
        axis.annotate(
            f"{row.value:.0%}", (row.value, 0.02), (-3 if left else 3, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if left else "left", fontsize=9, color=colour,
        )  # fmt: skip


def curves(table, x, hue, title, xlabel, lines=None):
    """Accuracy against a number: a panel for each split (across) and encoder (down).

    Parameters
    ----------
    table : DataFrame
        Result rows; several seeds become a line through their means and a ribbon of twice their
        standard error, one seed a line with its own interval.
    x, hue : str
        The columns on the horizontal axis, with a logarithmic scale, and of the colours.
    title, xlabel : str
    lines : DataFrame, optional
        Result rows drawn as horizontal lines, labelled by their method.

    Returns
    -------
    matplotlib Figure
    """
    splits, hues = _values(table, "split"), _values(table, hue)
    encoders = _values(table, "encoder") if hue != "encoder" else [None]
    figure, axes = plt.subplots(
        len(encoders), len(splits), figsize=(WIDTH, 1 + 3.4 * len(encoders)),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, (encoder, split) in zip(axes.flat, product(encoders, splits), strict=True):
        part = table[table.split == split]
        part = part if encoder is None else part[part.encoder == encoder]
        for number, value in enumerate(hues):
            _ribbon(axis, part[part[hue] == value], x, COLOURS[number], value)
        if lines is not None:
            _level_lines(axis, lines[(lines.split == split) & (lines.encoder == encoder)])
        heading = SPLIT_TITLES.get(split, split)
        axis.set(title=heading if encoder is None else f"{encoder}: {heading}")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(set(part[x])), [str(value) for value in sorted(set(part[x]))])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    for axis in axes[:, 0]:
        axis.set_ylabel("top-1 accuracy")
    axes[0, 0].set_ylim(0, 1)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    _title(figure, title)
    return figure


def _ribbon(axis, part, x, colour, label):
    groups = part.groupby(x)
    mean = groups.value.mean()
    if (groups.size() > 1).all():
        spread = 2 * groups.value.sem()
        low, high = mean - spread, mean + spread
    else:
        low, high = groups.low.mean(), groups.high.mean()
    axis.plot(mean.index, mean, "o-", color=colour, label=label, ms=4)
    axis.fill_between(mean.index, low, high, color=colour, alpha=0.2, lw=0)


def _level_lines(axis, lines):
    for number, row in enumerate(lines.itertuples()):
        style = ("--", ":")[number % 2]
        axis.axhline(row.value, color="0.35", linestyle=style, lw=1.4, label=row.method)


def fine_tuning_plot(epochs, table, title):
    """Fine-tuning of several encoders, a row each: accuracy by epoch, then what came of it.

    Parameters
    ----------
    epochs : DataFrame
        Columns encoder, split, method, seed, epoch, part and accuracy.
    table : DataFrame
        Result rows, drawn in the order of their methods; of several seeds the means of values
        and intervals.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    splits, names, methods = (_values(table, column) for column in ("split", "encoder", "method"))
    split = splits[-1]  # whose epochs are drawn: the hardest
    figure, axes = plt.subplots(
        len(names), 1 + len(splits), squeeze=False, sharex="col", sharey="col",
        figsize=(WIDTH, 1.5 + (0.5 + 0.26 * len(methods)) * len(names)),
        width_ratios=[1.1] + [1] * len(splits),
    )  # fmt: skip
    colours = dict(zip(_values(epochs, "method"), (COLOURS[0], COLOURS[1]), strict=False))
    for axis, name in zip(axes[:, 0], names, strict=True):
        part = epochs[(epochs.encoder == name) & (epochs.split == split)]
        for (method, half), line in part.groupby(["method", "part"], sort=False):
            mean = line.groupby("epoch").accuracy.mean()
            style = {"train": ":", "validation": "-"}[half]
            label = f"{method}, {half}"
            axis.plot(mean.index, mean, style, marker=".", color=colours[method], label=label)
        lines = re.sub(r"(.{8,}?_)(?=.)", r"\1\n", name, count=1)  # deit_tiny_patch16_224 is long
        axis.set_ylabel(lines.replace(", ", "\n"), fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    for row, name in enumerate(names):
        for axis, one in zip(axes[row, 1:], splits, strict=True):
            part = table[(table.encoder == name) & (table.split == one)]
            part = part.groupby("method", sort=False)[["value", "low", "high"]].mean()
            for method, place in zip(methods, range(len(methods)), strict=True):
                if method in part.index:
                    known = [colour for key, colour in colours.items() if method.startswith(key)]
                    _dots(axis, part.loc[[method]], [place], known[0] if known else "0.35", method)
                    value = part.value[method]
                    axis.annotate(
                        f"{value:.1%}", (value, place), (0, 5), textcoords="offset points",
                        ha="center", fontsize=8,
                    )  # fmt: skip
            axis.set(xlim=(0, 1.04), ylim=(len(methods) - 0.4, -0.8))
            axis.set_yticks(range(len(methods)), methods, fontsize=8.5)
            axis.tick_params(labelleft=one == splits[0], labelsize=9)
            axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0, 0].set_title(f"accuracy by epoch\n({SPLIT_NAMES.get(split, split)})")
    for axis, one in zip(axes[0, 1:], splits, strict=True):
        axis.set_title(f"tested:\n{SPLIT_NAMES.get(one, one)}")
    axes[-1, 0].set_xlabel("epoch (0: before any training)")
    for axis in axes[-1, 1:]:
        axis.set_xlabel("top-1 accuracy")
    handles = {}
    for axis in axes[:, 0]:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    _title(figure, title)
    return figure


def wise_ft_plot(lines, title):
    """Accuracy between zero-shot and fine-tuned weights: a panel an encoder, a line a split.

    Parameters
    ----------
    lines : dict of (encoder, split) to DataFrame
        Of :func:`cliphelpers.finetuning.wise_ft_curve`.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    names, splits = (list(dict.fromkeys(keys)) for keys in zip(*lines, strict=True))
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 3.9), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        for number, split in enumerate(splits):
            line, colour = lines[name, split], COLOURS[(0, 1, 2)[number % 3]]
            label = SPLIT_NAMES.get(split, split)
            axis.plot(line.index, line.value, "o-", color=colour, ms=5, label=label)
            axis.fill_between(line.index, line.low, line.high, color=colour, alpha=0.15, lw=0)
            for alpha in (line.index[0], line.index[-1]):
                highest = max(splits, key=lambda one: lines[name, one].value[alpha])
                axis.annotate(
                    f"{line.value[alpha]:.1%}", (alpha, line.value[alpha]),
                    (0, 7 if split == highest else -15), textcoords="offset points", ha="center",
                    fontsize=8, color=colour,
                )  # fmt: skip
        axis.set(title=name.replace(", ", "\n"), xlabel="alpha", xlim=(-0.09, 1.09))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.set_xticks([0, 0.5, 1], ["0\nzero-shot", "0.5", "1\nfine-tuned"])
    axes[0, 0].set(ylabel="top-1 accuracy", ylim=(0, 1.05))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    _title(figure, title)
    return figure


def confusion_matrix(y, predicted, labels, title, most=20):
    """What the classes with the most errors are taken for, rows adding up to 1.

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
    classes = len(labels)
    counts = np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    tested = np.flatnonzero(counts.sum(1))
    shown = np.sort(tested[np.argsort(np.diag(shares)[tested], kind="stable")][:most])
    told = np.sort(np.argsort(-counts[shown].sum(0), kind="stable")[:most])
    matrix = shares[np.ix_(shown, told)]
    names, columns = [labels[number] for number in shown], [labels[number] for number in told]
    if len(told) < classes:
        matrix = np.column_stack([matrix, 1 - matrix.sum(1)])
        columns.append("others")
    figure, axis = plt.subplots(figsize=(WIDTH, 1.8 + 0.3 * len(shown)))
    sns.heatmap(
        matrix,
        ax=axis,
        cmap="viridis",
        vmin=0,
        vmax=1,
        xticklabels=columns,
        yticklabels=names,
        cbar_kws={"label": "share of the true class", "format": PercentFormatter(1)},
    )
    axis.tick_params(labelsize=8)
    axis.set(xlabel="predicted", ylabel="true")
    _title(figure, title)
    return figure


def zoomed(rows, title, side=40, zoom=8):
    """A crop of each picture at many times its size, pixel by pixel, to compare versions of it.

    Parameters
    ----------
    rows : list of dict of str to uint8 array, shape (S, S, 3)
        For each picture its versions, all of one size. The crop is where the last of them,
        the original, has most detail.
    title : str
    side : int
        Of the crop, in pixels.
    zoom : int
        Pixels of the figure, as saved, for each pixel of a picture.

    Returns
    -------
    matplotlib Figure
    """
    names = list(rows[0])
    width = len(names) * (side * zoom + 12) / SAVED_DPI
    height = width * len(rows) / len(names) + 0.8
    figure, axes = plt.subplots(len(rows), len(names), figsize=(width, height), squeeze=False)
    for line, versions in zip(axes, rows, strict=True):
        y, x = _most_detail(versions[names[-1]], side)
        for axis, name in zip(line, names, strict=True):
            axis.imshow(versions[name][y : y + side, x : x + side], interpolation="nearest")
            axis.axis("off")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    _title(figure, title)
    return figure


def _most_detail(picture, side):
    """Top left corner of the square in which neighbouring pixels differ most."""
    grey = picture.mean(2)
    change = np.abs(np.gradient(grey)).sum(0)
    windows = np.lib.stride_tricks.sliding_window_view(change, (min(side, len(grey)),) * 2)
    sums = windows[::4, ::4].sum((2, 3))
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return 4 * y, 4 * x


def _values(table, column):
    return list(dict.fromkeys(table[column]))
