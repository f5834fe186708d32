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
from traitlets.config import Config

from cliphelpers.parameters import check_parameters

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_PACKAGES = ["torch", "torchvision", "timm", "clip-anytorch", "numpy", "scipy", "scikit-learn"]


class RunError(ValueError):
    """A run that cannot start, or a notebook that failed. The message says which and why."""


def run(names=(), parameters=None, output="output"):
    """Execute notebooks in order, with a progress bar for each on stderr.

    Below ``output`` are then ``notebooks/`` (as executed), ``results/`` (tables), ``pics/``
    (figures) and ``run.json``: when it started, commit, versions, hardware, peak of resident
    memory in GiB; and under ``notebooks`` for each notebook when it started, commit, parameters
    and seconds. What an earlier run into the same folder wrote about other notebooks is kept.

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
        folder, an unreadable ``run.json``. Later: a cell failed; what was done is kept.
    ParameterError
        Before anything runs: an impossible value.
    """
    paths = find_notebooks(names)
    defaults = {path.stem: _defaults(path) for path in paths}
    typed = {"output": str(output)} | (parameters or {})
    given = {name: _absolute(value, Path()) for name, value in typed.items()}
    _check(given, defaults)
    output = Path(output).resolve()
    given["output"] = str(output)
    record = _environment() | {"notebooks": _earlier(output / "run.json")}
    (output / "notebooks").mkdir(parents=True, exist_ok=True)
    for path in paths:
        own = defaults[path.stem]
        mine = {name: value for name, value in given.items() if name in own}
        record["notebooks"].pop(path.stem, None)  # what it said is not true of a run that fails
        _save(record, output)
        times = _execute(path, output / "notebooks" / path.name, mine)
        record["notebooks"][path.stem] = {
            "started": times["start_time"],
            "commit": record["commit"],
            "parameters": own | {name: typed[name] for name in mine},
            "seconds": round(times["duration"], 1),
        }
        _save(record, output)


def find_notebooks(names=()):
    """Paths of the notebooks that the names, or their beginnings, mean; all of them if empty."""
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not known:
        raise RunError(f"There are no notebooks in {NOTEBOOKS}: run from a checkout of the project")
    found = set()
    for name in names:
        matches = [stem for stem in known if stem.startswith(Path(name).stem)]
        if len(matches) != 1:
            raise RunError(f"There is no notebook {name!r}: did you mean {_near(name, known)}?")
        found.update(matches)
    return [path for stem, path in known.items() if not names or stem in found]


def parse_value(text):
    """A parameter's value from the command line: a Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# ------------------------------------------------------------------------------- before it runs


def _defaults(path):
    """The parameters of a notebook and their values: dict of str to value."""
    inspected = papermill.inspect_notebook(path)
    return {name: ast.literal_eval(one["default"]) for name, one in inspected.items()}


def _absolute(value, folder):
    """Paths that exist from a folder, made absolute, since notebooks run in their own folder."""
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if isinstance(value, str):
        for start in (value.rfind("@") + 1, value.rfind(":") + 1, 0):
            if (path := value[start:]) and os.path.exists(folder / path):
                return f"{value[:start]}{(folder / path).resolve()}"
    return value


def _check(given, defaults):
    known = {name: value for own in defaults.values() for name, value in own.items()}
    for name, value in given.items():
        if name not in known:
            near, notebooks = _near(name, known), ", ".join(defaults)
            raise RunError(f"None of {notebooks} has {name!r}: did you mean {near}?")
        expected = type(known[name])
        if not isinstance(value, (int, float) if expected is float else expected):
            raise RunError(
                f"The parameter {name} must be a {expected.__name__} such as {known[name]!r}, "
                f"not {value!r}"
            )
    for stem, own in defaults.items():
        values = {name: _absolute(given.get(name, own[name]), NOTEBOOKS) for name in own}
        data = Path(given.get("data", values.get("data", NOTEBOOKS)))
        if not data.is_absolute() or not data.exists():  # _absolute found it not
            raise RunError(f"There is no folder or CSV file {data}, the data of {stem}")
        check_parameters(values)


def _near(name, known):
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


def _earlier(file):
    """What earlier runs wrote about each notebook; old records tell when of all at once."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        when = {key: record[key] for key in ("started", "commit")}
        return {name: when | one for name, one in record["notebooks"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RunError(f"{file} is no record of a run: move it or choose another output") from None


# ------------------------------------------------------------------------------- running


def _execute(path, target, parameters):
    """What papermill notes: dict with "start_time" (in UTC) and "duration" (seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder of its own: no ports or names that two runs at once could race for
        sockets = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{folder}/kernel"}
        options = {"kernel_name": "python3", "config": Config(KernelManager=sockets)}
        options |= {"progress_bar": {"desc": path.stem}, "cwd": NOTEBOOKS}
        options["shutdown_kernel"] = "immediate"  # torch takes 2 s to leave by itself
        try:
            book = papermill.execute_notebook(path, target, parameters, **options)
        except papermill.exceptions.PapermillExecutionError as error:
            source = error.source.strip().splitlines()
            raise RunError(
                f"{path.stem} failed in cell {error.cell_index} ({source[0] if source else ''}): "
                f"{error.ename}: {error.evalue}\nThe notebook as far as it went: {target}"
            ) from error
    return book.metadata.papermill


# ------------------------------------------------------------------------------- run.json


def _save(record, output):
    record["peak_memory_gib"] = _peak_memory()
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (output / "run.json").write_text(text, encoding="utf-8")


def _environment():
    describe = "git describe --always --dirty --abbrev=40"  # a shell does not mind if there is none
    git = subprocess.run(describe, shell=True, cwd=NOTEBOOKS, capture_output=True, text=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "hardware": {"machine": platform.platform(), "cores": os.cpu_count(), "gpu": gpu},
    }


def _peak_memory():
    """GiB of resident memory: this process' peak plus that of its largest notebook so far.

    None on Windows, which does not tell.
    """
    try:
        import resource
    except ImportError:
        return None
    peaks = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes, elsewhere KiB: getrusage(2)
    return round(sum(peak.ru_maxrss for peak in peaks) / unit, 2)
