"""Run the notebooks without a front end: parameters in; executed notebooks and tables out."""

import ast
import difflib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import papermill
import torch
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from cliphelpers.parameters import check_parameters

try:
    import resource
except ImportError:  # Windows has none
    resource = None

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
PACKAGES = ["torch", "torchvision", "timm", "clip-anytorch", "numpy", "scipy", "scikit-learn"]


class RunError(ValueError):
    """A run that cannot start, or a notebook that failed. The message says which and why."""


def run(names=(), parameters=None, output="output"):
    """Execute notebooks in order.

    Below ``output`` are then ``notebooks/`` (as executed), ``results/`` (tables), ``pics/``
    (figures) and ``run.json`` (parameters, versions, hardware, seconds, peak of resident memory
    in GiB, commit).

    Parameters
    ----------
    names : list of str
        Such as "01_zero_shot", or its beginning, "01"; all if empty.
    parameters : dict of str to value
        Each goes to the notebooks that have it. A text that names an existing file or folder,
        also behind "clip:", "module:" or "@", counts from the current folder.
    output : str or Path

    Raises
    ------
    RunError
        Before anything runs: an unknown notebook or parameter, a wrong type, a missing data
        folder. Later: a cell failed; what was done is kept.
    ParameterError
        Before anything runs: an impossible value.
    """
    paths = find_notebooks(names)
    defaults = {path.stem: _defaults(path) for path in paths}
    typed = {"output": str(output)} | (parameters or {})
    given = {name: _absolute(value) for name, value in typed.items()}
    _check(given, defaults)
    output = Path(output).resolve()
    given["output"] = str(output)
    (output / "notebooks").mkdir(parents=True, exist_ok=True)
    record = _environment() | {"notebooks": {}}
    notebooks = {path.stem: papermill.iorw.load_notebook_node(str(path)) for path in paths}
    cells = sum(_is_code(cell) for book in notebooks.values() for cell in book.cells)
    cells += len(paths)  # papermill adds one with the parameters
    papermill_engines.register("cliphelpers", _Engine)
    with (
        tqdm(total=cells, unit="cell", file=sys.stderr) as bar,
        tempfile.TemporaryDirectory() as sockets,
    ):
        _Engine.bar = bar
        for path in paths:
            bar.set_description(path.stem)
            own = defaults[path.stem]
            mine = {name: value for name, value in given.items() if name in own}
            start = time.perf_counter()
            _execute(path, output / "notebooks" / path.name, mine, sockets)
            record["notebooks"][path.stem] = {
                "parameters": own | {name: typed[name] for name in mine},
                "seconds": round(time.perf_counter() - start, 1),
            }
            record["peak_memory_gib"] = _peak_memory()
            (output / "run.json").write_text(
                json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8"
            )


class _Engine(NBClientEngine):
    """papermill's own engine, which moves one bar over all cells of all notebooks."""

    bar = None

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        complete = nb_man.cell_complete

        def count(cell, *args, **more):
            complete(cell, *args, **more)
            cls.bar.update(_is_code(cell))

        nb_man.cell_complete = count
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


def _is_code(cell):
    return cell.cell_type == "code"


def _execute(path, target, parameters, sockets):
    # Sockets in a folder of this run: no ports or names that two runs at once could race for
    ipc = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{sockets}/kernel"}
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            parameters,
            engine_name="cliphelpers",
            kernel_name="python3",
            progress_bar=False,
            cwd=NOTEBOOKS,
            config=Config(KernelManager=ipc),
        )
    except PapermillExecutionError as error:
        source = error.source.strip().splitlines()
        raise RunError(
            f"{path.stem} failed in cell {error.cell_index} ({source[0] if source else ''}): "
            f"{error.ename}: {error.evalue}\nThe notebook as far as it went: {target}"
        ) from error


def find_notebooks(names=()):
    """Paths of the notebooks that the names, or their beginnings, mean; all of them if empty."""
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not known:
        raise RunError(f"There are no notebooks in {NOTEBOOKS}: run from a checkout of the project")
    found = set()
    for name in names:
        matches = [stem for stem in known if stem.startswith(Path(name).stem)]
        if len(matches) != 1:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0) or list(known)
            raise RunError(f"There is no notebook {name!r}: did you mean {near[0]}?")
        found.add(matches[0])
    return [path for stem, path in known.items() if not names or stem in found]


def _defaults(path):
    """The parameters of a notebook and their values: dict of str to value."""
    inspected = papermill.inspect_notebook(str(path))
    return {name: ast.literal_eval(one["default"]) for name, one in inspected.items()}


def parse_value(text):
    """A parameter's value from the command line: a Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _absolute(value):
    """Paths that exist from here, made absolute, since notebooks run in their own folder."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if not isinstance(value, str):
        return value
    for separator in ("@", ":", ""):
        before, found, path = value.rpartition(separator) if separator else ("", "", value)
        if path and (found or not separator) and os.path.exists(path):
            return f"{before}{found}{Path(path).resolve()}"
    return value


def _check(given, defaults):
    known = {name: value for own in defaults.values() for name, value in own.items()}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise RunError(f"None of {', '.join(defaults)} has {name!r}: did you mean {near}?")
        expected = type(known[name])
        if not isinstance(value, (int, float) if expected is float else expected):
            raise RunError(
                f"The parameter {name} must be a {expected.__name__} such as {known[name]!r}, "
                f"not {value!r}"
            )
    for stem, own in defaults.items():
        if "data" in own:
            data = Path(given["data"]) if "data" in given else NOTEBOOKS / own["data"]
            if not data.is_absolute() or not data.exists():  # _absolute found it not
                raise RunError(f"There is no folder or CSV file {data}, the data of {stem}")
        values = {name: given.get(name, value) for name, value in own.items()}
        places = {name: NOTEBOOKS / values[name] for name in ("data", "names") if name in own}
        check_parameters(values | places)


def _peak_memory():
    """GiB of resident memory: this process' peak plus that of its largest notebook so far.

    None on Windows, which does not tell.
    """
    if resource is None:
        return None
    peaks = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes, elsewhere KiB: getrusage(2)
    return round(sum(peak.ru_maxrss for peak in peaks) / unit, 2)


def _environment():
    """Versions, hardware and commit, for run.json."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "hardware": {"machine": platform.platform(), "cores": os.cpu_count(), "gpu": gpu},
    }
