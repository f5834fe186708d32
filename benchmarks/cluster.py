"""What does a cluster cost? Two one-core actors of Ray against one process with two threads.

    python benchmarks/cluster.py          # writes benchmarks/cluster.csv

Pictures are copies of data/fruits-mini, made different by some bytes at their ends. Each run is a
process of its own, and the two ways take turns. "seconds" go from files to features, the loading
of the encoder and Ray's start included; "memory" is the peak of the process that was called (MiB),
"bytes" what lies on the disk for each picture, "load" the machine's average at the end. A picture
more costs what lies between the runs of most and of fewest pictures of both ways; that it costs no
more among many is seen in one run of the actors alone.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from cliphelpers.cluster import extract
from cliphelpers.encoders.load import load_encoder
from cliphelpers.features import extract_features

HERE = Path(__file__).resolve()
DATA = HERE.parents[1] / "data"
SPEC = f"clip:{DATA / 'weights' / 'clip-mini-vit.pt'}"
LARGE = """
import timm
from cliphelpers.encoders.encoder import Encoder
def encoder():
    return Encoder("ViT-B/32 shape", timm.create_model("vit_base_patch32_224", num_classes=0))
"""
COUNTS, REPEATS, FEW, MOST = (1_000, 10_000), 2, 128, 100_000


def copies(folder, count):
    """Write so many pictures of different bytes."""
    files = sorted((DATA / "fruits-mini").rglob("*.jpg"))
    for number in range(count):
        content = files[number % len(files)].read_bytes()
        Path(folder, f"{number:06}.jpg").write_bytes(content + number.to_bytes(4, "big"))


def on_a_process(folder, spec, output):
    index = pd.DataFrame({"path": sorted(map(str, Path(folder).iterdir()))})
    extract_features(load_encoder(spec), index, cache=output)


def on_a_cluster(folder, spec, output):
    count, errors = extract(folder, spec, output)
    assert count == len(os.listdir(folder)) and not errors


def measure(way, folder, spec):
    """Run one way in a process of its own: dict of what it took."""
    count = len(os.listdir(folder))
    with TemporaryDirectory() as output:
        call = [sys.executable, HERE, way, folder, spec, output]
        told = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        row = {"way": way, "pictures": count} | json.loads(told.splitlines()[-1])
        row["load"] = os.getloadavg()[0]
        for kind in ("4-*", "checkpoints", "manifests"):
            files = [path for path in Path(output).glob(f"{kind}/**/*") if path.is_file()]
            row[f"bytes of {kind.replace('4-*', 'features')}"] = (
                sum(path.stat().st_size for path in files) / count
            )
    return row


def main():
    from bench import hardware  # here: it would count in the memory of the runs

    rows = []
    with TemporaryDirectory() as folder:
        slow = Path(folder, "large.py")
        slow.write_text(LARGE)
        folders = {count: Path(folder, str(count)) for count in (FEW, *COUNTS, MOST)}
        for count, place in folders.items():
            place.mkdir()
            copies(place, count)
        for turn in range(REPEATS):
            for count in COUNTS if turn == 0 else COUNTS[:1]:
                for way in ("process", "cluster"):
                    rows.append({"encoder": "clip-mini-vit"} | measure(way, folders[count], SPEC))
                    print(rows[-1], flush=True)
        large = measure("process", folders[FEW], f"module:{slow}")
        rows.append({"encoder": "ViT-B/32 shape"} | large)
        rows.append({"encoder": "clip-mini-vit"} | measure("cluster", folders[MOST], SPEC))
    table = pd.DataFrame(rows).assign(hardware=hardware())
    table.to_csv(HERE.with_suffix(".csv"), index=False, float_format="%.1f")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        way, *where = sys.argv[1:]
        start = time.perf_counter()
        {"process": on_a_process, "cluster": on_a_cluster}[way](*where)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": peak}))
    else:
        main()
