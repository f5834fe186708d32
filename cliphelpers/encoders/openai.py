"""OpenAI's CLIP, by name or from a file."""

import urllib.error
import warnings
from pathlib import Path

import clip
from torch import nn

from cliphelpers.encoders.encoder import Encoder, EncoderError
from cliphelpers.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from cliphelpers.encoders.weights import reason, unknown


def load_clip(name):
    """The encoder of ``clip:NAME`` or ``clip:FILE``."""
    path = Path(name)
    if not path.is_file() and (path.suffix or name not in clip.available_models()):
        if path.suffix:
            raise EncoderError(f"There is no file {name} with the weights of a CLIP")
        unknown("clip", name, clip.available_models())
    try:
        with warnings.catch_warnings():  # torch.jit.load, which reads OpenAI's archives, is old
            warnings.simplefilter("ignore")
            model, _ = clip.load(name, device="cpu")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        url = clip.clip._MODELS[name]
        raise EncoderError(
            f"clip:{name} could not be downloaded ({error}). Fetch {url} on another machine "
            f"and use clip:FILE, or put it into {Path.home() / '.cache' / 'clip'}"
        ) from error
    except Exception as error:  # torch's readers and build_model raise nearly anything here
        raise EncoderError(f"{name} holds no CLIP: {reason(error)}") from error
    module, projection = before_projection(model.visual)
    model.visual = nn.Module()  # what is left is the text side,
    model.visual.conv1 = model.token_embedding  # which asks the image side for its number type
    label = name if not path.is_file() else path.stem
    side = module.input_resolution
    return Encoder(
        f"CLIP {label}",
        module,
        Preprocess(side, side, "bicubic", CLIP_MEAN, CLIP_STD),
        features="pre-projection",
        text=model,
        projection=projection,
        logit_scale=model.logit_scale.exp().item(),
    )


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
        weight, bias = visual.proj.T, None
        visual.proj = None
    else:
        output = visual.attnpool.c_proj
        weight, bias = output.weight, output.bias
        identity = nn.Linear(output.in_features, output.in_features)
        nn.init.eye_(identity.weight)
        nn.init.zeros_(identity.bias)
        visual.attnpool.c_proj = identity
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    projection.weight.data = weight.detach().clone()
    if bias is not None:
        projection.bias.data = bias.detach().clone()
    return visual, projection
