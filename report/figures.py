"""Draw pics/photographs/ from the tables of the committed run on photographs.

    python report/figures.py

The pictures of that run are not part of the repository, so the figures that show none are drawn
here, by the functions that the notebooks use and from the tables that the report prints. Those of
the epochs need the curves of its trainings, and are drawn where these are there.
"""

from pathlib import Path

import pandas as pd
from tables import RESULTS, find, read

import cliphelpers as ch

ROOT = Path(__file__).parents[1]
RUN = "photographs"
TWIN = " (random weights)"


def table(number, metric="top-1"):
    """The rows of a notebook's table that have a metric, of several seeds their mean."""
    rows = find(read(RUN), number)
    return rows[rows.metric == metric]


def k_shot():
    """Accuracy against k, with zero-shot and all training pictures as level lines."""
    rows = table("02")
    shots, ends = rows.dropna(subset="shots"), rows[rows.shots.isna()]
    title = "How much does each labelled picture add?"
    return ch.curves(shots, "shots", "method", title, "pictures a class (k)", lines=ends)


def probes(number, title):
    """Linear probes, beside those of random weights, with raw pixels as an upright line."""
    rows = table(number)
    rows = rows[rows.shots.isna() & rows.split.isin(["official", "by_group"])]
    pixels, twins = rows.encoder.str.endswith("raw pixels"), rows.encoder.str.endswith(TWIN)
    logistic = rows.method == "logistic regression"
    random = rows[twins & logistic].assign(method="logistic regression, random weights")
    random = random.assign(encoder=random.encoder.str.removesuffix(TWIN))
    shown = pd.concat([rows[~pixels & ~twins], random])
    return ch.dots(shown, "encoder", "method", title, lines=rows[pixels & logistic])


def tuned(number, title, y, hue):
    """Fine-tuned models beside zero-shot and probe of the same pictures."""
    rows = _named(table(number))
    return ch.dots(rows[~rows.method.str.startswith("WiSE-FT")], y, hue, title)


def epochs(path):
    """Training and validation accuracy by epoch, from the curves of the trainings."""
    lines = _named(pd.read_csv(path))
    lines = lines.assign(line=lines.method + ", " + lines.part)
    title = "Does training help what was not trained on?"
    return ch.curves(lines, "epoch", "line", title, "epoch", y="accuracy", log=False)


def _named(rows):
    """Encoders whose input SRGAN has drawn say so."""
    srgan = rows.features.str.endswith("srgan")
    return rows.assign(encoder=rows.encoder.where(~srgan, rows.encoder + ", srgan"))


def upsampling():
    """Accuracy with SRGAN less that with bicubic interpolation."""
    rows = table("07", "top-1 difference")
    side = rows.features.str.extract(r"srgan from (\d+) − bicubic", expand=False)
    few = rows.shots.map(", k = {:.0f}".format, na_action="ignore").astype(object)
    few = few.fillna(rows.method.map({"class mean": ", all"})).fillna("")
    rows = rows.assign(task=rows.method + few + ", from " + side).dropna(subset="task")
    title = "Does srgan help? Its accuracy less that of bicubic"
    return ch.dots(rows, "task", "encoder", title, "difference of top-1 accuracy")


def drawn():
    """All figures by their names, as far as there are tables."""
    yield "k-shot-plot", k_shot()
    title = "Is it vision or memory? Linear probes of CLIP"
    yield "linear-probing-clip", probes("03", title)
    title = "Are ImageNet features better than CLIP features?"
    yield "linear-probing-imagenet", probes("04", title)
    title = "Is fine-tuning CLIP worth it?"
    yield "fine-tuning-clip", tuned("05", title, "method", "encoder")
    yield "fine-tuning-plot", tuned("06", "Is fine-tuning worth it?", "encoder", "method")
    for number, name in (("05", "fine-tuning-epochs-clip"), ("06", "fine-tuning-epochs")):
        for path in (RESULTS / RUN).glob(f"{number}_*_curves.csv"):
            yield name, epochs(path)
    yield "upsampling", upsampling()


if __name__ == "__main__":
    ch.begin({})
    for name, figure in drawn():
        path = ROOT / "pics" / RUN / f"{name}.jpg"
        figure.savefig(path, pil_kwargs={"quality": 88, "optimize": True})
