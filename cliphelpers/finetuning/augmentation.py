"""What training pictures go through, so that no network sees the same picture twice."""

import math

import numpy as np
import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from cliphelpers.images import read_image
from cliphelpers.parallel import in_parallel

TILT, CROP = 15, 0.8  # turntable: largest angle in degrees, smallest share of the side
AREA, RATIO = 0.5, 4 / 3  # photo: smallest share of the area, largest of width and height
COLOUR = 0.2  # photo: largest change of brightness, contrast and saturation
SAMPLE, WHITE, MOST = 200, 240, 0.9  # pictures looked at, least level of white, share that decides


def photo(pictures, generator):
    """Crop and stretch to the same size, mirror, and change colours a little: for photographs.

    As torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter, but these draw from
    torch's global generator, which trainings side by side would share.

    Parameters
    ----------
    pictures : float tensor, shape (B, 3, S, S)
        In [0, 1].
    generator : torch.Generator

    Returns
    -------
    float tensor, shape (B, 3, S, S)
        In [0, 1], channels last in memory.
    """
    changed = torch.stack([_photo(picture, generator) for picture in pictures])
    return changed.contiguous(memory_format=torch.channels_last)


def _photo(picture, generator):
    area, ratio, left, top, mirror, *colours = torch.rand(8, generator=generator).tolist()
    whole = picture.shape[-1]
    stretch = RATIO ** (ratio - 0.5)
    side = whole * (AREA + area * (1 - AREA)) ** 0.5
    width, height = (min(round(one), whole) for one in (side * stretch, side / stretch))
    place = round(top * (whole - height)), round(left * (whole - width))
    picture = transforms.resized_crop(picture, *place, height, width, [whole, whole])
    if mirror < 0.5:
        picture = transforms.horizontal_flip(picture)
    brightness, contrast, saturation = (1 + COLOUR * (2 * colour - 1) for colour in colours)
    picture = transforms.adjust_brightness(picture, brightness)
    picture = transforms.adjust_contrast(picture, contrast)
    return transforms.adjust_saturation(picture, saturation)


def turntable(pictures, generator):
    """Turn by quarters and a little more, mirror, and crop, on white: for things on white.

    Parameters and result are those of :func:`photo`.
    """
    count = len(pictures)

    def uniform(low, high):
        return torch.empty(count).uniform_(low, high, generator=generator)

    angle = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    angle = angle + uniform(-math.radians(TILT), math.radians(TILT))
    mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
    side = uniform(CROP, 1)
    x, y = (1 - side) * uniform(-1, 1), (1 - side) * uniform(-1, 1)
    cos, sin = side * angle.cos(), side * angle.sin()
    maps = torch.stack([cos * mirror, -sin, x, sin * mirror, cos, y], 1).view(-1, 2, 3)
    ink = 1 - pictures  # what is outside becomes 0, and so white
    grid = functional.affine_grid(maps, ink.shape, align_corners=False)
    turned = functional.grid_sample(ink, grid, align_corners=False)
    return (1 - turned).contiguous(memory_format=torch.channels_last)


def none(pictures, generator):
    """The pictures as they are."""
    return pictures


AUGMENTATIONS = {"photo": photo, "turntable": turntable, "none": none}


def choose_augmentation(wanted, paths):
    """The augmentation that suits training pictures, and why.

    Parameters
    ----------
    wanted : {"auto", "photo", "turntable", "none"}
        "auto" is "turntable" where the corners of nearly all pictures are white, as of things
        before an empty background, which may lie as they like; else "photo".
    paths : sequence of str
        Of these, at most 200, evenly spaced, are looked at.

    Returns
    -------
    name, why : str

    Raises
    ------
    ImageError
        A picture cannot be read.
    """
    if wanted != "auto":
        return wanted, "as the parameter says"
    some = np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int))
    white = np.mean(in_parallel(_white_corners, np.asarray(paths)[some]))
    name = "turntable" if white >= MOST else "photo"
    seen = f"{len(some)} pictures, of training and validation,"
    return name, f"{white:.0%} of {seen} have white corners"


def _white_corners(path):
    pixels = np.asarray(read_image(path))
    return pixels[[0, 0, -1, -1], [0, -1, 0, -1]].min() >= WHITE
