"""Image encoders: CLIP, torchvision, timm or a module of one's own, told from a short text.

clip:ViT-B/32                           OpenAI's CLIP by name, or clip:path.pt
timm:deit_tiny_patch16_224              timm's pretrained weights, or ...@file
torchvision:resnet50                    torchvision's default weights, or ...@file
module:my_encoder.py                    the function encoder() of a Python file of one's own,
                                        or encoder(file) with ...@file
"""

import copy
import difflib
import hashlib
import importlib.util
import math
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn
from torchvision.transforms import functional as transforms

with warnings.catch_warnings():  # it imports pkg_resources, which warns
    warnings.simplefilter("ignore")
    import clip

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CONTEXT = 77  # tokens, the length of CLIP's text


class EncoderError(ValueError):
    """An encoder that cannot be made. The message names it and what to do."""


@dataclass(frozen=True)
class Preprocess:
    """From a picture to a square of uint8: shorter side to ``resize``, centre of ``size``.

    Attributes
    ----------
    size : int
        Side of the square in pixels, the encoder's input.
    resize : int
        Length of the shorter side in pixels before the crop.
    interpolation : {"bilinear", "bicubic", "lanczos"}
        Pillow's, which smooths when it shrinks.
    mean, std : tuple of 3 float
        Of the channels R, G, B in [0, 1].
    squash : bool
        Whether both sides are brought to ``resize``, whatever the picture's aspect ratio.
    shrink : int, optional
        Shrink the shorter side to so many pixels before all else (bicubic).
    generator : cliphelpers.srgan.Generator, optional
        Enlarges the picture four times before the resize, if its shorter side is below ``resize``.
    """

    size: int = 224
    resize: int = 224
    interpolation: str = "bicubic"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    squash: bool = False
    shrink: int | None = None
    generator: nn.Module | None = field(default=None, repr=False)

    def __call__(self, picture):
        """RGB picture -> uint8 array, shape (size, size, 3)."""
        return self.batch([picture])[0]

    def batch(self, pictures):
        """RGB pictures -> uint8 array, shape (B, size, size, 3)."""
        pictures = [self._shrunk(picture) for picture in pictures]
        if self.generator:
            small = [row for row, one in enumerate(pictures) if min(one.size) < self.resize]
            large = self.generator.enlarge([pictures[row] for row in small])
            for row, picture in zip(small, large, strict=True):
                pictures[row] = picture
        return np.stack([self._resized(picture) for picture in pictures])

    def _shrunk(self, picture):
        short, long = sorted(picture.size)
        if not self.squash and long > 16 * short:  # the crop sees its middle: do not resize all
            middle = 16 * short + (long - 16 * short) % 2  # without a shift by half a pixel
            picture = transforms.center_crop(picture, [min(s, middle) for s in picture.size[::-1]])
        if self.shrink and self.shrink < short:
            picture = transforms.resize(picture, self.shrink, transforms.InterpolationMode.BICUBIC)
        return picture

    def _resized(self, picture):
        method = transforms.InterpolationMode(self.interpolation)
        sides = [self.resize, self.resize] if self.squash else self.resize
        picture = transforms.resize(picture, sides, method)
        return np.array(transforms.center_crop(picture, self.size))


