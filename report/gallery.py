"""Bring the outputs of a run into the committed notebooks, its figures and tables beside them.

    python report/gallery.py OUTPUT

OUTPUT is a folder that `make figures` has filled, on the embedded pictures and with the notebooks'
own parameters. Its outputs go into notebooks/, its figures to pics/, its tables, the curves of its
trainings and its run.json to report/results/embedded. Nothing is written unless all of it is fit to
be committed. README.md tells the run's minutes as those from an empty cache: give CLIPHELPERS_CACHE
an empty folder for the run.

A PNG is stored as the run drew it. Only where a notebook is larger than 900 kB, all its PNGs are
packed anew: first without loss, then, if that is not enough, with a palette of 256 colours.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).parents[1]
LARGEST = 900_000  # bytes of a notebook
WIDEST = 1020  # pixels of a figure: 9 inches at 110 dpi, and the margins that Jupyter adds
ABSOLUTE = re.compile(
    r"(?<![\w.])/(?:home|root|work|tmp|usr|opt|var|Users|mnt|content|private)/[^\s\"'<>]*"
    r"|\b[A-Z]:\\[^\s\"'<>]*"
)


class GalleryError(ValueError):
    """A run whose outputs cannot be committed. The message names the place and says why."""


def code_cells(notebook):
    """A notebook's code cells, without the one that papermill adds for a run's parameters."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]


def code_sha256(notebook):
    """SHA-256 of the sources of a notebook's code cells: hexadecimal str."""
    sources = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(sources.encode()).hexdigest()


def faults(notebook):
    """What keeps a notebook from being committed with its outputs: a str for each fault.

    Code that is not the code that gave the outputs, no outputs, errors, stderr, widgets, absolute
    paths, figures wider than 1020 pixels, and more than 900 kB.
    """
    cells = code_cells(notebook)
    if notebook.metadata.get("cliphelpers", {}).get("code_sha256") != code_sha256(notebook):
        yield "the outputs are of other code: make figures gallery"
    if not any(cell.outputs for cell in cells):
        yield "no cell has an output"
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "the cells are not numbered from 1 on"
    if "widgets" in notebook.metadata:
        yield "it holds the state of widgets"
    for cell in cells:
        yield from (f"{_name(cells, cell)} {fault}" for fault in _output_faults(cell))
    size = _size(notebook)
    if size > LARGEST:
        largest = max(cells, key=lambda cell: len(json.dumps(cell.outputs)))
        yield (
            f"it has {size / 1000:.0f} kB, {LARGEST / 1000:.0f} are allowed; most of them are of "
            + _name(cells, largest)
        )


def _name(cells, cell):
    number = next(number for number, one in enumerate(cells, 1) if one is cell)
    return f"code cell {number} ({cell.source.partition(chr(10))[0]})"


def _output_faults(cell):
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"failed: {output.ename}: {output.evalue}"
        elif output.output_type == "stream":
            if output.name == "stderr":
                yield f"wrote to stderr: {output.text.strip()[:200]}"
            yield from _paths(output.text)
        else:
            for mime, content in output.data.items():
                yield from _content_faults(mime, content)


def _content_faults(mime, content):
    if "widget" in mime:
        yield "shows a widget, which works in a live front end alone"
    elif mime == "image/png":
        width = _open(content).width
        if width > WIDEST:
            yield f"has a figure of {width} pixels' width, {WIDEST} are allowed"
    elif isinstance(content, str):
        if not mime.startswith("image/") or mime == "image/svg+xml":
            yield from _paths(content)
    else:
        yield from _paths(json.dumps(content))


def _paths(text):
    found = [match.group() for match in ABSOLUTE.finditer(text)]
    return [f"shows an absolute path: {path[:200]}" for path in dict.fromkeys(found)]


def _open(png):
    return Image.open(io.BytesIO(base64.b64decode(png)))


def _size(notebook):
    return len(nbformat.writes(notebook).encode()) + 1  # the newline at its end


