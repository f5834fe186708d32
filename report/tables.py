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

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "report" / "results"
PAGES = [ROOT / "README.md", ROOT / "report" / "RESULTS.md"]
SPLITS = ["official", "by_group"]
TIMED = {
    "embedded": "`make figures`",
    "photographs_cold": "photographs",
    "photographs": "photographs, features kept",
}


def read(run):
    """All result rows of a committed run."""
    files = [file for file in (RESULTS / run).glob("*.csv") if "curves" not in file.stem]
    return pd.concat(map(pd.read_csv, sorted(files)), ignore_index=True)


def record(run):
    """What a committed run's run.json says: dict."""
    return json.loads((RESULTS / run / "run.json").read_text(encoding="utf-8"))


def interval(row):
    """A value and its interval in percent, such as 12.3 % (10.1 to 14.5)."""
    return f"{row.value * 100:.1f} % ({row.low * 100:.1f} to {row.high * 100:.1f})"


# ------------------------------------------------------------------------------- numbers


def accuracy(run, encoder, split):
    """Top-1 accuracy of one encoder's linear probe (logistic regression), such as 12.3 %."""
    rows = _probes(read(run)).query(
        "encoder == @encoder and split == @split and method == 'logistic regression'"
    )
    return f"{rows.value.item() * 100:.1f} %"


def duration(run):
    """Minutes of all notebooks of a run together."""
    seconds = sum(one["seconds"] for one in record(run)["notebooks"].values())
    return f"{seconds / 60:.0f} minutes"


def memory(run):
    """Peak of a run's memory."""
    return f"{record(run)['peak_memory_gib']:.1f} GiB"


def hardware(run):
    """Cores and GPU of a run's machine."""
    found = record(run)["hardware"]
    gpu = f"with {found['gpu']}" if found["gpu"] else "without a GPU"
    return f"{found['cores']} cores {gpu}"


def pictures(run):
    """Training and test pictures of a run together, such as 12,345."""
    rows = read(run).query("experiment == '01_zero_shot' and split == 'official'")
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
    zero = rows[rows.experiment == "01_zero_shot"].assign(
        method=lambda table: "zero-shot, " + table.metric
    )
    return _pivot(pd.concat([zero, _probes(rows)]), ["encoder", "method"])


def _probes(rows):
    """Accuracies of linear probes on all training pictures, one for each encoder and split."""
    rows = rows[rows.experiment.str[:2].isin(["03", "04"]) & (rows.metric == "top-1")]
    return rows[rows.shots.isna()].drop_duplicates(["split", "encoder", "method"])


def shots(run):
    """k-shot: for each encoder, split and method the mean over seeds at each k."""
    rows = read(run)
    rows = rows[(rows.experiment == "02_k_shot") & rows.shots.notna()]
    keys = ["encoder", "split", "method"]
    table = rows.groupby([*keys, "shots"], sort=False).value.mean().unstack("shots")
    return _percents(["encoder", "split", "head"], table.rename(columns=lambda k: f"k={int(k)}"))


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


def wise_ft(run):
    """WiSE-FT: a column for each share of the fine-tuned weights, in percent."""
    rows = read(run)
    rows = rows[(rows.metric == "top-1") & ~rows.features.str.endswith("srgan", na=False)]
    shares = rows.method.str.extract(r"WiSE-FT alpha=(.+)", expand=False)
    rows = rows.assign(share=shares).dropna(subset="share")
    table = rows.groupby(["encoder", "split", "share"], sort=False).value.mean().unstack("share")
    return _percents(["encoder", "split"], table.rename(columns=lambda share: f"alpha={share}"))


def quality(run):
    """How near enlarged pictures come to the originals, a row for each way to enlarge."""
    rows = read(run)
    rows = rows[(rows.experiment == "07_upsampling") & rows.metric.isin(["PSNR (dB)", "SSIM"])]
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
        found = record(run)
        taken = {name: one["seconds"] / 60 for name, one in found["notebooks"].items()}
        taken["all"] = sum(taken.values())
        columns[TIMED[run]] = taken | {"GiB of memory": found["peak_memory_gib"]}
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
    return _markdown([*keys, *splits], lines)


def _percents(keys, table):
    lines = [[*key, *(f"{value * 100:.1f}" for value in row)] for key, *row in table.itertuples()]
    return _markdown([*keys, *table.columns], lines)


def _markdown(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


NUMBERS = [accuracy, duration, memory, hardware, pictures, original]
TABLES = [accuracies, shots, differences, finetuning, wise_ft, upsampling, quality, minutes]


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
