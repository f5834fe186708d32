"""Weights in files; every fault with the file's name."""

import logging
import re
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten

import safetensors.torch
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from cliphelpers.encoders.encoder import EncoderError


@contextmanager
def explained(message):
    """Turn any error of another library into an EncoderError: the message, then its reason.

    What the library logs meanwhile, such as each try of a download, is not shown.
    """
    logging.disable(logging.ERROR)
    try:
        yield
    except Exception as error:
        lines = [shorten(line, 110, placeholder="…") for line in str(error).splitlines()[:4]]
        reason = " ".join(lines) or type(error).__name__
        if "weights_only" in str(error):  # torch goes on to recommend executing it
            reason = "there is pickled code, which is not executed"
        raise EncoderError(f"{message} ({reason})") from error
    finally:
        logging.disable(logging.NOTSET)


def read_state(file, names=()):
    """Read a state dict (.safetensors, else torch's format) without executing pickled code.

    Parameters
    ----------
    file : str or Path
    names : iterable of str
        Those of the weights that are wanted. Where a training saved them deeper, such as under
        ``state_dict`` and ``module``, they are taken from there, with a warning that says so; where
        it saved their moving averages (EMA), too, these are taken, as timm does.

    Returns
    -------
    dict of str to torch.Tensor
        Names of what lies deeper are joined by dots. What is no tensor is left out.

    Raises
    ------
    EncoderError
        The file is missing, truncated, holds no tensors by name, or several models.
    """
    if not Path(file).is_file():
        raise EncoderError(f"There is no file {file} with weights")
    with explained(f"{file} holds no state dict, or is damaged"):
        state = dict(_tensors(_read(file)))
        if not state:
            raise TypeError("a state dict has names and tensors")
    place, others = _place(state, list(names))
    if others:
        raise EncoderError(f"{file} holds several models ({place}, {others[0]}): save one alone")
    if place:
        warnings.warn(f"{file}: the weights are taken from {place[:-1]}", stacklevel=2)
    return {key[len(place) :]: value for key, value in state.items() if key.startswith(place)}


class _Inert:
    """What stands for an object of a class that torch does not know to be harmless."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        pass


def _read(file):
    """What a file holds, with an :class:`_Inert` for each object that is no tensor or the like."""
    if Path(file).suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    unknown = []
    with suppress(ValueError):  # no file of torch.save's present format: torch.load says more
        unknown = get_unsafe_globals_in_checkpoint(file)
    parts = [name.rpartition(".") for name in unknown]
    inert = [type(name, (_Inert,), {"__module__": module}) for module, _, name in parts]
    with safe_globals(inert):
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(content, place=""):
    """Yield the tensors of nested dicts with their joined names."""
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{place}{key}", value
        elif isinstance(value, dict):
            yield from _tensors(value, f"{place}{key}.")


def _place(state, names):
    """The beginning of the state's names after which most of the wanted names are found.

    Returns
    -------
    str, list of str
        The beginning, and others that are as good and could as well be meant.
    """
    dots = {key[: dot.end()] for key in state for dot in re.finditer(r"\.", key)}
    found = {place: sum(place + name in state for name in names) for place in ["", *sorted(dots)]}
    most = max(found.values())
    best = [place for place in found if found[place] == most]
    averages = [place for place in best if "ema" in re.split(r"[._]", place.lower())]
    best = averages or best
    return best[0], best[1:] if most and most == len(names) else []


def load_state(model, file, head, what):
    """Load a file's state dict but for the keys of the head, which the model no longer has."""
    state = read_state(file, model.state_dict())
    with explained(f"{file} does not fit {what}"):
        model.load_state_dict({key: value for key, value in state.items() if key not in head})
