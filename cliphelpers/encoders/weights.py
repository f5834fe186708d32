"""Weights in files; every fault with the file's name."""

import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import safetensors.torch
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from cliphelpers.encoders.encoder import EncoderError


@contextmanager
def explained(message):
    """Turn any error of another library into an EncoderError: the message, then its reason."""
    try:
        yield
    except Exception as error:
        lines = [shorten(line, 140, placeholder="…") for line in str(error).splitlines()[:4]]
        reason = " ".join(lines) or type(error).__name__
        if "weights_only" in str(error):  # torch goes on to recommend executing it
            reason = "there is pickled code, which is not executed"
        raise EncoderError(f"{message} ({reason})") from error


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
    place, *others = _places(state, names) if names else [""]
    if others and all(place + name in state for name in names):
        raise EncoderError(f"{file} holds several models ({place}, {others[0]}): save one alone")
    if place:
        warnings.warn(f"{file}: the weights are taken from {place[:-1]}", stacklevel=2)
    return {key[len(place) :]: value for key, value in state.items() if key.startswith(place)}


def _read(file):
    """What a file holds; objects that torch does not know to be harmless are left empty."""
    if Path(file).suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    unknown = get_unsafe_globals_in_checkpoint(file) if zipfile.is_zipfile(file) else []
    empty = {"__init__": _nothing, "__setstate__": _nothing}
    classes = [(name.rpartition(".")[2], name.rpartition(".")[0]) for name in unknown]
    with safe_globals([type(name, (), empty | {"__module__": place}) for name, place in classes]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _nothing(*_, **__):
    """What is done instead of the code that a pickle names."""


def _tensors(content, place=""):
    """Yield the tensors of nested dicts with their joined names."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _tensors(value, f"{place}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{place}{key}", value


def _places(state, names):
    """The beginnings, one or several, after which a state has most of the wanted names."""
    dots = {key[: at + 1] for key in state for at, sign in enumerate(key) if sign == "."}
    found = {place: sum(place + name in state for name in names) for place in ["", *sorted(dots)]}
    best = [place for place in found if found[place] == max(found.values())]
    averages = [place for place in best if "ema" in place.lower().replace(".", "_").split("_")]
    return averages or best


def load_state(model, file, head, what):
    """Load a file's state dict but for the keys of the head, which the model no longer has."""
    state = read_state(file, model.state_dict())
    with explained(f"{file} does not fit {what}"):
        model.load_state_dict({key: value for key, value in state.items() if key not in head})
