"""Ours and its peers, timed in turn on this machine.

    python benchmarks/bench.py [NAME ...] [--pairs 5]      # `make bench`: all of them
    python benchmarks/bench.py --small --pairs 1           # does it work? a few pictures
    python benchmarks/bench.py notebooks --run OUTPUT --second-run OUTPUT

Each side of a comparison (timed/) has a process of its own. In a pair all of them do the same work,
one after the other; in the next pair in the opposite order. Their results must agree. A ratio is
how many times as good ours is: of a pair, since both met the same machine then. Rows of
benchmarks/bench.csv are written after each pair, so that an interruption loses nothing; those of
other hardware stay. benchmarks/RESULTS.md follows at the end (bench_page.py). With --small they go
below build/ instead.

`notebooks` runs nothing: it reads the run.json of two runs of `make figures` on this machine, from
an empty cache and once more.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import bench_page
import numpy as np
import pandas as pd
import psutil
from timed import notebooks
from timed.comparison import LIMIT, Disagreement, Side
from timed.comparisons import COMPARISONS
from timed.contender import HERE, Contender, ContenderError, missing

BUILD = HERE.parent / "build" / "bench"  # what is made once; git ignores it
KEYS = ["name", "work", "peer", "hardware"]
COLUMNS = [*KEYS[:3], "unit", "ours", "theirs", "ratio", "least", "most", "bar", "pairs", "wanted"]
COLUMNS += ["share", "gflops", "others", "threads", "hardware", "date", "commit", "versions"]

# ------------------------------------------------------------------------------- measuring


def compare(comparison, pairs, small, csv):
    """Run the pairs of a comparison, and write its rows to a CSV after each.

    Raises
    ------
    Disagreement
        Two sides computed different things; there are then no rows of this comparison.
    ContenderError
        A side failed.
    """
    sides = {}
    for label, side in comparison.sides.items():
        if reason := missing(side):
            print(f"{comparison.name}: {label} is left out, since {reason}", flush=True)
        else:
            sides[label] = side
    there = {*sides, LIMIT}
    contrasts = [one for one in comparison.contrasts if {one.ours, one.peer} <= there]
    if not contrasts:
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    prepared, measured = comparison.prepare(BUILD, small), []
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(dir=BUILD)))
        processes = {
            label: stack.enter_context(Contender(side, prepared.setup))
            for label, side in sides.items()
        }
        about = {label: process.about for label, process in processes.items()}
        limit = stack.enter_context(Contender(Side("limit:sgemm"), {}))
        warm = prepared.job(-1, place)
        for process in processes.values():
            if warm is not None:
                process.run(warm)
        for number in range(pairs):
            job, gflops = prepared.job(number, place), limit.run({})["result"]
            turn = list(processes)
            turn = turn[::-1] if number % 2 and not comparison.in_order else turn
            pair = {label: run_watched(processes[label], job) for label in turn}
            for reply in pair.values():
                reply["value"] = value(comparison.unit, prepared.amount, reply)
            fastest = gflops * 1e9 / prepared.flops if prepared.flops else None
            pair[LIMIT] = {"value": fastest, "gflops": gflops, "others": 0}
            try:
                for one in contrasts:
                    if one.peer != LIMIT:
                        one.check(pair[one.ours]["result"], pair[one.peer]["result"])
            except Disagreement:
                remove(csv, comparison.name)
                raise
            for reply in pair.values():
                reply.pop("result", None)  # it can be large
            measured.append(pair)
            rows = [row(comparison, one, measured, about) for one in contrasts]
            write(csv, rows)
    for one in rows:
        print(line(one), flush=True)


def run_watched(process, job):
    """A run; as "others" how many cores all other processes kept busy meanwhile."""
    before = _busy()
    reply = process.run(job)
    return reply | {"others": max(_busy() - before - reply["cpu"], 0) / reply["seconds"]}


def _busy():
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0) + getattr(times, "steal", 0)


def value(unit, amount, reply):
    """What a run reached, in the comparison's unit."""
    if unit == "GiB":
        return reply["result"]
    return reply["seconds"] if unit == "s" else amount / reply["seconds"]


# ------------------------------------------------------------------------------- rows


