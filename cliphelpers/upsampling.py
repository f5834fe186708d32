"""Enlarging small pictures: encoders that see them enlarged, and how good the enlarged ones are."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import laplace
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cliphelpers.encoders.encoder import EncoderError
from cliphelpers.srgan import WEIGHTS, load_generator

INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


def upsampled(preprocess, method, shrink=None):
    """The same preprocessing, but for pictures enlarged in another way.

    Parameters
    ----------
    preprocess : Preprocess
    method : {"bilinear", "bicubic", "lanczos", "srgan"} or "srgan@FILE"
        The first three are Pillow's. "srgan" enlarges four times, then Pillow's bicubic brings
        the picture to the encoder's size, smoothing when it shrinks; pictures that are large
        enough already are not enlarged. FILE holds the weights of another generator: see
        :func:`cliphelpers.srgan.load_generator`.
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
    if method in INTERPOLATIONS:
        return replace(preprocess, interpolation=method, shrink=shrink, generator=None)
    name, _, file = method.partition("@")
    if name != "srgan":
        known = ", ".join([*INTERPOLATIONS, "srgan", "srgan@FILE"])
        raise EncoderError(f"Unknown upsampling {method!r}: use {known}")
    path = Path(file or WEIGHTS)
    generator = _shared(path, path.stat().st_mtime_ns if path.is_file() else None)
    return replace(preprocess, interpolation="bicubic", shrink=shrink, generator=generator)


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
        ``PSNR (dB)`` over the three channels, 100 at most. ``SSIM`` with the Gaussian window of
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004,
        section III.B, mean over the channels. ``sharpness``: the variance of the grey picture's
        Laplacian (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000, section
        2) divided by the original's, so that 1 is as sharp, less is blurred, more is too much.
    """
    with np.errstate(divide="ignore"):
        psnr = min(peak_signal_noise_ratio(original, picture, data_range=255), 100.0)
    ssim = structural_similarity(
        original, picture, data_range=255, channel_axis=2,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    edges = [np.var(laplace(rgb2gray(one))) for one in (picture, original)]
    return {"PSNR (dB)": psnr, "SSIM": ssim, "sharpness": (edges[0] + 1e-12) / (edges[1] + 1e-12)}
