"""Write benchmarks/RESULTS.md from benchmarks/bench.csv; no number in it is typed.

python benchmarks/bench_page.py
"""

from itertools import groupby
from pathlib import Path

import pandas as pd
from timed import notebooks
from timed.comparison import LIMIT
from timed.comparisons import COMPARISONS

HERE = Path(__file__).parent
TITLE = """# Speed, beside its peers

Made by [bench_page.py](bench_page.py) from [bench.csv](bench.csv), which `make bench` writes; no \
number is typed by hand. What was compared, and how, is in [timed/](timed). The accuracies that \
these notebooks find are in [report/RESULTS.md](../report/RESULTS.md).

In a pair ours and its peers do the same work in turn, each in a process of its own, on the same \
cores, with the threads that it takes by itself; in the next pair in the opposite order. Their \
results must agree, or nothing is written. **A ratio is how many times as good ours is**: the \
median over the pairs, and the least and the most of them in brackets. All compute in fp32."""
NOTES = """## How to read it

- *Files to features* begins at JPEG files and ends at an array; nothing is kept from before, but \
files are in the system's own cache, and networks are loaded, for all alike. ViT-B/32 and RN50 are \
OpenAI's shapes with random weights: that costs the same time. OpenAI's loop has batches of 100 as \
in CLIP's README; clip-benchmark its own batches of 64, and 4 processes, with `--no_amp`, since it \
would else compute in bf16.
- clip-benchmark's linear probe refuses to run without CUDA (`assert device == 'cuda'`), so it is \
not among the peers of the probes.
- The share of the limit is the network's floating-point operations (`torch.utils.flop_counter`) \
times pictures a second, over the fastest float32 product of two matrices that torch or numpy \
reached just before, in the same pair. Whoever computes convolutions can be above it.
- Probes: 5 strengths, one chosen on validation pictures, then fitted to all; accuracies equal \
within 0.3 points. Ridge is held against scikit-learn's *logistic* solvers, since it is what \
takes their place; beside it stands scikit-learn's own ridge.
- *Others* is how many of the cores other processes kept busy, at the worst of all runs: on a \
quiet machine about 0.
- A second run has everything kept, and is a new process: it reads and hashes all files.
- The bar of memory is 1 / 1.1: ten times as many pictures may take a tenth more."""
NO_GPU = """## Not measured: GPUs

No GPU was to be had. So nothing was measured on one: neither pictures a second beside timm's own \
benchmark, nor the seconds of an epoch of fine-tuning. What the package does there (pinned memory, \
copies that overlap, batches that halve themselves) is untested in speed; the tests marked `gpu` \
skip without one."""


def page(rows, small=False):
    """The page of a table's rows, as bench.csv has them: str."""
    parts = [TITLE, _bars(rows), _all(rows), _machines(rows), NOTES]
    if small:
        parts.insert(1, "**Of a few pictures only, to see whether it works: not results.**")
    if not any("no GPU" not in one for one in rows.hardware):
        parts.insert(3, NO_GPU)
    return "\n\n".join(parts) + "\n"


def wanted():
    """All that has a bar: list of (work, peers, bar)."""
    contrasts = [one for comparison in COMPARISONS.values() for one in comparison.contrasts]
    with_bar = [(one.work, one.bar, one.peer) for one in contrasts if one.bar is not None]
    found = [
        (work, [peer for *_, peer in some], bar)
        for (work, bar), some in groupby(with_bar, key=lambda one: one[:2])
    ]
    for (which, unit), bar in notebooks.BARS.items():
        found.append((notebooks.work(which, unit), [notebooks.peer(bar, unit)], 1))
    return found


def verdicts(rows):
    """Whether each bar was met, by the peer that is nearest to ours: list of dict.

    A bar is met if the median of at least as many pairs as the comparison wants reaches it.
    """
    found = []
    for work, peers, bar in wanted():
        some = rows[(rows.work == work) & rows.peer.isin(peers)]
        if some.empty:
            found.append({"work": work, "bar": bar, "verdict": "not measured"})
            continue
        worst = some.loc[some.ratio.idxmin()]
        lacking = [peer for peer in peers if peer not in set(some.peer)]
        verdict = "met" if worst.ratio >= bar else "**not met**"
        if worst.pairs < worst.wanted:
            verdict = f"not decided: {worst.pairs} of {worst.wanted} pairs"
        elif lacking:
            verdict += f", without {' and '.join(lacking)}"
        found.append({"work": work, "bar": bar, "verdict": verdict, "row": worst})
    return found


def _bars(rows):
    parts = ["## Bars", "On each machine; where there are several peers, the best counts."]
    for machine, some in rows.groupby("hardware", sort=False):
        found = verdicts(some)
        lines = [f"| {machine} | beside | ratio | bar | |", "|---|---|---|---|---|"]
        for one in found:
            row = one.get("row")
            if row is not None:
                beside, ratio = _peer(row.peer), _ratio(row)
            elif one["work"] in set(rows.work):  # on another machine
                continue
            else:
                beside = ratio = ""
            lines.append(
                f"| {one['work']} | {beside} | {ratio} | {one['bar']:.3g} | {one['verdict']} |"
            )
        met = sum(one["verdict"].startswith("met") for one in found)
        failed = sum("not met" in one["verdict"] for one in found)
        absent = sum(one["verdict"] == "not measured" for one in found)
        rest = len(found) - met - failed - absent
        words = f"Of {len(found)} bars, met: {met}, not met: {failed}, not decided: {rest}"
        words += f", not measured here: {absent}."
        parts += ["\n".join(lines), words]
    return "\n\n".join(parts)


def _all(rows):
    parts = ["## All comparisons"]
    for machine, some in rows.groupby("hardware", sort=False):
        lines = [f"| {machine} | unit | ours | peer | | ratio | pairs | share of the limit |"]
        lines.append("|---|---|---|---|---|---|---|---|")
        for row in some.itertuples():
            share = "" if pd.isna(row.share) else f"{row.share:.2f}"
            lines.append(
                f"| {row.work} | {row.unit} | {row.ours:.3g} | {_peer(row.peer)} | "
                f"{row.theirs:.3g} | {_ratio(row)} | {row.pairs} | {share} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _machines(rows):
    lines = ["| | hardware | threads | sgemm, GFLOP/s | others, cores | date | commit | versions |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (name, _), some in rows.groupby(["name", "hardware"], sort=False):
        row = some.iloc[-1]
        versions = "; ".join(dict.fromkeys("; ".join(some.versions).split("; ")))
        numbers = [
            "" if pd.isna(number) else form.format(number)
            for number, form in ((row.threads, "{:.0f}"), (row.gflops, "{:.0f}"),
                                 (some.others.max(), "{:.2f}"))
        ]  # fmt: skip
        cells = [name, row.hardware, *numbers, row.date, row.commit[:10], versions]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(["## Where and when", "", *lines])


def _peer(peer):
    return "the machine's sgemm" if peer == LIMIT else peer


def _ratio(row):
    return f"{row.ratio:.3g} ({row.least:.3g} to {row.most:.3g})"


if __name__ == "__main__":
    text = page(pd.read_csv(HERE / "bench.csv"))
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
