"""Minutes and peak memory of all seven notebooks, as the run.json of `make figures` tells them."""

import json
from pathlib import Path

NAME = "notebooks"
BARS = {("first run", "min"): 6, ("second run", "min"): 2, ("first run", "GiB"): 3}


def work(which, unit):
    """What a row is called."""
    return f"all seven notebooks, {which}: {'peak memory' if unit == 'GiB' else 'minutes'}"


def peer(bar, unit):
    """What a run is compared with."""
    return f"at most {bar} {unit}"


def rows(output, which, hardware):
    """Rows for bench.csv.

    Parameters
    ----------
    output : str or Path
        The run's folder.
    which : {"first run", "second run"}
        From an empty cache, or with everything kept.
    hardware : str
        What it ran on, which run.json tells less of.

    Returns
    -------
    list of dict

    Raises
    ------
    SystemExit
        The run is not of all notebooks.
    """
    found = json.loads((Path(output) / "run.json").read_text(encoding="utf-8"))
    books = found["notebooks"].values()
    if len(books) < 7:
        raise SystemExit(f"{output} is a run of {len(books)} notebooks, not of all seven")
    ours = {
        "min": sum(one["seconds"] for one in books) / 60,
        "GiB": max(one["peak_memory_gib"] for one in books),
    }
    made = []
    versions = "; ".join(f"{name} {number}" for name, number in found["versions"].items())
    about = {
        "hardware": hardware, "date": found["started"][:10], "commit": found["commit"],
        "versions": versions,
    }  # fmt: skip
    for (when, unit), bar in BARS.items():
        if when == which:
            ratio = bar / ours[unit]
            made.append({
                "name": NAME, "work": work(which, unit), "peer": peer(bar, unit), "unit": unit,
                "ours": ours[unit], "theirs": bar, "ratio": ratio, "least": ratio, "most": ratio,
                "bar": 1, "pairs": 1, "wanted": 1, **about,
            })  # fmt: skip
    return made
