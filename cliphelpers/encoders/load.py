"""Make the encoder that a short text names.

clip:ViT-B/32                           OpenAI's CLIP by name, or clip:path.pt
timm:deit_tiny_patch16_224              timm's pretrained weights, or ...@file
torchvision:resnet50                    torchvision's default weights, or ...@file
module:my_encoder.py                    the function encoder() of a Python file of one's own,
                                        or encoder(file) with ...@file
"""

import runpy
from dataclasses import replace
from pathlib import Path

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.encoder import joint as joint_encoder
from cliphelpers.encoders.pretrained import load_clip, load_timm, load_torchvision


def load_encoder(spec, precision="fp32", device=None):
    """Make the encoder that a text names.

    Parameters
    ----------
    spec : str
        ``clip:NAME`` or ``clip:FILE``, ``timm:NAME[@FILE]``, ``torchvision:NAME[@FILE]`` or
        ``module:FILE.py[@FILE]``, a Python file of your own whose function ``encoder()``, or
        ``encoder(file)``, returns an :class:`Encoder`. Files hold a state dict (.safetensors, or
        .pt and .pth, which are read without executing pickled code; for CLIP also OpenAI's
        archives).
    precision : {"fp32", "bf16", "fp16"}
    device : str, optional

    Returns
    -------
    Encoder

    Notes
    -----
    For probes CLIP's features are taken before the projection to the joint embedding (Radford
    et al., Learning transferable visual models from natural language supervision, 2021, section
    3.2 and appendix A.3). For its ViT that is the class token after the last layer norm, for its
    ResNet the attention pool before the output projection. :func:`joint` gives the
    encoder whose features are ``encode_image``, normalised and scaled.

    Raises
    ------
    EncoderError
        Unknown name, missing or unreadable file, weights of another architecture, no internet.
    """
    kind, _, rest = spec.partition(":")
    if kind not in LOADERS or not rest:
        raise EncoderError(f"Unknown encoder {spec!r}: begin with {', '.join(LOADERS)} and a colon")
    encoder = LOADERS[kind](rest)
    return replace(encoder, precision=precision, device=device or encoder.device)


def load_clips(specs, joint=False):
    """Make the encoders among ``specs`` that are CLIPs, since only they have a text side.

    So one list of encoders can go to all notebooks.

    Parameters
    ----------
    specs : list of str
        As of :func:`load_encoder`.
    joint : bool
        Whether their features are to be the joint embedding of pictures and texts.

    Returns
    -------
    list of Encoder
        Never empty.

    Raises
    ------
    EncoderError
        None of them is a CLIP, or one of them cannot be made.
    """
    clips = [spec for spec in specs if spec.startswith("clip:")]
    if not clips:
        raise EncoderError(f"There is no CLIP (clip:NAME or clip:FILE) among the encoders {specs}")
    loaded = [load_encoder(spec) for spec in clips]
    return [joint_encoder(clip) for clip in loaded] if joint else loaded


def _load_module(rest):
    name, _, file = rest.partition("@")
    path = Path(name)
    if not path.is_file():
        raise EncoderError(f"There is no file {name} with a function encoder()")
    module = runpy.run_path(str(path.absolute()), run_name=path.stem)
    made = module["encoder"](*filter(None, [file])) if "encoder" in module else None
    if not isinstance(made, Encoder):
        raise EncoderError(f"{name} needs a function encoder() that returns an Encoder")
    return made


LOADERS = {"clip": load_clip, "timm": load_timm, "torchvision": load_torchvision}
LOADERS["module"] = _load_module
