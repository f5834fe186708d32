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
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import papermill
from tqdm.auto import tqdm
from traitlets.config import Config

from cliphelpers.cache import write_atomically
from cliphelpers.command.compare import RunError, read_record
from cliphelpers.progress import WARNING

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_PATHS = {"data", "names", "encoders", "interpolations"}  # parameters that can name files
_CLIP = dict.fromkeys(["01", "02", "03", "05"], True) | {"06": False}  # what a notebook cannot lack


def run(names=(), parameters=None, output="output"):
    """Execute notebooks in order, with a progress bar for each and their warnings on stderr.

    Below ``output`` are then ``notebooks/`` (as executed), ``results/`` (tables), ``pics/``
    (figures) and ``run.json``: when it started, commit, versions, hardware, peak of resident
    memory in GiB; and under ``notebooks`` for each notebook the same of its own run (the peak up
    to its end), parameters, where the pictures are, precision (also what "auto" chose), seconds
    and warnings. What an earlier run into the same folder wrote about other notebooks is kept.

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
        Before anything runs: an unknown notebook or parameter, no encoder for a notebook, an
        output with results of others, an unreadable ``run.json``. Later: a cell failed; what was
        done is kept.
    ParameterError, EncoderError
        Before anything runs: an impossible value, such as an output among the pictures, or an
        encoder that cannot be made.
    """
    defaults = {path: read_defaults(path) for path in find_notebooks(names)}
    if "output" in (parameters or {}):
        raise RunError("Say where the output goes by --output, not as a parameter")
    typed = (parameters or {}) | {"output": str(Path(output))}
    output = Path(output).resolve()
    _check_names(typed, defaults)
    for name in ("CLIPHELPERS_CACHE", "CLIPHELPERS_FEATURES"):  # notebooks are in another folder
        if (place := os.environ.get(name)) and "://" not in place:
            os.environ[name] = os.path.abspath(place)
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # of the kernels: see memory.py
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # notebooks need torch's gigabyte
        prepared = apart.submit(_prepare, typed, defaults, NOTEBOOKS)
        given, environment, auto = prepared.result()
    given["output"] = str(output)
    passes = {path: {n: v for n, v in given.items() if n in own} for path, own in defaults.items()}
    pictures = {path: _pictures(passes[path], own) for path, own in defaults.items()}
    _check_output(output, {path.stem: place for path, place in pictures.items()})
    warned = _Warnings()
    (output / "notebooks").mkdir(parents=True, exist_ok=True)
    for path, own in defaults.items():
        _note(output, environment, path.stem)  # what it said is not true of a run that fails
        passed, before = passes[path], len(warned.said)
        used = {name: typed.get(name, value) for name, value in own.items()}
        precision = used.get("precision")
        times = _execute(path, output / "notebooks" / path.name, passed, warned)
        _note(output, environment, path.stem, environment | {
            "started": times["start_time"],
            "peak_memory_gib": _peak_memory(),
            "parameters": used,
            "pictures": pictures[path],
            "precision": auto if precision == "auto" else precision,
            "seconds": round(times["duration"], 1),
            "warnings": list(dict.fromkeys(warned.said[before:])),
        })  # fmt: skip


def find_notebooks(names=()):
    """Paths of the notebooks that the names, or their beginnings, mean; all of them if empty."""
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not known:
        raise RunError(f"There are no notebooks in {NOTEBOOKS}: run from a checkout of the project")
    beginnings = tuple(Path(name).stem for name in names)
    for name, beginning in zip(names, beginnings, strict=True):
        if sum(stem.startswith(beginning) for stem in known) != 1:
            raise RunError(f"There is no notebook {name!r}: did you mean {_near(name, known)}?")
    return [path for stem, path in known.items() if stem.startswith(beginnings or "")]