@dataclass
class Encoder:
    """An image encoder and what it needs to know of its pictures.

    Attributes
    ----------
    name : str
        As it appears in results.
    module : nn.Module
        Normalised pictures, float (B, 3, size, size) -> features, float (B, D).
    preprocess : Preprocess
    features : str
        What the features are, as it stands in results.
    text : nn.Module, optional
        CLIP's text side, with the method encode_text: tokens, int (T, 77) -> float (T, E).
    projection : nn.Linear, optional
        From features (D) to the joint embedding (E) of pictures and texts.
    logit_scale : float, optional
        Factor of the cosine similarities, exp of CLIP's learned log temperature.
    precision : {"fp32", "bf16", "fp16"}
    device : str
        By default the GPU where there is one.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess = field(default_factory=Preprocess)
    features: str = "penultimate"
    text: nn.Module | None = None
    projection: nn.Linear | None = None
    logit_scale: float | None = None
    precision: str = "fp32"
    device: str = field(default_factory=lambda: default_device())

    def __post_init__(self):
        _check_precision(self.precision)
        for part in filter(None, (self.module, self.text, self.projection)):
            part.eval().requires_grad_(False).to(self.device)
            for key, value in part.state_dict().items():
                if value.is_floating_point() and not value.isfinite().all():
                    raise EncoderError(f"The weights of {self.name} are not finite numbers: {key}")
        if any(isinstance(layer, nn.Conv2d) for layer in self.module.modules()):
            self.module.to(memory_format=torch.channels_last)

    @cached_property
    def fingerprint(self):
        """Of the image side: see :func:`fingerprint`."""
        return fingerprint(self.module)

    @cached_property
    def feature_size(self):
        """D, the length of a feature vector."""
        side = self.preprocess.size
        return encode_batch(self, np.zeros((1, side, side, 3), np.uint8)).shape[1]

    @cached_property
    def key(self):
        """SHA-256 of all that features depend on but the picture: weights, preprocessing and
        precision."""
        look = {name: value for name, value in vars(self.preprocess).items() if value is not None}
        if self.preprocess.generator:
            look["generator"] = self.preprocess.generator.fingerprint
        parts = [self.fingerprint, self.precision, *map(str, look.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint(module):
    """SHA-256 of a module: its architecture, and names, shapes and values of its weights."""
    digest = hashlib.sha256(repr(module).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_precision(precision):
    if precision not in PRECISIONS:
        raise EncoderError(f"Unknown precision {precision!r}: use {', '.join(PRECISIONS)}")


def default_device():
    """The GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def encode_batch(encoder, pictures):
    """From preprocessed pictures to features: the one step that runs on the device.

    Parameters
    ----------
    encoder : Encoder
    pictures : uint8 array or tensor, shape (B, size, size, 3)

    Returns
    -------
    float32 array, shape (B, D)
        Before the projection to the joint embedding, if the encoder has one.
    """
    batch = torch.as_tensor(pictures).to(encoder.device, non_blocking=True).permute(0, 3, 1, 2)
    mean = torch.tensor(encoder.preprocess.mean, device=encoder.device).view(3, 1, 1)
    std = torch.tensor(encoder.preprocess.std, device=encoder.device).view(3, 1, 1)
    batch = (batch.float() / 255 - mean) / std
    dtype = PRECISIONS[encoder.precision]
    with torch.autocast(encoder.device, dtype=dtype, enabled=dtype != torch.float32):
        features = encoder.module(batch)
    return features.float().contiguous().cpu().numpy()  # no view into a larger tensor


@torch.inference_mode()
def to_joint(encoder, features):
    """CLIP's joint embedding of pictures from their features before the projection.

    Parameters
    ----------
    encoder : Encoder
    features : float32 array, shape (N, D)

    Returns
    -------
    float32 array, shape (N, E)
        Not normalised, as of ``encode_image``.
    """
    _needs_text(encoder)
    return encoder.projection(torch.from_numpy(features).to(encoder.device)).cpu().numpy()


@torch.inference_mode()
def encode_text(encoder, texts):
    """CLIP's joint embeddings of texts.

    Parameters
    ----------
    encoder : Encoder
    texts : list of str, length T

    Returns
    -------
    float32 array, shape (T, E)
        Not normalised.

    Raises
    ------
    EncoderError
        No CLIP, or a text of more than 77 tokens.
    """
    _needs_text(encoder)
    batches = tokenize(texts).to(encoder.device).split(256)
    return torch.cat([encoder.text.encode_text(batch).float() for batch in batches]).cpu().numpy()


def tokenize(texts):
    """CLIP's tokens of texts: int tensor, shape (T, 77).

    Raises
    ------
    EncoderError
        A text has more than 77 tokens.
    """
    tokens = []
    for text in texts:
        try:
            tokens.append(clip.tokenize(text))
        except RuntimeError:
            raise EncoderError(f"This text has more than {CONTEXT} tokens: {text!r}") from None
    return torch.cat(tokens)


def _needs_text(encoder):
    if encoder.text is None:
        raise EncoderError(f"{encoder.name} has no text side: zero-shot needs a CLIP (clip:...)")


