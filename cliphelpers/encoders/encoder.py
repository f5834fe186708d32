"""An encoder, what it makes of pictures and texts, and two that know nothing."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torchvision.transforms.v2.functional import normalize as normalize_channels

from cliphelpers.encoders.preprocess import Preprocess

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EncoderError(ValueError):
    """An encoder that cannot be made. The message names it and what to do."""


@dataclass(eq=False)
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
        CLIP's text side, with the method encode_text: tokens, int (T, L) -> float (T, E).
    tokenizer : callable, optional
        From texts to what ``text`` takes, int (T, L): ``tokenizer(texts, context_length=L)``, where
        L is the model's own by default. It cuts longer texts, which :func:`tokenize` refuses.
    projection : nn.Module, optional
        From features (D) to the joint embedding (E) of pictures and texts.
    logit_scale : float, optional
        Factor of the cosine similarities, exp of CLIP's learned log temperature. What sigmoid
        models (SigLIP) add to all of them alike changes no answer and is left out.
    joint : bool
        Whether its features are the joint embedding, of length 1, times ``logit_scale``: there
        text weights are a linear head. See :func:`joint`.
    precision : {"fp32", "bf16", "fp16", "auto"}
        "auto" becomes what :func:`auto_precision` says of the device.
    device : str
        By default the GPU where there is one.
    spec : str
        The text that it was made of: see :func:`cliphelpers.encoders.load.load_encoders`.
    tuned : bool
        Whether its weights are others than those that ``spec`` names, as of a fine-tuned one.
    source : str
        Of a Python file of one's own its SHA-256, since weights do not tell what its code does.

    Raises
    ------
    EncoderError
        An unknown precision, or weights that are not finite numbers.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess = field(default_factory=Preprocess)
    features: str = "penultimate"
    text: nn.Module | None = None
    tokenizer: Callable | None = None
    projection: nn.Module | None = None
    logit_scale: float | None = None
    joint: bool = False
    precision: str = "fp32"
    device: str = field(default_factory=lambda: default_device())
    spec: str = ""
    tuned: bool = False
    source: str = ""

    def __post_init__(self):
        if self.precision == "auto":
            self.precision = auto_precision(self.device)
        if self.precision not in PRECISIONS:
            known = ", ".join(["auto", *PRECISIONS])
            raise EncoderError(f"Unknown precision {self.precision!r}: use {known}")
        for part in filter(None, (self.module, self.text, self.projection)):
            freeze(part, self.name, self.device)
        if any(isinstance(layer, nn.Conv2d) for layer in self.module.modules()):
            self.module.to(memory_format=torch.channels_last)

    @cached_property
    def key(self):
        """SHA-256 of all that features depend on but the picture: weights, code of one's own,
        preprocessing and precision."""
        look = {name: value for name, value in vars(self.preprocess).items() if value is not None}
        if self.preprocess.generator:
            look["generator"] = self.preprocess.generator.fingerprint
        parts = [fingerprint(self.module), self.precision, *map(str, look.items())]
        parts += filter(None, [self.source])
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def freeze(module, name, device):
    """Bring a module to a device for inference alone; its weights must be finite numbers."""
    for key, value in module.state_dict().items():
        if not value.isfinite().all():
            raise EncoderError(f"The weights of {name} are not finite numbers: {key}")
    return module.eval().requires_grad_(False).to(device)


def fingerprint(module):
    """SHA-256 of a module: its architecture, and names, shapes and values of its weights."""
    digest = hashlib.sha256(repr(module).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def default_device():
    """The GPU where there is one, such as NVIDIA's, AMD's or Apple's, else the CPU."""
    gpu = torch.accelerator.is_available() and torch.accelerator.current_accelerator().type
    return gpu or "cpu"


