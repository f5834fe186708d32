"""Draw pics/photographs/ from the tables of the committed run on photographs.

    python report/figures.py

The pictures of that run are not part of the repository, so the figures that show none are drawn
here, by the functions that the notebooks use and from the tables that the report prints.
"""

from pathlib import Path

import pandas as pd

import cliphelpers as ch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "report" / "results" / "photographs"
BASELINES = ("10x10 raw pixels", "(random weights)")


def table(name, metric="top-1"):
    """The rows of a notebook's table that have a metric."""
    rows = pd.read_csv(RESULTS / f"{name}.csv")
    return rows[rows.metric == metric]


def k_shot():
    """Accuracy against k, with zero-shot and all training pictures as level lines."""
    rows = table("02_k_shot")
    shots, ends = rows.dropna(subset="shots"), rows[rows.shots.isna()]
    title = "How much does each labelled picture add?"
    return ch.curves(shots, "shots", "method", title, "pictures a class (k)", lines=ends)


def probes(name, title):
    """Linear probes, with the baselines' logistic regression as upright lines."""
    rows = table(name)
    rows = rows[rows.shots.isna()]
    base = rows.encoder.str.endswith(BASELINES)
    lines = rows[base & (rows.method == "logistic regression")]
    return ch.dots(rows[~base], "encoder", "method", title, lines=lines)


def tuned(name, title, y, hue):
    """Fine-tuned models beside zero-shot and probe of the same pictures."""
    rows = table(name)
    rows = rows[~rows.method.str.startswith("WiSE-FT")]
    srgan = rows.features.str.endswith("srgan")
    return ch.dots(
        rows.assign(encoder=rows.encoder.where(~srgan, rows.encoder + ", srgan")), y, hue, title
    )


def upsampling():
    """Accuracy with SRGAN less that with bicubic interpolation."""
    rows = table("07_upsampling", "top-1 difference")
    side = rows.features.str.extract(r"srgan from (\d+) − bicubic", expand=False)
    rows = rows.assign(task=rows.method + ", from " + side).dropna(subset="task")
    title = "Does srgan help? Its accuracy less that of bicubic"
    return ch.dots(rows, "task", "encoder", title, "difference of top-1 accuracy")


if __name__ == "__main__":
    ch.begin({})
    figures = {
        "k-shot-plot": k_shot(),
        "linear-probing-clip": probes(
            "03_linear_probe_clip", "Is it vision or memory? Linear probes of CLIP"
        ),
        "linear-probing-imagenet": probes(
            "04_linear_probe_imagenet", "Are ImageNet features better than CLIP features?"
        ),
        "fine-tuning-clip": tuned(
            "05_fine_tune_clip", "Is fine-tuning CLIP worth it?", "method", "encoder"
        ),
        "fine-tuning-plot": tuned(
            "06_fine_tune_imagenet", "Is fine-tuning worth it?", "encoder", "method"
        ),
        "upsampling": upsampling(),
    }
    for name, figure in figures.items():
        path = ROOT / "pics" / "photographs" / f"{name}.jpg"
        figure.savefig(path, pil_kwargs={"quality": 88, "optimize": True})
