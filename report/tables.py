"""Write the result tables of README.md from the tables of committed runs.

    python report/tables.py

before which a run's results/*.csv and run.json have been copied to report/results/NAME.

Each table stands between two comments that name it; everything else is left as it is.
"""

import json
import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "report" / "results"
SPLITS = {"official": "official split", "by_clip": "whole clips held out"}
TIMED = {
    "embedded": "`make figures`",
    "photographs_cold": "photographs",
    "photographs": "photographs, features kept",
}


def read(run):
    """All result rows of a committed run."""
    files = [file for file in (RESULTS / run).glob("*.csv") if "curves" not in file.stem]
    return pd.concat(map(pd.read_csv, sorted(files)), ignore_index=True)


def interval(row):
    """A value and its interval in percent, such as 12.3 % (10.1 to 14.5)."""
    return f"{row.value * 100:.1f} % ({row.low * 100:.1f} to {row.high * 100:.1f})"


def accuracies(run):
    """Zero-shot and linear probes: a row for each encoder and method, a column for each split."""
    rows = read(run)
    rows = rows[rows.shots.isna() & rows.metric.isin(["top-1", "top-5"])]
    zero = rows[rows.experiment == "01_zero_shot"].assign(
        method=lambda table: "zero-shot, " + table.metric
    )
    probes = rows[rows.experiment.str[:2].isin(["03", "04"]) & (rows.metric == "top-1")]
    probes = probes.drop_duplicates(["split", "encoder", "method"])
    return _pivot(pd.concat([zero, probes]), ["encoder", "method"])


def shots(run):
    """k-shot: for each encoder, split and method the mean over seeds at each k."""
    rows = read(run)
    rows = rows[(rows.experiment == "02_k_shot") & rows.shots.notna()]
    keys = ["encoder", "split", "method"]
    table = rows.groupby([*keys, "shots"], sort=False).value.mean().unstack("shots")
    lines = [[*key, *(f"{value * 100:.1f}" for value in row)] for key, *row in table.itertuples()]
    lines = [[encoder, SPLITS[split], *rest] for encoder, split, *rest in lines]
    return _markdown(["encoder", "split", "head", *(f"k={int(k)}" for k in table.columns)], lines)


def differences(run):
    """Paired differences of encoders by logistic regression."""
    rows = read(run)
    rows = rows[rows.experiment.str[:2].isin(["03", "04"]) & (rows.metric == "top-1 difference")]
    return _pivot(rows.drop_duplicates(["split", "encoder"]), ["encoder"])


def finetuning(run):
    """Fine-tuned models beside zero-shot and probe of the same pictures, mean over seeds."""
    rows = read(run)
    rows = rows[rows.experiment.str[:2].isin(["05", "06"]) & (rows.metric == "top-1")]
    rows = rows[~rows.method.str.startswith("WiSE-FT")]
    srgan = rows.features.str.endswith("srgan")
    rows = rows.assign(encoder=rows.encoder.where(~srgan, rows.encoder + ", SRGAN input"))
    keys = ["encoder", "method", "split"]
    rows = rows.groupby(keys, sort=False)[["value", "low", "high"]].mean().reset_index()
    return _pivot(rows, ["encoder", "method"])


def upsampling(run):
    """Accuracy with SRGAN less that with bicubic interpolation."""
    rows = read(run)
    rows = rows[(rows.experiment == "07_upsampling") & (rows.metric == "top-1 difference")]
    rows = rows[rows.method.isin(["zero-shot", "ridge"])]
    found = rows.features.str.extract(r"srgan from (\d+) − bicubic", expand=False)
    rows = rows.assign(pixels=found).dropna(subset="pixels")
    return _pivot(
        rows.rename(columns={"pixels": "from pixels"}), ["encoder", "from pixels", "method"]
    )


def minutes(*runs):
    """Minutes of each notebook, a column for each run, and its peak of memory."""
    columns = {}
    for run in runs:
        record = json.loads((RESULTS / run / "run.json").read_text(encoding="utf-8"))
        taken = {name: one["seconds"] / 60 for name, one in record["notebooks"].items()}
        taken["all"] = sum(taken.values())
        columns[TIMED[run]] = taken | {"GiB of memory": record["peak_memory_gib"]}
    rows = pd.DataFrame(columns).itertuples()
    lines = [[name, *("" if pd.isna(x) else f"{x:.1f}" for x in values)] for name, *values in rows]
    return _markdown(["minutes", *columns], lines)


def _pivot(rows, keys):
    splits = [split for split in SPLITS if split in set(rows.split)]
    cells = rows.assign(cell=[interval(row) for row in rows.itertuples()])
    lines = []
    for key, group in cells.groupby(keys, sort=False):
        found = dict(zip(group.split, group.cell, strict=True))
        lines.append([*key, *(found.get(split, "") for split in splits)])
    return _markdown([*keys, *(SPLITS[split] for split in splits)], lines)


def _markdown(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


TABLES = {
    "accuracies": accuracies,
    "shots": shots,
    "differences": differences,
    "finetuning": finetuning,
    "upsampling": upsampling,
    "minutes": minutes,
}


def fill(text):
    """The README's text with every table made anew."""

    def table(match):
        name, *runs = match[1].split()
        return f"<!-- {match[1]} -->\n{TABLES[name](*runs)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+ [\w ]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    filled = fill(readme.read_text(encoding="utf-8"))
    readme.write_text(filled, encoding="utf-8")
