"""What training pictures go through, so that no network sees the same picture twice."""

import math

import torch
from torch.nn import functional

TILT, CROP = 15, 0.8  # largest angle in degrees, smallest share of the side


def augment(pictures, generator):
    """Turn by quarters and a little more, mirror, and crop, on white: for fruit on white.

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