def row(comparison, contrast, measured, about):
    """A row of the table, of all pairs so far: dict."""
    ours, theirs = (
        np.array([pair[side]["value"] for pair in measured])
        for side in (contrast.ours, contrast.peer)
    )
    ratios = theirs / ours if comparison.unit in ("s", "GiB") else ours / theirs
    limits = [pair[LIMIT]["value"] for pair in measured]
    share = None if None in limits else np.median(ours / np.array(limits))
    both = [about[side] for side in (contrast.ours, contrast.peer) if side in about]
    versions = {name: number for one in both for name, number in one["versions"].items()}
    return {
        "name": comparison.name, "work": contrast.work, "peer": contrast.peer,
        "unit": comparison.unit, "ours": np.median(ours), "theirs": np.median(theirs),
        "ratio": np.median(ratios), "least": ratios.min(), "most": ratios.max(),
        "bar": contrast.bar, "pairs": len(measured), "wanted": comparison.pairs, "share": share,
        "gflops": np.median([pair[LIMIT]["gflops"] for pair in measured]),
        "others": max(reply["others"] for pair in measured for reply in pair.values()),
        "threads": max(one["threads"] for one in both), "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"), "commit": commit(),
        "versions": "; ".join(f"{name} {number}" for name, number in versions.items()),
    }  # fmt: skip


def hardware():
    """Processor, cores and memory of this machine: str."""
    name, file = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if file.exists():
        told = dict(one.split("\t: ", 1) for one in file.read_text().splitlines() if "\t: " in one)
        told = {key.strip(): text for key, text in told.items()}
        name = told.get("model name", name)
        flags = told.get("flags", "").split()
        kinds = {"avx512f": " with AVX-512", "avx2": " with AVX2"}
        name += next((kind for flag, kind in kinds.items() if flag in flags), "")
    gpu = subprocess.run("nvidia-smi -L", shell=True, capture_output=True, text=True).stdout.strip()
    size = psutil.virtual_memory().total / 2**30
    return f"{name}, {os.cpu_count()} cores, {size:.0f} GiB, {gpu or 'no GPU'}"


def commit():
    """This checkout's commit, marked if files have changed since: str."""
    describe = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(describe, cwd=HERE, capture_output=True, text=True).stdout.strip()


def write(csv, rows):
    """Put rows into a CSV, in place of those of the same name, work, peer and hardware."""
    old = pd.read_csv(csv).to_dict("records") if csv.exists() else []
    new = [[one[key] for key in KEYS] for one in rows]
    _save(csv, [one for one in old if [one[key] for key in KEYS] not in new] + rows)


def remove(csv, name):
    """Take a comparison's rows on this hardware out of a CSV."""
    if csv.exists():
        rows, gone = pd.read_csv(csv).to_dict("records"), (name, hardware())
        _save(csv, [one for one in rows if (one["name"], one["hardware"]) != gone])


def _save(csv, rows):
    part = csv.with_suffix(".part")
    pd.DataFrame(rows, columns=COLUMNS).to_csv(part, index=False, float_format="%.5g")
    os.replace(part, csv)


def line(one):
    """A row in words: str."""
    share = "" if one["share"] is None else f", {one['share']:.0%} of the limit"
    return (
        f"{one['work']}: ours {one['ours']:.4g} {one['unit']}, {one['peer']} {one['theirs']:.4g}, "
        f"ratio {one['ratio']:.2f} ({one['least']:.2f} to {one['most']:.2f}, {one['pairs']} pairs)"
        f"{share}\n    {one['hardware']}; {one['threads']} threads; sgemm {one['gflops']:.0f} "
        f"GFLOP/s; others kept {one['others']:.2f} cores busy; {one['versions']}"
    )


# ------------------------------------------------------------------------------- the command


def main():
    """Run what is asked for; a comparison that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*COMPARISONS, notebooks.NAME]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--pairs", type=int, help="of each comparison; by default what decides")
    parser.add_argument("--small", action="store_true", help="few pictures, results below build/")
    parser.add_argument("--run", metavar="OUTPUT", help="of `make figures` from an empty cache")
    parser.add_argument("--second-run", metavar="OUTPUT", help="of `make figures`, once more")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"There is no {', '.join(unknown)}: choose of {', '.join(known)}")
    place = BUILD if args.small else HERE
    place.mkdir(parents=True, exist_ok=True)
    csv, failed = place / "bench.csv", []
    for output, which in ((args.run, "first run"), (args.second_run, "second run")):
        if output:
            write(csv, notebooks.rows(output, which, hardware()))
    for name in args.names or COMPARISONS:
        if name in COMPARISONS:
            one = COMPARISONS[name]
            try:
                compare(one, args.pairs or one.pairs, args.small, csv)
            except (Disagreement, ContenderError) as error:
                print(f"{name} failed: {error}", flush=True)
                failed.append(name)
    if csv.exists():
        page = bench_page.page(pd.read_csv(csv), small=args.small)
        (place / "RESULTS.md").write_text(page, encoding="utf-8")
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
