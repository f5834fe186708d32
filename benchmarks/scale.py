"""What would 10^9 pictures take? The costs in benchmarks/*.csv, carried on.

python benchmarks/scale.py            # writes report/scale.md
"""

import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PICTURES, CORES, NUMBERS = 10**9, 16, 768  # in all; of a machine; of a picture, for ViT-B/32
PICTURE = 100_000  # bytes of a file, assumed
PRICES = {  # list prices as they are commonly quoted, taxes aside; look them up before use
    "machine with 16 cores, an hour": 0.75,
    "same, if it may be taken away (spot)": 0.30,
    "a million reads from an object store": 0.40,
    "a terabyte kept there for a month": 22.0,
}
DIGEST = sys.getsizeof("0" * 64) + 8  # bytes of a digest in an array of Python's texts, measured


def read_costs(file):
    """Seconds and bytes of a picture: dict.

    A picture more costs the slope between the runs of fewest and of most pictures of both ways,
    which leaves out what starting takes; of repeated runs the median is meant.
    """
    table = pd.read_csv(file)
    small = table[table.encoder == "clip-mini-vit"]
    median = small.groupby(["way", "pictures"])[["seconds", "memory"]].median()
    few, many, most = sorted(set(small.pictures))  # the last of actors alone

    def slope(way, low, high):
        return (median.loc[(way, high)] - median.loc[(way, low)]) / (high - low)

    slopes = {way: slope(way, few, many) for way in ("process", "cluster")}
    last = small[small.pictures == most].iloc[-1]
    large = table[table.encoder == "ViT-B/32 shape"].iloc[-1]
    return {
        "two cores": slopes["process"].seconds,
        "two actors": slopes["cluster"].seconds,
        "start": median.seconds["cluster", few] - few * slopes["cluster"].seconds,
        "later": slope("cluster", many, most).seconds,
        "driver": slope("cluster", few, most).memory * 2**20,
        "large": large.seconds / large.pictures,
        "checkpoint": last["bytes of checkpoints"],
        "manifest": last["bytes of manifests"],
        "load": table.load.median(), "hardware": table.hardware.iloc[-1],
        "few": few, "many": many, "most": most,
    }  # fmt: skip


def read_heads(file):
    """Of each way to fit a head: bytes of memory and seconds that a picture more costs; dict."""
    table, costs = pd.read_csv(file), {}
    for way, rows in table.groupby("way"):
        few, many = (rows.loc[at] for at in (rows.features.idxmin(), rows.features.idxmax()))
        more = many.features - few.features
        costs[way] = {
            "bytes": (many.memory - few.memory) * 2**20 / more,
            "seconds": (many.seconds - few.seconds) / more,
            "few": few, "many": many,
        }  # fmt: skip
    return costs


def carry(costs, machines, pictures=PICTURES):
    """What so many pictures take on so many machines: dict."""
    measured = costs["two cores"] / costs["two actors"]  # of a process' rate that actors reach
    share = min(measured, 1)  # more is other work that was there in one run and not in the other
    core = 2 * costs["large"] / share  # seconds of one core a picture
    core_hours = pictures * core / 3600
    hours = core_hours / (machines * CORES)
    names = list(PRICES)
    return {
        "measured": measured,
        "share": share,
        "core": core,
        "core hours": core_hours,
        "hours": hours,
        "machine hours": hours * machines,
        "euros": hours * machines * PRICES[names[0]],
        "euros spot": hours * machines * PRICES[names[1]],
        "euros reads": 2 * pictures / 1e6 * PRICES[names[2]],  # once for the digest
        "pictures TB": pictures * PICTURE / 1e12,
        "features TB": pictures * NUMBERS * 4 / 1e12,
        "euros kept": pictures * NUMBERS * 4 / 1e12 * PRICES[names[3]],
        "network": 2 * machines * CORES / core * PICTURE * 8 / 1e9 / machines,  # Gbit/s a machine
        "checkpoints GB": pictures * costs["checkpoint"] / 1e9,
        "manifests GB": pictures * costs["manifest"] / 1e9,
        "digests GB": pictures * DIGEST / 1e9,
        "driver GB": pictures * costs["driver"] / 1e9,
    }


