"""A linear head from files of features, batch by batch: does memory stay flat?

    python benchmarks/batches.py          # writes benchmarks/batches.csv

The files are as `cliphelpers extract` writes them, with made-up features in 30 classes. "batches"
goes through them once and keeps sums alone, from which ridge regression follows exactly; "whole"
reads all features first, for `cliphelpers.Ridge`. Each run is a process of its own. "seconds" go
from files to the head, "memory" is the peak of the process (MiB), "right" the share of right
answers to other features.
"""

import json
import resource
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.linalg
from pyarrow import parquet

from cliphelpers.classifiers import Ridge

HERE = Path(__file__).resolve()
CLASSES, NUMBERS, STRENGTH, BATCH, FILE = 30, 768, 0.1, 4096, 10_000
COUNTS = (10_000, 100_000, 500_000)


def make(count, seed=0):
    """Made-up features (N, NUMBERS) around the centres of their classes (N,)."""
    centres = np.random.default_rng(1).normal(size=(CLASSES, NUMBERS)).astype(np.float32)
    chance = np.random.default_rng(seed)
    y = chance.integers(CLASSES, size=count)
    return centres[y] + 8 * chance.standard_normal((count, NUMBERS), np.float32), y


def write(folder, count):
    """Files of features, and a table of what their digests stand for."""
    folder.mkdir()
    for start in range(0, count, FILE):
        X, y = make(min(FILE, count - start), seed=2 + start)
        digests = [
            sha256(str(number).encode()).hexdigest() for number in range(start, start + len(y))
        ]
        errors = pa.array([""] * len(y))
        columns = {"digest": digests, "features": pa.array(list(X)), "error": errors}
        parquet.write_table(pa.table(columns), folder / f"{start}.parquet")
        labels = pa.table({"digest": digests, "y": y})
        parquet.write_table(labels, folder.with_name(f"{folder.name} labels-{start}.parquet"))


def read_batches(folder):
    """Features (n, D) and classes (n,) of some pictures at a time."""
    files = folder.parent.glob(f"{folder.name} labels-*")
    known = pd.concat(map(pd.read_parquet, files)).set_index("digest").y
    for file in sorted(folder.glob("*.parquet")):  # in turn: a dataset would read ahead
        for batch in parquet.ParquetFile(file).iter_batches(BATCH):
            batch = batch.filter(pc.equal(batch["error"], ""))
            X = batch["features"].flatten().to_numpy().reshape(len(batch), -1)
            yield X, known.loc[batch["digest"].to_pylist()].to_numpy()


def ridge_of_sums(batches, strength):
    """What ``Ridge([strength])`` finds on all of them: W (D, C) and b (C,).

    The sums of x, y, x x' and x y', in float64, say all that least squares asks for.
    """
    gram, cross = 0, 0
    for X, y in batches:
        A = np.c_[X, np.ones(len(X))].astype(float)
        gram, cross = gram + A.T @ A, cross + A.T @ np.eye(CLASSES)[y]
    count, mean, share = gram[-1, -1], gram[-1, :-1] / gram[-1, -1], cross[-1] / gram[-1, -1]
    covariance = gram[:-1, :-1] / count - np.outer(mean, mean)
    std = np.sqrt(covariance.diagonal())
    correlation = covariance / np.outer(std, std) + strength * np.eye(len(std))
    target = (cross[:-1] / count - np.outer(mean, share)) / std[:, None]
    W = scipy.linalg.solve(correlation, target, assume_a="pos") / std[:, None]
    return W.astype(np.float32), (share - mean @ W).astype(np.float32)


def fit(way, folder):
    """The head of one way."""
    if way == "batches":
        return ridge_of_sums(read_batches(folder), STRENGTH)
    X, y = (np.concatenate(parts) for parts in zip(*read_batches(folder), strict=True))
    return Ridge([STRENGTH]).fit(X, y, CLASSES).heads_[0]


def main():
    from bench import hardware  # here: it would count in the memory of the runs

    rows, build = [], HERE.parents[1] / "build"  # /tmp may be small
    build.mkdir(exist_ok=True)
    for count in COUNTS:
        with TemporaryDirectory(dir=build) as place:
            write(Path(place, "features"), count)
            for way in ("batches", "whole"):
                call = [sys.executable, HERE, way, Path(place, "features")]
                told = subprocess.run(call, check=True, capture_output=True, text=True).stdout
                rows.append({"way": way, "features": count} | json.loads(told.splitlines()[-1]))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).assign(hardware=hardware())
    table.to_csv(HERE.with_suffix(".csv"), index=False, float_format="%.4g")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        way, folder = sys.argv[1:]
        start = time.perf_counter()
        W, b = fit(way, Path(folder))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        X, y = make(5_000)
        right = float(np.mean((X @ W + b).argmax(1) == y))
        print(json.dumps({"seconds": seconds, "memory": peak, "right": right}))
    else:
        main()
