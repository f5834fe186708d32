"""Does holding out whole looks tell what holding out whole groups would? Evidence for a split.

    python benchmarks/looks.py            # writes benchmarks/looks.csv and pics/looks.jpg

Pictures of one group (one fruit, one day, one camera) on both sides of a split make memory look
like vision, and most folders name no groups. Here groups are guessed: within each class pictures
are clustered by how they look (10x10 raw pixels less the mean of all pictures, average linkage on
the cosine distance), and whole clusters, "looks", are held out in turn. That is cluster-based
cross-validation (Spezia et al. 2025, arXiv 2507.22299); the look is never that of an encoder which
is judged. Three data sets tell how near the estimate comes to the truth: two with named clips, and
one with a test part of other times and places, which chose nothing here. Those beside the
repository (../shared) are left out where they are absent.

Ridge regression, its strength chosen on one further fold of the same kind.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter
from scipy.cluster.hierarchy import fcluster, linkage

import cliphelpers as ch
from cliphelpers.splits import Fold

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
WEIGHTS = ROOT / "data" / "weights"
ENCODERS = [
    f"clip:{WEIGHTS / 'clip-mini-vit.pt'}",
    f"clip:{WEIGHTS / 'clip-mini-rn.pt'}",
    f"timm:tf_efficientnet_lite0@{WEIGHTS / 'tf_efficientnet_lite0.safetensors'}",
]
DEIT = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
STRENGTHS = [10.0**power for power in range(1, -7, -1)]
FOLDS = 5


def looks(pixels, labels, count):
    """A number for each picture's look within its class.

    Parameters
    ----------
    pixels : float array, shape (N, D)
        Of small pictures.
    labels : array of str, shape (N,)
    count : int
        Looks a class, or as many as it has pictures.

    Returns
    -------
    int array, shape (N,)
        From 0 on.
    """
    pixels, found = pixels - pixels.mean(0), np.zeros(len(pixels), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            tree = linkage(pixels[rows], "average", metric="cosine")
            found[rows] = fcluster(tree, min(count, len(rows)), "maxclust") - 1
    return found


def turns(parts, labels):
    """The fold in which each picture is tested, if whole parts of each class are held out in turn.

    The classes begin at different folds, so that the folds have about one size.
    """
    shift = np.unique(labels, return_inverse=True)[1]
    return (parts + shift) % FOLDS


def folds(turn):
    """A Fold for each turn: tested on it, chosen on the next, learnt from the rest."""
    for number in range(FOLDS):
        following = (number + 1) % FOLDS
        parts = ~np.isin(turn, [number, following]), turn == following, turn == number
        yield Fold(*map(np.flatnonzero, parts))


def accuracy(X, y, some):
    """Share of right answers over the test pictures of all folds."""
    ridge, right = ch.Ridge(STRENGTHS), []
    for fold in some:
        scores = ch.fit_chosen(ridge, X, y, fold).scores(X[fold.test])[0]
        right.append(ch.top_k(scores, y[fold.test]))
    return np.concatenate(right).mean()


def data_sets():
    """For each data set at hand: its name, its index, and the folds that tell the truth."""
    for name, folder in {
        "fruits-mini": ROOT / "data" / "fruits-mini",
        "photographs": SHARED / "data" / "fruits-360",
    }.items():
        if folder.exists():
            index = ch.index_images(folder)
            yield name, index, ch.make_splits(index, ["by_group"])["by_group"]
    if (grocery := SHARED / "data" / "grocery").exists():
        paths = sorted(grocery.rglob("*.jpg"))
        split = [path.relative_to(grocery).parts[0] for path in paths]
        labels = [path.parent.name for path in paths]
        columns = {"path": [*map(str, paths)], "label": labels, "split": split, "group": ""}
        index = pd.DataFrame(columns)
        index.attrs = {"root": str(grocery), "name": "grocery"}
        yield "grocery", index, ch.make_splits(index, ["official"])["official"]


def measure(name, index, truth):
    """Rows of the table: for each encoder what each way of splitting says."""
    learnt = np.flatnonzero(index.split != "test") if name == "grocery" else np.arange(len(index))
    y, labels = ch.targets(index), index.label.to_numpy()[learnt]
    pixels = ch.raw_pixels(10)
    specs = ENCODERS + ([f"timm:deit_tiny_patch16_224@{DEIT}"] if DEIT.exists() else [])
    small = ch.extract_features(pixels, index)[learnt]
    drawn = np.random.default_rng(0).permutation(len(learnt))
    ways = {"random": drawn % FOLDS}
    for count in (3, 5, 8):
        ways[f"{count} looks a class"] = turns(looks(small, labels, count), labels)
    for encoder in [pixels, *map(ch.load_encoder, specs)]:
        X = ch.extract_features(encoder, index)
        row = {"dataset": name, "encoder": encoder.name, "truth": accuracy(X, y, truth)}
        for way, turn in ways.items():
            row[way] = accuracy(X[learnt], y[learnt], folds(turn))
        print(row, flush=True)
        yield row


def figure(table):
    """What each way of splitting says beside the truth, a panel for each data set."""
    names, shown = list(dict.fromkeys(table.dataset)), {"random": "o", "5 looks a class": "s"}
    drawn, axes = plt.subplots(1, len(names), figsize=(9, 3), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        part = table[table.dataset == name].reset_index()
        axis.hlines(part.index, part.filter([*shown, "truth"]).min(axis=1), part.random, "0.7")
        for way, marker in shown.items():
            axis.plot(part[way], part.index, marker, label=way, clip_on=False, zorder=3)
        axis.plot(part.truth, part.index, "|", color="black", ms=16, mew=2.5, label="truth")
        axis.set(title=name, xlabel="top-1 accuracy", xlim=(0, 1))
        axis.set_yticks(part.index, part.encoder)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0, 0].invert_yaxis()
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    drawn.suptitle("What a split promises, and what comes true", x=0.01, ha="left")
    return drawn


if __name__ == "__main__":
    ch.begin({})
    rows = [row for data_set in data_sets() for row in measure(*data_set)]
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4f")
    ch.save_fig(figure(table), ROOT, "looks")