def auto_precision(device):
    """ "bf16" where a device computes it natively, else "fp32".

    Native are NVIDIA's GPUs from Ampere on, AMD's, and processors with AVX512-BF16 or AMX. Of
    Apple's GPUs torch does not say, and some refuse it.
    """
    units = [f"_is_{unit}_supported" for unit in ("avx512_bf16", "amx_tile")]
    native = {
        "cuda": torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": any(getattr(torch.cpu, unit, bool)() for unit in units),
    }
    return "bf16" if native.get(torch.device(device).type) else "fp32"


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

    Raises
    ------
    EncoderError
        The encoder gives something else than finite numbers of this shape.
    """
    batch = torch.as_tensor(pictures).to(encoder.device, non_blocking=True).permute(0, 3, 1, 2)
    features = see(encoder, encoder.module, batch.float() / 255)
    if not torch.is_tensor(features) or features.ndim != 2 or len(features) != len(batch):
        what = tuple(features.shape) if torch.is_tensor(features) else type(features).__name__
        raise EncoderError(f"{encoder.name} must give (B, D) numbers, D a picture, not {what}")
    if not features.isfinite().all():
        raise EncoderError(
            f"{encoder.name} gives numbers that are not finite, in {encoder.precision}"
        )
    return features.float().contiguous().cpu().numpy()  # no view into a larger tensor


def see(encoder, network, pictures):
    """What a network makes of pictures in [0, 1], float (B, 3, size, size): normalised as the
    encoder's preprocessing says, and in its precision."""
    look, dtype = encoder.preprocess, PRECISIONS[encoder.precision]
    pictures = normalize_channels(pictures.to(encoder.device), look.mean, look.std)
    with torch.autocast(pictures.device.type, dtype=dtype, enabled=dtype != torch.float32):
        return network(pictures)


def joint(encoder):
    """The same CLIP, but its features are the joint embedding of pictures and texts.

    Returns
    -------
    Encoder
        Features are of length ``logit_scale``, float32 (N, E), so that text weights are a linear
        head on them; they come from the same computation as those before the projection.

    Raises
    ------
    EncoderError
        No CLIP.
    """
    _needs_text(encoder)
    how = encoder.features.split(", ")[1:]  # such as bf16
    return replace(encoder, joint=True, features=", ".join(["joint", *how]))


@torch.inference_mode()
def to_joint(encoder, features):
    """From features before the projection, float32 (N, D), to those of :func:`joint`, (N, E)."""
    projected = encoder.projection(torch.from_numpy(features).to(encoder.device)).cpu().numpy()
    return encoder.logit_scale * normalize(projected)


def normalize(X):
    """Each row to length 1: float32, shape of X."""
    return X / np.linalg.norm(X, axis=-1, keepdims=True).clip(1e-12)


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
        No CLIP, or a text of more tokens than it can read.
    """
    _needs_text(encoder)
    batches = tokenize(encoder.tokenizer, texts).to(encoder.device).split(256)
    # clip's mask is causal: what stands behind a text's end is unseen
    if type(encoder.text).__module__ == "clip.model":
        batches = [batch[:, : (batch != 0).sum(1).max()] for batch in batches]
    return torch.cat([encoder.text.encode_text(batch).float() for batch in batches]).cpu().numpy()


def tokenize(tokenizer, texts):
    """A tokenizer's tokens of texts, none of which is cut: int tensor, shape (T, L).

    Raises
    ------
    EncoderError
        A text has more than L tokens.
    """
    tokens = tokenizer(texts)
    length, padding = tokens.shape[1], tokenizer([""]).mode().values
    whole = tokenizer(texts, context_length=2 * length)
    for text, kept, wanted in zip(texts, tokens, whole, strict=True):
        if (kept != padding).sum() < (wanted != padding).sum():
            raise EncoderError(f"This text has more than {length} tokens: {text!r}")
    return tokens


def _needs_text(encoder):
    if encoder.text is None:
        raise EncoderError(f"{encoder.name} has no text side: zero-shot needs a CLIP (clip:...)")


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
    nothing = {"text": None, "projection": None, "logit_scale": None, "joint": False, "spec": ""}
    return replace(encoder, name=f"{encoder.name} (random weights)", module=module, **nothing)


def raw_pixels(side=10):
    """No encoder at all: the picture shrunk to side x side pixels, as 3 side^2 numbers."""
    preprocess = Preprocess(side, side, "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Encoder(f"{side}x{side} raw pixels", nn.Flatten(), preprocess, features="pixels")