def parse_value(text):
    """A parameter's value from the command line: a Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


# ------------------------------------------------------------------------------- before it runs


def read_defaults(path):
    """The parameters of a notebook and their values: dict of str to value."""
    inspected = papermill.inspect_notebook(path)
    return {name: ast.literal_eval(one["default"]) for name, one in inspected.items()}


def _check_names(typed, defaults):
    known = [name for own in defaults.values() for name in own]
    for name in typed:
        if name not in known:
            near, notebooks = _near(name, known), ", ".join(path.stem for path in defaults)
            raise RunError(f"None of {notebooks} has {name!r}: did you mean {near}?")


def _prepare(typed, defaults, folder):
    """Check all values, and that encoders can be made. Then those that were typed with absolute
    paths, the environment, and the precision that is "auto" in it."""
    import torch  # here, since all of this is imported in a process of its own

    from cliphelpers.encoders.encoder import auto_precision, default_device
    from cliphelpers.encoders.load import absolute, is_clip, load_encoders
    from cliphelpers.encoders.preprocess import Preprocess
    from cliphelpers.parameters import check_parameters
    from cliphelpers.upsampling import upsampled

    for path, own in defaults.items():
        paths = {name: absolute(own[name], folder) for name in _PATHS & set(own)}
        check_parameters(own | paths | {n: value for n, value in typed.items() if n in own})
        kinds, clip = map(is_clip, typed.get("encoders", [])), _CLIP.get(path.stem[:2])
        if "encoders" in typed and clip is not None and clip not in kinds:
            what = "a CLIP (clip: or openclip:)" if clip else "an encoder that is no CLIP"
            words = f"{path.stem} needs {what} among the encoders {typed['encoders']}"
            raise RunError(f"{words}: add one, or name the other notebooks")
    given = typed | {name: absolute(typed[name], Path()) for name in _PATHS & set(typed)}
    with warnings.catch_warnings():  # the notebooks will give them, but errors are wanted now
        warnings.simplefilter("ignore")
        load_encoders(absolute(given.get("encoders", []), folder), device="cpu")
        for way in absolute(given.get("interpolations", []), folder):
            upsampled(Preprocess(), way)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return given, _environment(folder, gpu), auto_precision(default_device())


def _near(name, known):
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


# ------------------------------------------------------------------------------- running


class _Warnings:
    """The notebooks' stderr: keeps the warnings in it and tells each once on our stderr."""

    def __init__(self):
        self.said = []

    def write(self, text):
        for line in text.splitlines():
            if line.startswith(WARNING):
                if (words := line.removeprefix(WARNING)) not in self.said:
                    tqdm.write(line, file=sys.stderr)  # above the progress bar
                self.said.append(words)

    def flush(self):
        """Papermill calls it."""


def _execute(path, target, parameters, warned):
    """What papermill notes: dict with "start_time" (in UTC) and "duration" (seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder of its own: no ports or names that two runs at once could race for
        sockets = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{folder}/kernel"}
        try:
            book = papermill.execute_notebook(
                path, target, parameters, kernel_name="python3", cwd=NOTEBOOKS, stderr_file=warned,
                progress_bar={"desc": path.stem}, config=Config(KernelManager=sockets),
                shutdown_kernel="immediate",  # torch takes 2 s to leave by itself
            )  # fmt: skip
        except papermill.exceptions.PapermillExecutionError as error:
            start = error.source.strip().split("\n")[0]
            raise RunError(
                f"{path.stem} failed in cell {error.cell_index} ({start}): "
                f"{error.ename}: {error.evalue}\nThe notebook as far as it went: {target}\n"
                f"A page of what was done before it: cliphelpers report {target.parents[1]}"
            ) from error
        except OSError as error:  # such as a full disk, whose error names no file
            raise RunError(f"{target} cannot be written: {error.strerror}") from error
    return book.metadata.papermill


# ------------------------------------------------------------------------------- run.json


def _pictures(passed, own):
    return str(Path(NOTEBOOKS, passed.get("data", own.get("data", ""))).resolve())


def _earlier(output):
    return read_record(output)["notebooks"] if (output / "run.json").exists() else {}


def _check_output(output, pictures):
    """Refuse an output with results of other pictures, by other notebooks: one page has both."""
    for name, one in _earlier(output).items():
        there = one.get("pictures")
        if there and name not in pictures and there not in pictures.values():
            words = f"{output} holds results of {there}, by {name}"
            raise RunError(f"{words}: choose another --output, or run all notebooks again")


def _note(output, environment, name, ran=None):
    """Write of a notebook what its run was, or that it has none; others' may have been added."""
    notebooks = {stem: one for stem, one in _earlier(output).items() if stem != name}
    notebooks |= {name: ran} if ran else {}
    record = environment | {"notebooks": notebooks, "peak_memory_gib": _peak_memory()}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    write_atomically(output / "run.json", text.encode("utf-8"))


def _environment(folder, gpu):
    from cliphelpers.saved import PACKAGES

    describe = "git describe --always --dirty --abbrev=40"  # a shell does not mind if there is none
    git = subprocess.run(describe, shell=True, cwd=folder, capture_output=True, text=True)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in [*PACKAGES, "numpy", "scipy", "scikit-learn"]},
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
    unit = 2**30 if platform.system() == "Darwin" else 2**20  # bytes, elsewhere KiB: getrusage(2)
    return round(sum(peak.ru_maxrss for peak in peaks) / unit, 2)
