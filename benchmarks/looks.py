"""Does holding out whole looks tell what holding out whole groups would? Evidence for a split.

    python benchmarks/looks.py            # writes benchmarks/looks.csv and pics/looks.jpg

Pictures of one group (one fruit, one day, one camera) on both sides of a split make memory look
like vision, and most folders name no groups. The split ``by_look`` guesses them: within each class
pictures are clustered by how they look, and whole clusters, "looks", are held out in turn. Three
data sets tell how near that comes to the truth: two with named groups, and one with a test part of
other times and places, whose training part alone is split here and which chose nothing, neither
the look nor its number. Those beside the repository (../shared) are left out where they are absent.

Ridge regression, its strength chosen on validation pictures of each split's own kind.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

import cliphelpers as ch
from cliphelpers.splits import by_look, random

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
WEIGHTS = ROOT / "data" / "weights"
ENCODERS = [
    f"clip:{WEIGHTS / 'clip-mini-vit.pt'}",
    f"clip:{WEIGHTS / 'clip-mini-rn.pt'}",
    f"timm:tf_efficientnet_lite0@{WEIGHTS / 'tf_efficientnet_lite0.safetensors'}",
]
DEIT = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
STRENGTHS = [10.0**power for power in range(3, -8, -1)]
COUNTS = [3, 5, 8]  # looks a class


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
    part, y = index.iloc[learnt].reset_index(drop=True), ch.targets(index)
    ways = {"random": random(part)}
    ways |= {f"{count} looks a class": by_look(part, count=count) for count in COUNTS}
    specs = ENCODERS + ([f"timm:deit_tiny_patch16_224@{DEIT}"] if DEIT.exists() else [])
    for encoder in [ch.raw_pixels(10), *ch.load_encoders(specs)]:
        X = ch.extract_features(encoder, index)
        row = {"dataset": name, "encoder": encoder.name, "truth": accuracy(X, y, truth)}
        row |= {way: accuracy(X[learnt], y[learnt], some) for way, some in ways.items()}
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