def page(costs, heads):
    """report/scale.md."""
    batches, whole = heads["batches"], heads["whole"]
    fleets = (1, 10, 100, 1000)
    found = {machines: carry(costs, machines) for machines in fleets}
    one = found[1]
    prices = "\n".join(f"- {name}: € {price:.2f}" for name, price in PRICES.items())
    rows = "\n".join(
        f"| {machines} | {took['hours']:,.1f} | {took['hours'] / 24:,.1f} |"
        for machines, took in found.items()
    )
    return f"""# One billion pictures

Written by `benchmarks/scale.py` from `benchmarks/cluster.csv` and `batches.csv`. Nothing here was
run at that size: what was measured on two cores at {costs["few"]:,} to {costs["most"]:,} pictures
is carried on.

## What was measured

On {costs["hardware"]}, with a load average
of {costs["load"]:.0f}: 2 is a machine of two cores without other work, and times are longer by as
much as it is more.

- clip-mini-vit, a process with two threads: {1000 * costs["two cores"]:.1f} ms a picture more.
- The same, two one-core actors of Ray: {1000 * costs["two actors"]:.1f} ms a picture more, so
  {one["measured"]:.2f} of the process' rate, and {costs["start"]:.0f} s to start. The bar was 0.85:
  it is {"met" if one["measured"] >= 0.85 else "not met"}. (More than 1 would be other work, there
  in one run and not in the other, and count as 1.) From {costs["many"]:,} to {costs["most"]:,}
  pictures the actors take {1000 * costs["later"]:.1f} ms a picture more.
- A ViT-B/32 shape, a process with two threads: {1000 * costs["large"]:.0f} ms a picture.
- The process that was called grows by {costs["driver"]:,.0f} bytes a picture; on the disk lie
  {costs["checkpoint"]:.0f} bytes a picture of checkpoints and {costs["manifest"]:.0f} of manifests.

In a run of its own, on {batches["few"].hardware}:

- A ridge head from such files, batch by batch ([batches.py](../benchmarks/batches.py)), which is
  that of all at once: from {batches["few"].features:,} to {batches["many"].features:,} made-up
  features of {NUMBERS} numbers its peak of memory goes from {batches["few"].memory:,.0f} to
  {batches["many"].memory:,.0f} MiB, {batches["bytes"]:,.0f} bytes a picture (the table of labels is
  held, features are not), where all at once take {whole["bytes"]:,.0f};
  {1e6 * batches["seconds"]:.0f} µs a picture.

## What is assumed

- The encoder is a ViT-B/32 ({NUMBERS} numbers a picture), on machines with {CORES} such cores.
- A picture's file has {PICTURE:,} bytes.
- Cores do not wait for the network, and machines do not wait for each other.

Prices, as they are commonly quoted and not looked up for this page (look them up before use):

{prices}

## What follows

A picture takes 2 x {costs["large"]:.4f} s / {one["share"]:.2f} = {one["core"]:.4f} s of a core, so
{PICTURES:,} take {one["core hours"]:,.0f} hours of a core.

| machines | hours | days |
|---|---|---|
{rows}

- Whatever their number, {one["machine hours"]:,.0f} hours of a machine: € {one["euros"]:,.0f}, or
  € {one["euros spot"]:,.0f} where machines may be taken away, which a job survives.
- Pictures: {one["pictures TB"]:,.0f} TB, read twice where the manifest has no digests
  (€ {one["euros reads"]:,.0f} of reads), at {one["network"]:.2f} Gbit/s for each machine.
- Features: {PICTURES:,} x {NUMBERS} x 4 bytes = {one["features TB"]:.1f} TB,
  € {one["euros kept"]:,.0f} a month.
- Checkpoints {one["checkpoints GB"]:,.0f} GB, manifests {one["manifests GB"]:,.0f} GB.

## What breaks first

1. **Going on after a stop.** Ray's filter holds all digests that are done, as an array of Python's
   texts, in each of its actors: {PICTURES:,} x {DIGEST} bytes = {one["digests GB"]:,.0f} GB, and it
   asks for half as much again. So give such a list in parts, as 100 manifests of 10^7 pictures
   ({one["digests GB"] / 100:.1f} GB each): each has a checkpoint of its own, and all write into one
   folder.
2. **Listing.** A folder is listed by one process; a list of 10^9 pictures must be Parquet.
3. **The process that is called**: {one["driver GB"]:,.0f} GB, if it grew on as it did here.
4. **Reading.** `extract_features` reads all digests in the folder to find its own: it is for
   notebooks' thousands of pictures among millions. A head on all of them goes through the files
   batch by batch: {batches["seconds"] * PICTURES / 3600:,.1f} hours of one process, and
   {batches["bytes"] * PICTURES / 1e9:,.0f} GB, if it grew on so: labels must come with the files.
"""


if __name__ == "__main__":
    folder = ROOT / "benchmarks"
    text = page(read_costs(folder / "cluster.csv"), read_heads(folder / "batches.csv"))
    (ROOT / "report" / "scale.md").write_text(text, encoding="utf-8")
