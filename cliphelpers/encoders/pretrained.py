"""Encoders of others: OpenAI's CLIP, timm's and torchvision's, with their weights or a file's."""

import difflib
import warnings
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision import models

from cliphelpers.encoders.encoder import Encoder, EncoderError, clip
from cliphelpers.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from cliphelpers.encoders.weights import explained, load_state


def load_clip(name):
    """The encoder of ``clip:NAME`` or ``clip:FILE``."""
    path, fault = Path(name), f"{name} holds no CLIP, or is damaged"
    if not path.is_file():
        if path.suffix:
            raise EncoderError(f"There is no file {name} with the weights of a CLIP")
        _check_name("clip", name, clip.available_models())
        fault = (
            f"clip:{name} could not be downloaded. Fetch {clip.clip._MODELS[name]} on another "
            f"machine and use clip:FILE, or put it into {Path.home() / '.cache' / 'clip'}"
        )
    with explained(fault), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load, which reads OpenAI's archives, is old
        model, _ = clip.load(name, device="cpu")
    visual, projection = before_projection(model.visual)
    model.visual = nn.Module()  # what is left is the text side,
    model.visual.conv1 = model.token_embedding  # which asks the image side for its number type
    label = path.stem if path.is_file() else name
    side, scale = visual.input_resolution, model.logit_scale.exp().item()
    preprocess = Preprocess(side, side, "bicubic", CLIP_MEAN, CLIP_STD)
    return Encoder(f"CLIP {label}", visual, preprocess, "pre-projection", model, projection, scale)


def before_projection(visual):
    """Take CLIP's image side apart: features before the projection, and the projection.

    Parameters
    ----------
    visual : clip.model.VisionTransformer or clip.model.ModifiedResNet
        Is changed.

    Returns
    -------
    nn.Module, nn.Linear
    """
    if isinstance(visual, clip.model.VisionTransformer):
        projection = nn.Linear(*visual.proj.shape, bias=False)
        projection.weight.data = visual.proj.T.detach().clone()
        visual.proj = None
    else:
        projection = visual.attnpool.c_proj
        identity = nn.Linear(projection.in_features, projection.in_features)
        nn.init.eye_(identity.weight)
        nn.init.zeros_(identity.bias)
        visual.attnpool.c_proj = identity
    return visual, projection


def load_timm(rest):
    """The encoder of ``timm:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    _check_name("timm", name.split(".")[0], timm.list_models())
    with _downloading(f"timm:{name}"):
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
    return Encoder(name, model, Preprocess(size, resize, *way))


def load_torchvision(rest):
    """The encoder of ``torchvision:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    _check_name("torchvision", name, models.list_models(models))
    weights = models.get_model_weights(name).DEFAULT
    with _downloading(f"torchvision:{name}"):
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


def _downloading(spec):
    return explained(
        f"The weights of {spec} could not be downloaded. Fetch them on a machine with internet "
        f"and use {spec}@FILE"
    )


def _check_name(kind, name, names):
    """Refuse a name that no model has, with those that begin with it or are most like it."""
    if name not in names:
        begun = [other for other in names if other.startswith(name)]
        near = begun[:3] or difflib.get_close_matches(name, names, 3, cutoff=0)
        raise EncoderError(f"{kind} has no model {name!r}: did you mean {' or '.join(near)}?")
