"""Draw pics/NAME/ from the tables of the committed runs on photographs and groceries.

    python report/figures.py

Their pictures are not part of the repository, so the figures that show none are drawn
here, by the functions that the notebooks use and from the tables that the report prints. Those of
the epochs need the curves of its trainings, and are drawn where these are there.
"""

from pathlib import Path

import pandas as pd
from tables import RESULTS, find, read

import cliphelpers as ch

ROOT = Path(__file__).parents[1]
RUNS = ["photographs", "photographs_whole", "grocery"]
TWIN = " (random weights)"


def table(run, number, metric="top-1"):
    """The rows of a run's notebook's table that have a metric, of several seeds their mean."""
    rows = find(read(run), number)
    return rows[rows.metric == metric]


def k_shot(run):
    """Accuracy against k, with zero-shot and all training pictures as level lines."""
    rows = table(run, "02")
    shots, ends = rows.dropna(subset="shots"), rows[rows.shots.isna()]
    title = "How much does each labelled picture add?"
    return ch.curves(shots, "shots", "method", title, "pictures a class (k)", lines=ends)


def probes(run, number, title):
    """Linear probes, beside those of random weights, with raw pixels as an upright line."""
    rows = table(run, number)
    everything = rows.split[rows.method == "logistic regression"]  # ridge has more splits
    rows = rows[rows.shots.isna() & rows.split.isin(everything)]
    pixels, twins = rows.encoder.str.endswith("raw pixels"), rows.encoder.str.endswith(TWIN)
    logistic = rows.method == "logistic regression"
    random = rows[twins & logistic].assign(method="logistic regression, random weights")
    random = random.assign(encoder=random.encoder.str.removesuffix(TWIN))
    shown = pd.concat([rows[~pixels & ~twins], random])
    return ch.dots(shown, "encoder", "method", title, lines=rows[pixels & logistic])


def tuned(run, number, title, y, hue):
    """Fine-tuned models beside zero-shot and probe of the same pictures."""
    rows = _named(table(run, number))
    return ch.dots(rows[~rows.method.str.startswith("WiSE-FT")], y, hue, _few(title, rows))


def epochs(path):
    """Training and validation accuracy by epoch, from the curves of the trainings."""
    lines = _named(pd.read_csv(path))
    lines = lines.assign(line=lines.method + ", " + lines.part)
    title = _few("Does training help what was not trained on?", lines)
    return ch.curves(lines, "epoch", "line", title, "epoch", y="accuracy", log=False)


def _few(title, rows):
    """A question that says what trainings learnt from."""
    if rows.shots.isna().any():
        return f"{title[:-1]}, with the whole training part?"
    shots = " or ".join(f"{k:.0f}" for k in sorted(rows.shots.unique()))
    return f"{title[:-1]}, with {shots} pictures a class?"


def _named(rows):
    """Encoders whose input SRGAN has drawn say so."""
    srgan = rows.features.str.endswith("srgan")
    return rows.assign(encoder=rows.encoder.where(~srgan, rows.encoder + ", srgan"))


def upsampling(run):
    """Accuracy with SRGAN less that with bicubic interpolation."""
    rows = table(run, "07", "top-1 difference")
    side = rows.features.str.extract(r"srgan from (\d+) − bicubic", expand=False)
    few = rows.shots.map(", k = {:.0f}".format, na_action="ignore").astype(object)
    few = few.fillna(rows.method.map({"class mean": ", all"})).fillna("")
    rows = rows.assign(task=rows.method + few + ", from " + side).dropna(subset="task")
    title = "Does srgan help? Its accuracy less that of bicubic"
    return ch.dots(rows, "task", "encoder", title, "difference of top-1 accuracy")


def drawn(run):
    """All figures of a run by their names, as far as there are tables."""
    asked = set(read(run).experiment.str[:2])
    if "02" in asked:
        yield "k-shot-plot", k_shot(run)
    if "03" in asked:
        title = "Is it vision or memory? Linear probes of CLIP"
        yield "linear-probing-clip", probes(run, "03", title)
    if "04" in asked:
        title = "Are ImageNet features better than CLIP features?"
        yield "linear-probing-imagenet", probes(run, "04", title)
    if "05" in asked:
        title = "Is fine-tuning CLIP worth it?"
        yield "fine-tuning-clip", tuned(run, "05", title, "method", "encoder")
    if "06" in asked:
        yield "fine-tuning-plot", tuned(run, "06", "Is fine-tuning worth it?", "encoder", "method")
    if "07" in asked:
        yield "upsampling", upsampling(run)
    for number, name in (("05", "fine-tuning-epochs-clip"), ("06", "fine-tuning-epochs")):
        for path in (RESULTS / run).glob(f"{number}_*_curves.csv"):
            yield name, epochs(path)


if __name__ == "__main__":
    ch.begin({})
    for run in RUNS:
        (ROOT / "pics" / run).mkdir(exist_ok=True)
        for name, figure in drawn(run):
            path = ROOT / "pics" / run / f"{name}.jpg"
            figure.savefig(path, pil_kwargs={"quality": 88, "optimize": True})
