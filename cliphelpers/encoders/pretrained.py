"""Encoders of others: OpenAI's CLIP, timm's and torchvision's, with their weights or a file's."""

import difflib
import warnings
import zipfile
from functools import partial
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision import models

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from cliphelpers.encoders.weights import explained, load_state, read_state

with warnings.catch_warnings():  # it imports pkg_resources, which warns
    warnings.simplefilter("ignore")
    import clip


CLIP_TOKENIZER = partial(clip.tokenize, truncate=True)


def load_clip(name):
    """The encoder of ``clip:NAME`` or ``clip:FILE``."""
    path, state, fault = Path(name), None, f"{name} holds no CLIP, or is damaged"
    if not path.is_file():
        if path.suffix:
            raise EncoderError(f"There is no file {name} with the weights of a CLIP")
        check_name("clip", name, clip.available_models())
        fault = (
            f"clip:{name} could not be downloaded. Fetch {clip.clip._MODELS[name]} on another "
            f"machine and use clip:FILE, or put it into {Path.home() / '.cache' / 'clip'}"
        )
    elif not _is_archive(path):
        state, fault = _openai_state(path), f"{name} does not fit OpenAI's CLIP"
    with explained(fault), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load, which reads OpenAI's archives, is old
        model = clip.model.build_model(state).float() if state else clip.load(name, device="cpu")[0]
    label, side = path.stem if path.is_file() else name, model.visual.input_resolution
    preprocess = Preprocess(side, side, "bicubic", CLIP_MEAN, CLIP_STD)
    tokenizer = partial(CLIP_TOKENIZER, context_length=model.context_length)
    return clip_encoder(f"CLIP {label}", model, preprocess, tokenizer)


def _is_archive(path):
    """Is a file one of TorchScript's, as OpenAI publishes its weights?"""
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    return any(name.endswith("/constants.pkl") for name in names)


def _openai_state(path):
    """A state dict that OpenAI's code wrote, since its activation is QuickGELU.

    That is seen in the order of names: its blocks begin with the attention, open_clip's with a
    layer norm; a .safetensors has no order.
    """
    state = read_state(path, ["logit_scale", "text_projection", "token_embedding.weight"])
    first = next((key for key in state if ".resblocks." in key), "")
    if ".ln_1." in first or (first and path.suffix == ".safetensors"):
        raise EncoderError(
            f"{path} may have been trained with GELU, but clip: is OpenAI's code, with QuickGELU: "
            f"use openclip:MODEL@{path}, with a MODEL such as ViT-B-32 or ViT-B-32-quickgelu"
        )
    return state


def clip_encoder(name, model, preprocess, tokenizer):
    """The encoder of a model of clip or open_clip, of which the text side alone is left."""
    module, projection = before_projection(model.visual)
    model.visual = nn.Module()
    model.visual.conv1 = getattr(model, "token_embedding", None)  # clip's text asks for its dtype
    text = model, tokenizer, projection, model.logit_scale.exp().item()
    return Encoder(name, module, preprocess, "pre-projection", *text)


def before_projection(visual):
    """Take CLIP's image side apart: features before the projection, and the projection.

    Parameters
    ----------
    visual : nn.Module
        The tower of clip or of open_clip; is changed.

    Returns
    -------
    nn.Module, nn.Module
        The projection is the identity if the tower ends without one, as SigLIP's does.
    """
    if isinstance(getattr(visual, "proj", None), nn.Parameter):  # a ViT
        projection = nn.Linear(*visual.proj.shape, bias=False)
        projection.weight.data = visual.proj.T.detach().clone()
        visual.proj = None
    elif hasattr(visual, "attnpool"):  # a ResNet, which wants a linear layer there
        projection = visual.attnpool.c_proj
        identity = nn.Linear(projection.in_features, projection.in_features)
        nn.init.eye_(identity.weight)
        nn.init.zeros_(identity.bias)
        visual.attnpool.c_proj = identity
    else:  # one of timm's in open_clip: its projection is open_clip's head, or else timm's own
        projection = visual.head if len(visual.head) else visual.trunk.get_classifier()
        place = next(name for name, layer in visual.named_modules() if layer is projection)
        visual.set_submodule(place, nn.Identity())
    return visual, projection


def load_timm(rest):
    """The encoder of ``timm:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    name = name.removeprefix("timm/")  # as its hub has it
    if ":" not in name:  # such as hf-hub:
        check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    with downloading(f"timm:{name}"):
        model = timm.create_model(name, pretrained=not file, num_classes=0)
    if file:
        with torch.device("meta"):
            whole = timm.create_model(name).state_dict()
        load_state(model, file, whole.keys() - model.state_dict().keys(), f"timm:{name}")
    config = timm.data.resolve_model_data_config(model)
    channels, height, size = config["input_size"]
    if (channels, height) != (3, size) or config["crop_mode"] not in ("center", "squash"):
        raise EncoderError(f"timm:{name} wants pictures prepared in a way that is not supported")
    resize, squash = int(size / config["crop_pct"]), config["crop_mode"] == "squash"
    way = config["interpolation"], config["mean"], config["std"], squash
    return Encoder(name.rpartition("/")[2], model, Preprocess(size, resize, *way))


def load_torchvision(rest):
    """The encoder of ``torchvision:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    check_name("torchvision", name, models.list_models(models))
    weights = models.get_model_weights(name).DEFAULT
    with downloading(f"torchvision:{name}"):
        model = models.get_model(name, weights=None if file else weights)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # as torchvision does for its weights of Inception
    whole = model.state_dict()
    _remove_head(model)
    if file:
        load_state(model, file, whole.keys() - model.state_dict().keys(), f"torchvision:{name}")
    config = weights.transforms()
    (size,), (resize,) = config.crop_size, config.resize_size
    way = config.interpolation.value, tuple(config.mean), tuple(config.std)
    return Encoder(name, model, Preprocess(size, resize, *way))


def _remove_head(model):
    """Replace the last linear layer by the identity, so that its input is the feature."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise EncoderError(f"{type(model).__name__} has no linear layer whose input is a feature")
    model.set_submodule(linear[-1], nn.Identity())


def downloading(spec):
    """Turn an error of a download into an EncoderError."""
    return explained(
        f"The weights of {spec} could not be downloaded. Fetch them on a machine with internet "
        f"and use {spec}@FILE"
    )


def check_name(kind, name, names, mark="."):
    """Refuse a name that is not among names: a model, or what follows the mark, its weights."""
    model = name.partition(mark)[0]
    if model not in names:
        near = [other for other in names if other.lower().startswith(model.lower())][:3]
        near = near or difflib.get_close_matches(model, names, 3, cutoff=0.75)
        hint = f": did you mean {' or '.join(near)}?" if near else ", nor one of a similar name"
        raise EncoderError(f"{kind} has no model {model!r}{hint}")
    if name not in names:
        tags = [other.partition(mark)[2] for other in names if other.startswith(model + mark)]
        known = f"{', '.join(tags) or 'none at all'}; a file is {kind}:{model}@FILE"
        raise EncoderError(f"{kind} has no weights {name!r}, only {known}")
