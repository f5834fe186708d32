"""Weights in files; every fault with the file's name."""

from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import timm
import torch

from cliphelpers.encoders.encoder import EncoderError


@contextmanager
def explained(message):
    """Turn any error of another library into an EncoderError: the message, then its reason."""
    try:
        yield
    except Exception as error:
        reason = shorten(str(error), 200, placeholder="…") or type(error).__name__
        if "weights_only" in str(error):  # torch goes on to recommend executing it
            reason = "there is pickled code, which is not executed"
        raise EncoderError(f"{message} ({reason})") from error


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
    with explained(f"{file} holds no state dict, or is damaged"):
        state = timm.models.load_state_dict(str(file), use_ema=False, weights_only=True)
        if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError("a state dict has names and tensors")
    return state


def load_state(model, file, head, what):
    """Load a file's state dict but for the keys of the head, which the model no longer has."""
    state = {key: value for key, value in read_state(file).items() if key not in head}
    with explained(f"{file} does not fit {what}"):
        model.load_state_dict(state)
