"""One side of a comparison in a process of its own, which waits while others run.

python -m timed.contender MODULE:FUNCTION SETUP     # what Contender starts
"""

import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter

HERE = Path(__file__).parents[1]
_PACKAGES = {
    "torch": "torch", "numpy": "numpy", "timm": "timm", "clip": "clip-anytorch",
    "open_clip": "open_clip_torch", "clip_benchmark": "clip-benchmark", "sklearn": "scikit-learn",
    "tensorflow": "tensorflow-cpu", "keras": "keras", "PIL": "pillow",
}  # fmt: skip


class ContenderError(RuntimeError):
    """A side that failed."""


class Contender:
    """A side's process; use it as a context manager.

    Parameters
    ----------
    side : Side
    setup : dict
        JSON.

    Attributes
    ----------
    about : dict
        "versions" of the packages that it has loaded, and its "threads".
    """

    def __init__(self, side, setup):
        self.side, self.said = side, TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [side.python, "-W", "ignore", "-m", "timed.contender", side.call, json.dumps(setup)],
            cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        try:
            self.about = self._reply()
        except ContenderError:
            self.__exit__()
            raise

    def run(self, job):
        """Do a job, a dict of arguments: dict with seconds, processor seconds ("cpu") and result.

        Raises
        ------
        ContenderError
            It has ended; the message has the last that it said.
        """
        with suppress(BrokenPipeError):  # the reply tells why
            pickle.dump(job, self.process.stdin)
            self.process.stdin.flush()
        return self._reply()

    def _reply(self):
        try:
            return pickle.load(self.process.stdout)
        except EOFError as error:
            status = self.process.wait()
            self.said.seek(0)
            last = self.said.read().decode(errors="replace")[-2000:]
            words = f"{self.side.call} ended with status {status}, and said at last:\n{last}"
            raise ContenderError(words) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # its end of file
        self.process.stdout.close()
        self.process.wait()
        self.said.close()


def missing(side):
    """What a side lacks here: "" or the reason why it is left out."""
    if not Path(side.python).exists():
        return f"there is no {side.python}"
    lacking = [name for name in side.needs if not importlib.util.find_spec(name)]
    return f"there is no package {lacking[0]}" if lacking else ""


def _serve(call, setup):
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print

    def reply(answer):
        pickle.dump(answer, replies)
        replies.flush()

    module, function = call.split(":")
    run = getattr(importlib.import_module(f"timed.{module}"), function)(**setup)
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else os.cpu_count()
    reply({"versions": _versions(), "threads": threads})
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        cpu, start = sum(os.times()[:4]), perf_counter()
        result = run(**job)
        seconds = perf_counter() - start
        reply({"seconds": seconds, "cpu": sum(os.times()[:4]) - cpu, "result": result})


def _versions():
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, package in _PACKAGES.items():
        if module in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:  # under another name, as tensorflow for tensorflow-cpu
                found[module] = getattr(sys.modules[module], "__version__", "unknown")
    return found


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
