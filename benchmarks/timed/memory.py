"""Peak memory, features aside, of 5,000 and of 50,000 pictures.

Each picture is a copy of another one with its number behind its end, so that no two have the same
content. A peak is that of a whole process: Linux alone tells it.
"""

import re
from pathlib import Path

from timed.comparison import Comparison, Contrast, Prepared, Side
from timed.inputs import clip_file, some_pictures

MANY, TIMES = 50_000, 10  # as many pictures, and so many times as many


def ours(file, few, many):
    """A whole run, from the folder to features: GiB without them."""
    import cliphelpers as ch

    (encoder,) = ch.load_encoders([f"clip:{file}"])

    def run(folder, cache):
        features = ch.extract_features(encoder, ch.index_images(folder), cache=cache)
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
        return (peak - features.nbytes) / 2**30

    return run


def few(file, few, many):
    """A tenth of the pictures."""
    run = ours(file, few, many)
    return lambda cache: run(few, f"{cache}/few")


def many(file, few, many):
    """All of them."""
    run = ours(file, few, many)
    return lambda cache: run(many, f"{cache}/many")


def prepare(folder, small):
    """Two folders of two classes."""
    count = 400 if small else MANY
    places = {"few": folder / f"{count // TIMES} pictures", "many": folder / f"{count} pictures"}
    contents = [Path(path).read_bytes() for path in some_pictures(2000)]
    for place, total in zip(places.values(), (count // TIMES, count), strict=True):
        if place.is_dir():
            continue
        for number in range(total):
            path = place / f"class {number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[number % len(contents)] + str(number).encode())
    setup = {"file": clip_file("clip-mini-vit", folder)} | {k: str(v) for k, v in places.items()}
    return Prepared(setup, lambda number, place: None if number < 0 else {"cache": str(place)})


def _memory():
    sides = {"5,000 pictures": Side("memory:few"), "50,000 pictures": Side("memory:many")}
    work = "peak memory of ten times as many pictures, features aside"
    contrast = Contrast(work, "50,000 pictures", "5,000 pictures", 1 / 1.1)
    return Comparison("memory", "GiB", sides, [contrast], prepare, pairs=1)


COMPARISONS = [_memory()]
