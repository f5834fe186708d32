"""List the grocery photographs beside the repository as a manifest, for a run on them.

    python benchmarks/grocery.py grocery.csv
    cliphelpers run --data grocery.csv --output output …

Its class folders lie at different depths below ``train`` and ``test``, which the package refuses
to guess. Nothing names what a picture was taken with: there are no groups.
"""

import csv
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "grocery"


def rows():
    """A row for each picture: its path, its class, and the data set's own part."""
    for path in sorted(DATA.rglob("*.jpg")):
        yield path, path.parent.name, path.relative_to(DATA).parts[0]


if __name__ == "__main__":
    with open(sys.argv[1], "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows()])
