"""The tables of several runs side by side."""

import json
from html import escape
from pathlib import Path

import pandas as pd

_ROWS = ["experiment", "split", "encoder", "features", "method", "shots", "metric"]


class RunError(ValueError):
    """What is no run, cannot start, or failed. The message says which and why."""


def read_record(folder):
    """What the ``run.json`` of a run says: dict; when, where and by what for each notebook, too."""
    file = Path(folder, "run.json")
    if not file.exists():
        todo = "Give the --output of a `cliphelpers run`"
        raise RunError(f"{folder} is no run: it has no run.json. {todo}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        whole = {key: record[key] for key in ("started", "commit")} | record
        notebooks = whole.pop("notebooks")  # old ones say it once for all of them
        record["notebooks"] = {name: whole | one for name, one in notebooks.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise RunError(f"{file} is no record of a run: move it or choose another output") from None
    return record


def table_files(folder):
    """Tables of results of a run's notebooks: list of Path, sorted.

    None of a notebook that was begun again and has not ended: what stands there is another run's.
    """
    notebooks = read_record(folder)["notebooks"]
    found = [*Path(folder).glob("results/*.csv"), *Path(folder).glob("*.csv")]
    return sorted(file for file in found if file.stem in notebooks)


def compare(folders):
    """What several runs measured, a column for each.

    Parameters
    ----------
    folders : list of str
        Each the output of a ``cliphelpers run``, or its tables and its ``run.json`` alone. Curves
        of trainings (``*_curves.csv``) are left out.

    Returns
    -------
    DataFrame
        Indexed by experiment, split, encoder, features, method, shots and metric (texts, "" where
        there is none); the columns are the folders, with the mean over seeds, or NaN where a run
        does not have the row, and "spread", the largest less the smallest value of all runs.

    Raises
    ------
    RunError
        A folder has no tables of results, or is given twice.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise RunError("A run is given twice")
    if "spread" in folders:
        raise RunError("A column is called spread: give the run as ./spread")
    rows = pd.concat([_results(folder).assign(run=folder) for folder in folders])
    table = rows.pivot_table("value", _ROWS, "run", sort=False)[list(folders)]
    spread = table.max(axis=1, skipna=False) - table.min(axis=1)
    return table.assign(spread=spread).rename_axis(columns=None)


def _results(folder):
    files = table_files(folder)
    if not files:
        lacks = "results/*.csv of a notebook that has ended"
        raise RunError(f"{folder} is no run: it has no {lacks}")
    text = dict.fromkeys(_ROWS, str)
    tables = [pd.read_csv(file, dtype=text, keep_default_na=False) for file in files]
    for file, table in zip(files, tables, strict=True):
        if missing := {*_ROWS, "value"} - set(table.columns):
            raise RunError(f"{file} is no table of results: it has no column {min(missing)}")
    return pd.concat(tables)


def describe(folder):
    """When, with what code and on which pictures a run was made: a line of text."""
    record = read_record(folder)
    runs = record["notebooks"].values()
    commits = {(run["commit"] or "unknown")[:10]: None for run in runs}
    data = {str(run["parameters"].get("data")): None for run in runs}
    return f"{folder}: {record['started']}, commit {', '.join(commits)}, data {', '.join(data)}"


def what_differs(folders):
    """In what the records of runs differ, other than what came out and when.

    Returns
    -------
    DataFrame
        A row for each parameter of a notebook, version, piece of hardware and commit that is not
        the same for all; the columns are the folders, "–" where a run has none.
    """
    flat = {folder: _flat(read_record(folder)["notebooks"]) for folder in folders}
    table = pd.DataFrame(flat).astype(object).fillna("–")
    return table[table.nunique(axis=1) > 1]


def _flat(notebooks):
    parts = ["commit", "python", "versions", "hardware", "parameters"]
    kept = {name: {part: one.get(part) for part in parts} for name, one in notebooks.items()}
    for name, one in notebooks.items():
        if "pictures" in one:  # however their folder was named
            kept[name]["parameters"] = one["parameters"] | {"data": one["pictures"]}
    flat = pd.json_normalize(kept, sep=" ").iloc[0] if kept else pd.Series()
    flat = flat[[not name.endswith("parameters output") for name in flat.index]]
    return flat.map(str)


def to_html(table, captions, differing):
    """A table of :func:`compare` as a page: large spreads dark, each row's largest value bold.

    Above it stands ``differing``, that of :func:`what_differs`.
    """
    style = table.style.format(precision=3, na_rep="–").format_index(escape="html")
    style = style.format_index(escape="html", axis="columns")
    style = style.background_gradient("Oranges", subset="spread", vmin=0)
    none = "background-color: transparent; color: inherit"  # a gradient makes them black
    style = style.highlight_null(subset="spread", props=none)
    runs = table.columns.drop("spread")
    style = style.highlight_max(subset=runs, axis="columns", props="font-weight: bold")
    style = style.set_caption("<br>".join(map(escape, captions)))
    style = style.set_table_styles([{"selector": "th, td", "props": "padding: 2px 8px"}])
    above = f"<h3>In what they differ</h3>{differing.to_html()}<h3>What came out</h3>"
    page = style.to_html(doctype_html=True, encoding="utf-8")
    return page.replace("<body>", f"<body>{above}", 1)
