"""Reading pictures: every format to 8-bit RGB, every fault with the picture's path."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, ImageStat

from cliphelpers.parallel import CORES, in_parallel

with suppress(ImportError):  # iPhones' format, where its reader is installed
    import pillow_heif

    pillow_heif.register_heif_opener()

_SUFFIXES = frozenset(
    ".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm .jp2 .avif .heic .heif".split()  # noqa: SIM905
)
_SMALLEST_SIDE, _LARGEST_SIDE, _LONGEST_RATIO, _LEAST_CONTRAST = 8, 10_000, 8, 3


class ImageError(ValueError):
    """A picture that cannot be read. The message names it and what to do."""


def read_image(path):
    """Decode one picture to 8-bit RGB, as a person sees it.

    The EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to
    8 bits, palettes, grey and CMYK are converted; of an animation the first frame is taken.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    PIL.Image.Image
        Mode "RGB".

    Raises
    ------
    ImageError
        The file is missing, no picture, truncated, too large or in a format that Pillow
        cannot read here.
    """
    try:
        with Image.open(path) as picture:
            return _to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"Cannot read {path}: {_reason(path, error)}") from error


def _to_rgb(picture):
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        grey = np.asarray(picture).astype(np.int64) >> 8  # 16 bits to 8
        picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    if picture.mode == "F":
        raise ValueError("its pixels are floats without a stated range; save it with 8 or 16 bits")
    return picture.convert("RGB")


def _reason(path, error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if Path(path).suffix.lower() in (".heic", ".heif"):
        return "convert it to JPEG, or install what reads HEIC: pip install pillow-heif"
    if isinstance(error, Image.UnidentifiedImageError):
        return "the file is empty" if os.path.getsize(path) == 0 else "the file is no picture"
    return str(error) or type(error).__name__


def find_images(folder):
    """Paths of the pictures in a folder and below, sorted; hidden files and folders are ignored.

    Raises
    ------
    OSError
        A folder cannot be read.
    """

    def refuse(error):
        raise error

    found = []
    for directory, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        names = [name for name in files if Path(name).suffix.lower() in _SUFFIXES]
        found += [os.path.join(directory, name) for name in names if name[0] != "."]
    return sorted(found)


def digests(paths):
    """SHA-256 of each file's bytes: list of str. A file that has not changed is read once only.

    Raises
    ------
    ImageError
        A file is missing or cannot be read.
    """

    def digest(path):
        try:
            state = os.stat(path)
            return _digest(path, state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
        except OSError as error:
            raise ImageError(f"Cannot read {path}: {error.strerror}") from error

    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(digest, paths))


@cache
def _digest(path, *state):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_images(paths):
    """Read every picture: its size, and whether it is unreadable or odd.

    Odd means: a side under 8 or over 10,000 pixels, a side 8 times as long as the other, or one
    colour alone (nearly: no channel's standard deviation is 3 of 255 or more).

    Parameters
    ----------
    paths : sequence of str

    Returns
    -------
    pandas.DataFrame
        Columns ``path``, ``width`` and ``height`` (0 if it is unreadable) and ``problem`` ("" if
        there is none), a row for each picture in the given order.
    """
    rows = in_parallel(_examine, list(paths), unit="image")
    return pd.DataFrame(rows, columns=["path", "width", "height", "problem"])


def _examine(path):
    try:
        picture = read_image(path)
    except ImageError as error:
        return path, 0, 0, str(error).removeprefix(f"Cannot read {path}: ")
    (width, height), problem = picture.size, ""
    short, long = sorted(picture.size)
    if max(ImageStat.Stat(picture).stddev) < _LEAST_CONTRAST:
        problem = "one colour, no contrast"
    if short < _SMALLEST_SIDE or long > _LARGEST_SIDE or long > _LONGEST_RATIO * short:
        problem = f"odd size {width}x{height}"
    return path, width, height, problem
