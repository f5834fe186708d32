"""Progress bars where somebody looks, whether somebody does, and warnings for people."""

import warnings

from IPython import get_ipython
from tqdm.auto import tqdm

WARNING = "Warning: "  # how the line of a warning begins


def live():
    """Whether a person can answer: a widget is then worth showing.

    A front end (JupyterLab, Jupyter Notebook, VS Code) sends each cell with ``allow_stdin`` true.
    nbclient, and so papermill, nbconvert and the command's ``run``, sends it with false; without
    a kernel there is no message. Widgets that nobody sees would be saved in executed notebooks.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    message = kernel.get_parent("shell") if kernel else {}
    return message.get("content", {}).get("allow_stdin", False)


def progress(iterable=None, **options):
    """tqdm's bar, gone when it is done: in a live notebook and in a terminal.

    In a notebook that is executed without a front end there is none, since it would be saved.
    """
    executed = hasattr(get_ipython(), "kernel") and not live()
    return tqdm(iterable, leave=False, disable=executed, **options)


def say_warnings():
    """Warnings are from now on a line of plain words each: no category, no place in the code."""
    warnings.formatwarning = lambda words, *_: f"{WARNING}{' '.join(str(words).split())}\n"
