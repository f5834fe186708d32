"""Write the numbers of README.md and the tables of report/RESULTS.md from committed runs.

    python report/tables.py

The runs lie in report/results/NAME: a run's results/*.csv and its run.json. `make gallery` brings
NAME = embedded, of `make figures`; those of the photographs are copied there by hand.

A table or number stands between two comments, the first of which names a function below and its
arguments, quoted where they have spaces; everything else is left as it is.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from cliphelpers.evaluation import LEVEL, holm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "report" / "results"
PAGES = [ROOT / "README.md", ROOT / "report" / "RESULTS.md"]
SPLITS = ["official", "by_group", "by_look", "random"]
HERE = {  # how a file is read, and how clip and open_clip read it
    "plain": "the same; timm crops 0.9 of it",
    "EXIF rotation": "applied; they ignore it",
    "transparency": "laid on white; they show what lies beneath, here black",
    "palette with transparency": "likewise",
    "16-bit grey": "scaled to 8 bits; they cut it off",
    "8-bit grey": "the same",
    "CMYK": "the same",
}
TIMED = {
    "embedded": "`make figures`",
    "photographs": "photographs, partly kept",
    "grocery": "groceries",
}


def read(run):
    """All result rows of a committed run: of a question with several seeds that of their mean."""
    files = [file for file in (RESULTS / run).glob("*.csv") if "curves" not in file.stem]
    rows = pd.concat(map(pd.read_csv, sorted(files)), ignore_index=True)
    return means(rows)


def means(rows):
    """One row for each question: of several seeds that of their mean.

    The column ``start`` says of how many of its trainings validation kept the start: a share.
    """
    keys = ["experiment", "split", "encoder", "features", "method", "shots", "metric"]
    chosen = rows.chosen.astype(object).fillna("").str.split("; ").explode()
    start = (chosen == "epoch 0").groupby(level=0).mean()
    rows = rows.assign(start=start, mean=rows.seed.isna())
    groups = rows.groupby(keys, dropna=False, sort=False)
    rows = rows.assign(start=groups.start.transform("mean"))
    return rows[rows["mean"] | ~groups["mean"].transform("any")].reset_index(drop=True)


def find(rows, *experiments):
    """The rows of some experiments, told by their numbers, such as "05"."""
    return rows[rows.experiment.str[:2].isin(experiments)]


def records(run):
    """What a committed run's run.json says, and those of its notebooks that ran apart: dicts."""
    paths = sorted((RESULTS / run).glob("run*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def interval(row):
    """A value and its interval in percent, such as 12.3 % (10.1 to 14.5)."""
    shares = [round(100 * share, 1) + 0.0 for share in (row.value, row.low, row.high)]  # no -0.0
    return "{:.1f} % ({:.1f} to {:.1f})".format(*shares)


def cell(row):
    """An interval and what belongs to it: that over classes, the verdict, or a kept start."""
    if row.metric.endswith("difference"):
        return interval(row) + (f", {row.verdict}" if pd.notna(row.verdict) else "")
    text = interval(row)
    if pd.notna(row.low_classes):
        text += f" [{row.low_classes * 100:.1f} to {row.high_classes * 100:.1f}]"
    return text + ("" if not row.start > 0 else " †" if row.start == 1 else " (†)")


# ------------------------------------------------------------------------------- numbers


def accuracy(run, encoder, split):
    """Top-1 accuracy of one encoder's linear probe (logistic regression), such as 12.3 %."""
    rows = _probes(read(run)).query(
        "encoder == @encoder and split == @split and method == 'logistic regression'"
    )
    return f"{rows.value.item() * 100:.1f} %"


def untrained(run, split):
    """Lowest and highest of the same accuracy of networks with random weights."""
    rows = _probes(read(run)).query("split == @split and method == 'logistic regression'")
    values = 100 * rows.value[rows.encoder.str.endswith("(random weights)")]
    return f"{values.min():.1f} to {values.max():.1f} %"


def brackets():
    """What the brackets of tables are: a sentence."""
    return (
        f"Round brackets are {100 * LEVEL:.0f} % intervals for these classes and other groups of "
        "them, square ones for other classes, too; better or worse is what survives Holm's "
        "correction"
    )


def verdicts(run, experiments, features="", method=""):
    """Of how many differences what is said, of experiments such as "05 06": a sentence's end."""
    rows = find(read(run), *experiments.split())
    rows = rows[rows.metric == "top-1 difference"]
    rows = rows[rows.features.astype(object).fillna("").str.contains(features)]
    rows = rows[rows.method.str.contains(method)]
    better, worse = (sum(rows.verdict == word) for word in ("better", "worse"))
    rest = len(rows) - better - worse
    found = f"better in {better}, worse in {worse} and not decided in {rest} of {len(rows)}"
    return f"{found} comparisons (by Holm's correction for all of a notebook)"


def edges(run, *experiments):
    """Of how many questions some fold's choice lay at the edge of its grid, such as 3 of 20."""
    rows = find(read(run), *experiments)
    rows = rows[(rows.metric == "top-1") & rows.at_edge.notna()]
    return f"{(rows.at_edge > 0).sum()} of {len(rows)}" if len(rows) else "not recorded"


def cells():
    """How many kinds of data the simulation of intervals has."""
    rows = pd.read_csv(ROOT / "benchmarks" / "intervals.csv")
    return str(((rows.target == "accuracy") & (rows.way == "interval")).sum())


def coverage(target, way="interval"):
    """How often the simulated intervals hold their truth, least and most, such as 89 to 100 %."""
    rows = pd.read_csv(ROOT / "benchmarks" / "intervals.csv")
    held = 100 * rows.held[(rows.target == target) & (rows.way == way)]
    return f"{held.min():.0f} to {held.max():.0f} %"


def promised(way, pixels=""):
    """How far a way to split is from the truth, least and most, such as −13 to 12 (points).

    Over all encoders and data sets of benchmarks/looks.csv but raw pixels, or of these alone:
    ``pixels`` is then "pixels".
    """
    rows = pd.read_csv(ROOT / "benchmarks" / "looks.csv")
    rows = rows[rows.encoder.str.endswith("raw pixels") == bool(pixels)]
    seen = (rows.dataset == "grocery") & rows.encoder.str.startswith("CLIP clip-mini")
    rows = rows[~seen]  # they were trained on its training part
    off = 100 * (rows[way] - rows.truth)
    return f"{off.min():.0f} to {off.max():.0f}".replace("-", "−")


def figures():
    """Minutes and memory of `make figures` from an empty cache, on all machines of bench.csv."""
    rows = pd.read_csv(ROOT / "benchmarks" / "bench.csv").set_index("work").ours
    minutes = rows["all seven notebooks, first run: minutes"]
    memory = rows["all seven notebooks, first run: peak memory"]
    return f"{minutes.min():.0f} to {minutes.max():.0f} minutes and {memory.max():.1f} GiB"


def hardware(run):
    """Cores and GPU of a run's machine."""
    found = records(run)[0]["hardware"]
    gpu = f"with {found['gpu']}" if found["gpu"] else "without a GPU"
    return f"{found['cores']} cores {gpu}"


def pictures(run):
    """Training and test pictures of a run together, such as 12,345."""
    rows = find(read(run), "01").query("split == 'official'")
    counts = [rows.n[rows.metric == metric].iloc[0] for metric in ("top-1 on training", "top-1")]
    return f"{sum(counts):,}"


def original(task):
    """Lowest and highest accuracy of a task in the study that this series implements."""
    rows = pd.read_csv(ROOT / "report" / "original-study.csv").query("task == @task")
    values = 100 * rows.value[rows.pictures != "SRGAN"]
    return f"{values.min():.0f} to {values.max():.0f} %"


# ------------------------------------------------------------------------------- tables


def accuracies(run):
    """Zero-shot and linear probes: a row for each encoder and method, a column for each split."""
    rows = read(run)
    rows = rows[rows.shots.isna() & rows.metric.isin(["top-1", "top-5"])]
    zero = find(rows, "01").assign(method=lambda table: "zero-shot, " + table.metric)
    return _pivot(pd.concat([zero, _probes(rows)]), ["encoder", "method"])


def _probes(rows):
    """Accuracies of linear probes on all training pictures, one for each encoder and split."""
    rows = find(rows, "03", "04")
    rows = rows[rows.shots.isna() & (rows.metric == "top-1")]
    return rows.drop_duplicates(["split", "encoder", "method"])


def promises(run):
    """What each split promises: ridge regression of notebook 3, a column for each split."""
    rows = find(_probes(read(run)), "03")
    rows = rows[rows.method == "ridge"]
    return _pivot(rows, ["encoder"], SPLITS)


def shots(run):
    """k-shot: for each encoder, split and method the mean over seeds at each k."""
    rows = find(read(run), "02")
    rows = rows[(rows.metric == "top-1") & rows.shots.notna()]
    keys = ["encoder", "split", "method"]
    table = rows.groupby([*keys, "shots"], sort=False).value.mean().unstack("shots")
    return _percents(["encoder", "split", "head"], table.rename(columns=lambda k: f"k={int(k)}"))


def differences(run):
    """Paired differences of encoders by logistic regression, a pair as the last notebook has it."""
    rows = find(read(run), "03", "04")
    rows = rows[rows.metric == "top-1 difference"]
    return _pivot(rows.drop_duplicates(["split", "encoder"], keep="last"), ["encoder"])


def finetuning(run, metric="top-1"):
    """Fine-tuned models beside zero-shot and probe of the same pictures, or their differences."""
    rows = find(read(run), "05", "06")
    rows = rows[(rows.metric == metric) & ~rows.method.str.startswith("WiSE-FT")]
    srgan = rows.features.str.endswith("srgan")
    rows = rows.assign(encoder=rows.encoder.where(~srgan, rows.encoder + ", SRGAN input"))
    return _pivot(rows, ["encoder", "method"])


def gains(method, *runs):
    """What fine-tuning changes, such as "fine-tuned ML − linear probe": a column for each k.

    Without a k it is the whole training part. The verdicts are corrected for all cells together,
    whatever runs they are from. Where validation kept the start of all trainings the cell is
    marked.
    """
    rows = pd.concat([find(read(run), "05") for run in runs])
    rows["shots"] = rows.shots.fillna(np.inf)
    key, tuned = ["encoder", "split", "shots"], rows.method == method.split(" − ")[0]
    kept = rows[tuned & (rows.metric == "top-1") & (rows.start == 1)].set_index(key).index
    rows = rows[(rows.metric == "top-1 difference") & (rows.method == method)]
    words = np.where(rows.value > 0, "better", "worse")
    rows["verdict"] = np.where(holm(rows.p) < 1 - LEVEL, words, "not decided")
    marks = [" †" if one in kept else "" for one in rows.set_index(key).index]
    cells = [cell(row) + mark for row, mark in zip(rows.itertuples(), marks, strict=True)]
    rows = rows.assign(cell=cells)
    table = rows.pivot(index=["encoder", "split"], columns="shots", values="cell").fillna("")
    lines = [[*key, *row] for key, *row in table.itertuples()]
    heads = [f"k = {k:.0f}" if k < np.inf else "all" for k in table.columns]
    return _markdown(["encoder", "split", *heads], lines)


def seeds(run):
    """Top-1 accuracy of what was fitted or trained on each seed's draw, in percent."""
    rows = pd.read_csv(RESULTS / run / "05_fine_tune_clip.csv")
    learnt = ~rows.method.str.contains("zero-shot|WiSE-FT|text")
    rows = rows[(rows.metric == "top-1") & rows.seed.notna() & learnt]
    keys = ["encoder", "split", "method"]
    table = rows.groupby([*keys, "seed"], sort=False).value.mean().unstack("seed")
    return _percents(keys, table.rename(columns=lambda seed: f"seed {seed:.0f}"))


def wise_ft(run):
    """WiSE-FT: a column for each share of the fine-tuned weights, in percent."""
    rows = find(read(run), "05", "06")
    rows = rows[(rows.metric == "top-1") & ~rows.features.str.endswith("srgan")]
    shares = rows.method.str.extract(r"WiSE-FT alpha=(.+)", expand=False)
    rows = rows.assign(share=shares).dropna(subset="share")
    table = rows.groupby(["encoder", "split", "share"], sort=False).value.mean().unstack("share")
    return _percents(["encoder", "split"], table.rename(columns=lambda share: f"alpha={share}"))


def quality(run):
    """How near enlarged pictures come to the originals, a row for each way to enlarge."""
    rows = find(read(run), "07")
    rows = rows[rows.metric.isin(["PSNR (dB)", "SSIM"])]
    rows = rows.assign(cell=[_decimals(row) for row in rows.itertuples()])
    rows = rows.assign(pixels=rows.features.str.removeprefix("from "))
    table = rows.pivot(index=["pixels", "method"], columns="metric", values="cell")
    lines = [[*key, *row] for key, *row in table.itertuples()]
    return _markdown(["from pixels", "enlarged by", *table.columns], lines)


def _decimals(row):
    digits = 3 if row.metric == "SSIM" else 1
    return f"{row.value:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})"


def upsampling(run):
    """Accuracy with SRGAN less that with bicubic interpolation."""
    rows = find(read(run), "07")
    methods = ["zero-shot", "ridge", "logistic regression"]
    rows = rows[(rows.metric == "top-1 difference") & rows.method.isin(methods)]
    found = rows.features.str.extract(r"srgan from (\d+) − bicubic", expand=False)
    rows = rows.assign(pixels=found).dropna(subset="pixels")
    return _pivot(
        rows.rename(columns={"pixels": "from pixels"}), ["encoder", "from pixels", "method"]
    )


def minutes(*runs):
    """Minutes of each notebook, a column for each run, and its peak of memory."""
    columns = {}
    for run in runs:
        ran = {name: one for found in records(run) for name, one in found["notebooks"].items()}
        taken = {name: ran[name]["seconds"] / 60 for name in sorted(ran)}
        peak = max(one["peak_memory_gib"] for one in ran.values())
        columns[TIMED[run]] = taken | {"all": sum(taken.values()), "GiB of memory": peak}
    rows = pd.DataFrame(columns).itertuples()
    lines = [[name, *("" if pd.isna(x) else f"{x:.1f}" for x in values)] for name, *values in rows]
    return _markdown(["minutes", *columns], lines)


def _pivot(rows, keys, splits=None):
    """By default the official split and that by group; where nothing names groups all splits."""
    there = set(rows.split)
    splits = splits or (SPLITS[:2] if "by_group" in there else SPLITS)
    splits = [split for split in splits if split in there]
    made = rows.assign(cell=[cell(row) for row in rows.itertuples()])
    lines = []
    for key, group in made.groupby(keys, sort=False):
        found = dict(zip(group.split, group.cell, strict=True))
        lines.append([*key, *(found.get(split, "") for split in splits)])
    return _markdown([*keys, *splits], lines)


def _percents(keys, table):
    lines = [[*key, *(f"{value * 100:.1f}" for value in row)] for key, *row in table.itertuples()]
    return _markdown([*keys, *table.columns], lines)


def _markdown(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def reading():
    """How far features are from the peers' where files are read differently: mean, and largest."""
    rows = pd.read_csv(ROOT / "benchmarks" / "reading.csv")
    rows["far"] = [f"{row.mean:.2f}; {row.largest:.2f}" for row in rows.itertuples()]
    table = rows.pivot(index="file", columns="peer", values="far").loc[rows.file.unique()]
    lines = [[file, HERE[file], *peers] for file, *peers in table.fillna("").itertuples()]
    return _markdown(["file", "here", *table.columns], lines)


NUMBERS = [accuracy, untrained, brackets, verdicts, edges, cells, coverage, promised]
NUMBERS += [figures, hardware, pictures, original]
TABLES = [accuracies, promises, shots, differences, finetuning, gains, seeds, wise_ft, upsampling]
TABLES += [quality, minutes, reading]


def fill(text):
    """A page's text with every number and table made anew."""
    numbers = {function.__name__: function for function in NUMBERS}
    tables = {function.__name__: function for function in TABLES}

    def made(match):
        name, *arguments = shlex.split(match[1])
        new = numbers[name](*arguments) if name in numbers else f"\n{tables[name](*arguments)}\n"
        return f"<!-- {match[1]} -->{new}<!-- end -->"

    return re.sub(r"<!-- (?!end )(.+?) -->.*?<!-- end -->", made, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
