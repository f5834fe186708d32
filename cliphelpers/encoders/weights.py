"""Weights in files and from the internet; every fault with the file's or the model's name."""

import difflib
from pathlib import Path

import timm
import torch

from cliphelpers.encoders.encoder import EncoderError


def load_state(model, file, heads, spec):
    """Load a state dict but for the head, which the model no longer has; no other key is spared."""
    state = read_state(file)
    prefixes = tuple(f"{head}." for head in heads)
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise EncoderError(f"{file} does not fit {spec}: {brief(error)}") from error


def read_state(file):
    """Read a state dict (.safetensors, else torch's format) without executing pickled code.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    EncoderError
        The file is missing, truncated, or holds anything but tensors.
    """
    if not Path(file).is_file():
        raise EncoderError(f"There is no file {file} with weights")
    try:
        if Path(file).suffix == ".safetensors":
            state = timm.models.load_state_dict(str(file), use_ema=False)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise nearly anything on damaged files
        raise EncoderError(f"{file} holds no weights: {reason(error)}") from error
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise EncoderError(f"{file} holds no state dict (names and tensors)")
    return state


def download(spec, load):
    """What ``load()`` returns; its error, each library has its own, as one that says what to do."""
    try:
        return load()
    except Exception as error:
        raise EncoderError(
            f"The weights of {spec} could not be downloaded ({brief(error)}). "
            f"Fetch them on a machine with internet and use {spec}@FILE"
        ) from error


def unknown(kind, name, names):
    """Raise the error of a name that no model has, with those that are most like it."""

    def likeness(other):  # many names are long, and what was typed is like their beginning
        parts = other[: len(name)], other
        return [difflib.SequenceMatcher(None, name, part).ratio() for part in parts]

    near = sorted(names, key=likeness, reverse=True)[:3]
    raise EncoderError(f"{kind} has no model {name!r}: did you mean {' or '.join(near)}?")


def reason(error):
    """Why weights could not be read, in words."""
    if "weights_only" in str(error):  # torch goes on to recommend executing it
        return "it is damaged, or holds pickled code, which is not executed"
    return f"it is damaged, or of another architecture ({brief(error)})"


def brief(error):
    """What an error of another library says, in a line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"
