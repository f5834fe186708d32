"""ImageNet's encoders of timm and torchvision."""

import math

import timm
import torchvision
from torch import nn

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.encoders.weights import download, load_state, unknown


def load_timm(rest):
    """The encoder of ``timm:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    if name.split(".")[0] not in timm.list_models():
        unknown("timm", name, timm.list_models())
    if file:
        model = timm.create_model(name, num_classes=0)
        heads = model.pretrained_cfg["classifier"] or []
        load_state(model, file, [heads] if isinstance(heads, str) else heads, f"timm:{name}")
    else:
        model = download(f"timm:{name}", lambda: timm.create_model(name, True, num_classes=0))
    config = timm.data.resolve_model_data_config(model)
    channels, height, size = config["input_size"]
    if (channels, height) != (3, size) or config["crop_mode"] not in ("center", "squash"):
        raise EncoderError(f"timm:{name} wants pictures prepared in a way that is not supported")
    return Encoder(
        name,
        model,
        Preprocess(
            size,
            math.floor(size / config["crop_pct"]),
            config["interpolation"],
            config["mean"],
            config["std"],
            squash=config["crop_mode"] == "squash",
        ),
    )


def load_torchvision(rest):
    """The encoder of ``torchvision:NAME[@FILE]``."""
    name, _, file = rest.partition("@")
    if name not in torchvision.models.list_models(torchvision.models):
        unknown("torchvision", name, torchvision.models.list_models(torchvision.models))
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if file:
        model = torchvision.models.get_model(name, weights=None)
        if hasattr(model, "transform_input"):
            model.transform_input = True  # as torchvision does for its weights of Inception
        head = _remove_head(model)
        load_state(model, file, [head], f"torchvision:{name}")
    else:
        spec = f"torchvision:{name}"
        model = download(spec, lambda: torchvision.models.get_model(name, weights=weights))
        _remove_head(model)
    config = weights.transforms()
    return Encoder(
        name,
        model,
        Preprocess(
            config.crop_size[0],
            config.resize_size[0],
            config.interpolation.value,
            tuple(config.mean),
            tuple(config.std),
        ),
    )


def _remove_head(model):
    """Replace the last linear layer by the identity, so that its input is the feature."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise EncoderError(f"{type(model).__name__} has no linear layer whose input is a feature")
    head = linear[-1]
    parent, _, child = head.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return head