def with_outputs(notebook, executed):
    """A notebook with the outputs of its execution by papermill.

    Parameters
    ----------
    notebook, executed : nbformat.NotebookNode

    Returns
    -------
    nbformat.NotebookNode
        ``notebook``'s own cells and metadata, and of ``executed`` the outputs alone. Cells are
        numbered from 1 on; the metadata ``cliphelpers.code_sha256`` says of which code they are.

    Raises
    ------
    GalleryError
        The code has changed since the execution, was not executed to its end, or with other
        parameters; or `faults` finds one.
    """
    filled, theirs = deepcopy(notebook), code_cells(executed)
    ours = code_cells(filled)
    if code_sha256(filled) != code_sha256(executed):
        raise GalleryError("its code has changed since the run: run make figures again")
    changed = set(executed.metadata.get("papermill", {}).get("parameters", {}))
    if changed := sorted(changed - {"data", "output"}):
        raise GalleryError(f"it was run with its own {', '.join(changed)}: run make figures again")
    for number, (cell, done) in enumerate(zip(ours, theirs, strict=True), 1):
        if done.execution_count is None:
            raise GalleryError(f"{_name(theirs, done)} was not executed: run make figures again")
        cell.outputs, cell.execution_count = deepcopy(done.outputs), number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    filled.metadata.pop("widgets", None)
    filled.metadata["cliphelpers"] = {"code_sha256": code_sha256(executed)}
    for colours in (None, 256):
        if _size(filled) > LARGEST:
            _pack(filled, colours)
    for fault in faults(filled):
        raise GalleryError(fault)
    return filled


def _pack(notebook, colours):
    """Pack a notebook's PNGs anew, where that makes them smaller; colours=None: without loss."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" not in output.get("data", {}):
                continue
            picture = _open(output.data["image/png"])
            if colours:  # figures are opaque
                picture = picture.convert("RGB").quantize(colours)
            packed = io.BytesIO()
            picture.save(packed, "PNG", optimize=True)
            text = base64.b64encode(packed.getvalue()).decode()
            if len(text) < len(output.data["image/png"]):
                output.data["image/png"] = text


def refresh(output, root=ROOT):
    """Bring a run's outputs into a checkout's notebooks/, pics/ and report/results/embedded.

    Parameters
    ----------
    output : str or Path
        As the ``--output`` of ``cliphelpers run``.
    root : Path

    Raises
    ------
    GalleryError
        Before anything is written: a file of the run is missing, the run was of other pictures, or
        a notebook's outputs cannot be committed (see `with_outputs`).
    """
    output, paths = Path(output), sorted((root / "notebooks").glob("*.ipynb"))
    needed = [output / "notebooks" / path.name for path in paths]
    tables = [output / "results" / f"{path.stem}.csv" for path in paths]
    needed += [*tables, output / "run.json"]
    if missing := [path for path in needed if not path.is_file()]:
        raise GalleryError(f"There is no {missing[0]}: run make figures first")
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))["notebooks"]
    filled = {}
    for path in paths:
        if path.stem not in record:
            raise GalleryError(f"{output}/run.json is of a run without {path.stem}: make figures")
        executed = nbformat.read(output / "notebooks" / path.name, as_version=4)
        data = executed.metadata.get("papermill", {}).get("parameters", {}).get("data")
        if data and Path(data).resolve() != (root / "data" / "fruits-mini").resolve():
            raise GalleryError(f"{path.stem} was run on {data}: run make figures without DATA")
        try:
            filled[path] = with_outputs(nbformat.read(path, as_version=4), executed)
        except GalleryError as error:
            raise GalleryError(f"{path.stem}: {error}") from None
    for path, notebook in filled.items():
        nbformat.write(notebook, path)
    for figure in (output / "pics").glob("*.jpg"):
        shutil.copy(figure, root / "pics")
    curves = [output / "results" / f"{path.stem}_curves.csv" for path in paths]
    kept = root / "report" / "results" / "embedded"
    for table in [*tables, *(path for path in curves if path.is_file()), output / "run.json"]:
        shutil.copy(table, kept)


def main(arguments=None):
    """Parse the arguments, refresh, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", help="folder of a run, such as output")
    try:
        refresh(parser.parse_args(arguments).output)
    except GalleryError as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
