"""From a picture to the square of pixels that an encoder takes."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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

    Raises
    ------
    ValueError
        Pillow has no such interpolation, or ``resize`` is less than ``size``.
    """

    size: int = 224
    resize: int = 224
    interpolation: str = "bicubic"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    squash: bool = False
    shrink: int | None = None
    generator: object = field(default=None, repr=False)

    def __post_init__(self):
        known = [way.name.lower() for way in Image.Resampling]
        if self.interpolation not in known:
            words = f"Unknown interpolation {self.interpolation!r}"
            raise ValueError(f"{words}: use one of {', '.join(known)}")
        if self.resize < self.size:
            words = f"resize {self.resize} is less than size {self.size}"
            raise ValueError(f"{words}: the picture would get a black border")

    def __call__(self, picture):
        """RGB picture -> uint8 array, shape (size, size, 3)."""
        short, long = sorted(picture.size)
        if not self.squash and long > 16 * short:  # the crop sees its middle: do not resize all
            middle = 16 * short + (long - 16 * short) % 2  # without a shift by half a pixel
            picture = _centre(picture, *(min(side, middle) for side in picture.size))
        if self.shrink and self.shrink < short:
            picture = _resized(picture, self.shrink, "bicubic")
        if self.generator and min(picture.size) < self.resize:
            picture = self.generator.enlarge(picture)
        picture = _resized(picture, self.resize, self.interpolation, self.squash)
        return np.array(_centre(picture, self.size, self.size))


def _resized(picture, side, interpolation, squash=False):
    """The shorter side of a picture brought to ``side``, or both."""
    short = min(picture.size)
    sides = [side if squash else side * length // short for length in picture.size]
    return picture.resize(sides, Image.Resampling[interpolation.upper()])


def _centre(picture, width, height):
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))