# ------------------------------------------------------------------------------- loading


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
    ResNet the attention pool before the output projection. :func:`to_joint` applies the
    projection, which makes them equal to ``encode_image``.

    Raises
    ------
    EncoderError
        Unknown name, missing or unreadable file, weights of another architecture, no internet.
    """
    kind, _, rest = spec.partition(":")
    if kind not in LOADERS or not rest:
        raise EncoderError(f"Unknown encoder {spec!r}: begin with {', '.join(LOADERS)} and a colon")
    _check_precision(precision)
    encoder = LOADERS[kind](rest)
    return replace(encoder, precision=precision, device=device or encoder.device)


def load_clips(specs):
    """Make the encoders among ``specs`` that are CLIPs, since only they have a text side.

    So one list of encoders can go to all notebooks.

    Returns
    -------
    list of Encoder
        Never empty.
    """
    clips = [spec for spec in specs if spec.startswith("clip:")]
    if not clips:
        raise EncoderError(f"There is no CLIP (clip:NAME or clip:FILE) among the encoders {specs}")
    return [load_encoder(spec) for spec in clips]


def random_twin(encoder, seed=0):
    """The same architecture with random weights: what a probe gets from no pre-training at all.

    Layers are initialised by their own ``reset_parameters``; free parameters (class tokens,
    positions, projections) normally with standard deviation 1/sqrt(last dimension).

    Returns
    -------
    Encoder
        Without text side.
    """
    module = copy.deepcopy(encoder.module)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
            if reset:
                reset()
            else:
                for weight in layer.parameters(recurse=False):
                    weight.normal_(std=weight.shape[-1] ** -0.5 if weight.ndim else 1)
    name = f"{encoder.name} (random weights)"
    return replace(encoder, name=name, module=module, text=None, projection=None, logit_scale=None)


def raw_pixels(side=10):
    """No encoder at all: the picture shrunk to side x side pixels, as 3 side^2 numbers."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    preprocess = Preprocess(side, side, "bilinear", mean=zero, std=one)
    return Encoder(f"{side}x{side} raw pixels", nn.Flatten(), preprocess, features="pixels")


def _load_clip(name):
    path = Path(name)
    if not path.is_file() and (path.suffix or name not in clip.available_models()):
        if path.suffix:
            raise EncoderError(f"There is no file {name} with the weights of a CLIP")
        _unknown("clip", name, clip.available_models())
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
        raise EncoderError(f"{name} holds no CLIP: {_reason(error)}") from error
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


def _load_timm(rest):
    name, _, file = rest.partition("@")
    if name.split(".")[0] not in timm.list_models():
        _unknown("timm", name, timm.list_models())
    if file:
        model = timm.create_model(name, num_classes=0)
        heads = model.pretrained_cfg["classifier"] or []
        _load_state(model, file, [heads] if isinstance(heads, str) else heads, f"timm:{name}")
    else:
        model = _download(f"timm:{name}", lambda: timm.create_model(name, True, num_classes=0))
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


def _load_torchvision(rest):
    name, _, file = rest.partition("@")
    if name not in torchvision.models.list_models(torchvision.models):
        _unknown("torchvision", name, torchvision.models.list_models(torchvision.models))
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if file:
        model = torchvision.models.get_model(name, weights=None)
        if hasattr(model, "transform_input"):
            model.transform_input = True  # as torchvision does for its weights of Inception
        head = _remove_head(model)
        _load_state(model, file, [head], f"torchvision:{name}")
    else:
        spec = f"torchvision:{name}"
        model = _download(spec, lambda: torchvision.models.get_model(name, weights=weights))
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


def _load_state(model, file, heads, spec):
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
        raise EncoderError(f"{file} holds no weights: {_reason(error)}") from error
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise EncoderError(f"{file} holds no state dict (names and tensors)")
    return state


def _load_module(rest):
    name, _, file = rest.partition("@")
    path = Path(name)
    if not path.is_file():
        raise EncoderError(f"There is no file {name} with a function encoder()")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = module.encoder(*filter(None, [file])) if hasattr(module, "encoder") else None
    if not isinstance(made, Encoder):
        raise EncoderError(f"{name} needs a function encoder() that returns an Encoder")
    return made


LOADERS: dict[str, Callable] = {
    "clip": _load_clip,
    "timm": _load_timm,
    "torchvision": _load_torchvision,
    "module": _load_module,
}


def _download(spec, load):
    try:
        return load()
    except Exception as error:  # each library has its own error for being offline
        raise EncoderError(
            f"The weights of {spec} could not be downloaded ({brief(error)}). "
            f"Fetch them on a machine with internet and use {spec}@FILE"
        ) from error


def _unknown(kind, name, names):
    def likeness(other):  # many names are long, and what was typed is like their beginning
        parts = other[: len(name)], other
        return [difflib.SequenceMatcher(None, name, part).ratio() for part in parts]

    near = sorted(names, key=likeness, reverse=True)[:3]
    raise EncoderError(f"{kind} has no model {name!r}: did you mean {' or '.join(near)}?")


def _reason(error):
    if "weights_only" in str(error):  # torch goes on to recommend executing it
        return "it is damaged, or holds pickled code, which is not executed"
    return f"it is damaged, or of another architecture ({brief(error)})"


def brief(error):
    """What an error of another library says, in a line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"
