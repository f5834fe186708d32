"""Make the encoders that short texts name.

clip:ViT-B/32                           OpenAI's CLIP by name, or clip:path.pt
openclip:ViT-B-32/laion2b_s34b_b79k     open_clip's models by name, or ...@file, or
                                        openclip:local-dir:folder
timm:deit_tiny_patch16_224              timm's pretrained weights, or ...@file
torchvision:resnet50                    torchvision's default weights, or ...@file
module:my_encoder.py                    the function encoder() of a Python file of one's own,
                                        or encoder(file) with ...@file
"""

import hashlib
import os
import re
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.encoder import joint as joint_encoder
from cliphelpers.encoders.openclip import load_openclip, openclip_tokenizer
from cliphelpers.encoders.pretrained import CLIP_TOKENIZER, load_clip, load_timm, load_torchvision


def load_encoder(spec, precision="fp32", device=None):
    """Make the encoder that a text names.

    Parameters
    ----------
    spec : str
        ``clip:NAME`` or ``clip:FILE``, ``openclip:MODEL[/PRETRAINED][@FILE]``,
        ``openclip:hf-hub:NAME`` or ``openclip:local-dir:FOLDER``, ``timm:NAME[@FILE]``,
        ``torchvision:NAME[@FILE]`` or ``module:FILE.py[@FILE]``, a Python file of your own whose
        function ``encoder()``, or ``encoder(file)``, returns an :class:`Encoder`. Files hold a
        state dict, also as trainings save them (.safetensors, or .pt and .pth, which are read
        without executing pickled code; for ``clip:`` also OpenAI's archives).
    precision : {"fp32", "auto", "bf16", "fp16"}
        Of the image side: see :class:`Encoder`. With "auto" results differ between machines. Any
        but "fp32" stands in ``features``, and so in results: "penultimate, bf16".
    device : str, optional

    Returns
    -------
    Encoder

    Notes
    -----
    For probes CLIP's features are taken before the projection to the joint embedding (Radford
    et al., Learning transferable visual models from natural language supervision, 2021, section
    3.2 and appendix A.3). For its ViT that is the class token after the last layer norm, for its
    ResNet the attention pool before the output projection; towers without a projection, such as
    SigLIP's, give the embedding itself. :func:`joint` gives the encoder whose features are
    ``encode_image``, normalised and scaled.

    Raises
    ------
    EncoderError
        Unknown name, missing or unreadable file, weights of another architecture, no internet.
    """
    kind, _, rest = spec.partition(":")
    if kind not in LOADERS or not rest:
        raise EncoderError(f"Unknown encoder {spec!r}: begin with {', '.join(LOADERS)} and a colon")
    encoder = LOADERS[kind](rest)
    encoder = replace(encoder, spec=spec, precision=precision, device=device or encoder.device)
    if encoder.precision != "fp32":
        encoder.features += f", {encoder.precision}"
    return encoder


def load_encoders(specs, precision="fp32", device=None):
    """Make several encoders, no two of one name, since results are told apart by it.

    Where two would have the same name, each bears the shortest part of its text that tells it from
    the others: "CLIP model (runA)" and "CLIP model (runB)".

    Parameters
    ----------
    specs : list of str
        As of :func:`load_encoder`, like the other parameters.

    Returns
    -------
    list of Encoder

    Raises
    ------
    EncoderError
        The same encoder twice, or one that cannot be made.
    """
    encoders = [load_encoder(spec, precision, device) for spec in specs]
    for name, times in Counter(encoder.name for encoder in encoders).items():
        if times > 1:
            places = [place for place, encoder in enumerate(encoders) if encoder.name == name]
            labels = _labels([specs[place] for place in places])
            for place, label in zip(places, labels, strict=True):
                encoders[place].name = f"{name} ({label})"
    return encoders


def _labels(specs):
    """The shortest part of each text that tells it from the others."""
    parts = [[part for part in re.split(r"[:@/\\]", spec) if part.strip(".")] for spec in specs]
    backwards, labels = [own[::-1] for own in parts], []
    same = len(os.path.commonprefix(backwards))
    for own in backwards:
        for end in range(same + 1, len(own) + 1):
            if [other[same:end] for other in backwards].count(own[same:end]) == 1:
                labels.append("/".join(own[same:end][::-1]))
                break
        else:
            raise EncoderError(f"The same encoder twice: {' and '.join(specs)}")
    return labels


def is_clip(spec):
    """Whether a text names an encoder with a text side."""
    return spec.partition(":")[0] in ("clip", "openclip")


def tokenizer_of(spec):
    """The tokenizer of the encoder that a text names; its weights are not read.

    Parameters
    ----------
    spec : str
        Of which :func:`is_clip` is true.

    Returns
    -------
    callable
        As of :class:`Encoder`.
    """
    kind, _, rest = spec.partition(":")
    return openclip_tokenizer(rest) if kind == "openclip" else CLIP_TOKENIZER


def load_clips(specs, precision="fp32", joint=False):
    """Make the encoders among ``specs`` that are CLIPs, since only they have a text side.

    So one list of encoders can go to all notebooks.

    Parameters
    ----------
    specs, precision
        As of :func:`load_encoders`.
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
    clips = [spec for spec in specs if is_clip(spec)]
    if not clips:
        raise EncoderError(f"There is no CLIP (clip: or openclip:) among the encoders {specs}")
    loaded = load_encoders(clips, precision)
    return [joint_encoder(clip) for clip in loaded] if joint else loaded


def absolute(value, folder):
    """Paths that exist from a folder, made absolute, since notebooks run in their own folder.

    In an encoder's text only files are meant, as folders may be called like a model, and the
    folder behind "local-dir:".
    """
    if isinstance(value, list):
        return [absolute(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    if value and os.path.exists(folder / value):
        return str((folder / value).resolve())
    kind, rest = re.fullmatch("([a-z]+:local-dir:|[a-z]+:|)(.*)", value, re.DOTALL).groups()
    meant = os.path.exists if kind.endswith("local-dir:") else os.path.isfile
    parts = [rest] if meant(folder / rest) else rest.partition("@")  # a file's name can have an @
    found = [str((folder / part).resolve()) if meant(folder / part) else part for part in parts]
    return kind + "".join(found)


def _load_module(rest):
    name, _, file = rest.partition("@")
    path = Path(name)
    if not path.is_file():
        raise EncoderError(f"There is no file {name} with a function encoder()")
    module = runpy.run_path(str(path.absolute()), run_name=path.stem)
    made = module["encoder"](*filter(None, [file])) if "encoder" in module else None
    if not isinstance(made, Encoder):
        raise EncoderError(f"{name} needs a function encoder() that returns an Encoder")
    return replace(made, source=hashlib.sha256(path.read_bytes()).hexdigest())


LOADERS = {"clip": load_clip, "openclip": load_openclip, "timm": load_timm}
LOADERS |= {"torchvision": load_torchvision, "module": _load_module}
