"""Reading pictures: every format to 8-bit RGB, every fault with the picture's path."""

import hashlib
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, ImageStat

from cliphelpers.parallel import CORES, in_parallel

with suppress(ImportError):  # iPhones' format, where its reader is installed
    import pillow_heif

    pillow_heif.register_heif_opener()

pd.set_option("mode.string_storage", "python")  # pyarrow's texts refuse names that are no UTF-8
_NOT_DATA = re.compile(  # hidden, or made by Synology, QNAP, macOS or Windows for themselves
    r"(?i)\..*|@eadir|@tmp|[@#$]recycle(\.bin)?|#snapshot|__macosx|icon\r|lost\+found|"
    r"(eh)?thumbs\.db|desktop\.ini|system volume information"
)
_HEIC = ".heic", ".heif"
_BLOCK = 32  # files whose digests a job takes
_SMALLEST_SIDE, _LARGEST_SIDE, _LONGEST_RATIO, _LEAST_CONTRAST = 8, 10_000, 8, 3


class ImageError(ValueError):
    """A picture that cannot be read. The message names it and what to do."""


def read_image(path, content=None):
    """Decode one picture to 8-bit RGB, as a person sees it.

    The EXIF rotation is applied, transparency is laid on white, palettes, grey and CMYK are
    converted; of an animation the first frame is taken. Grey levels in 16 or 32 bits are scaled to
    8 by the least of 8, 12 and 16 bits that holds the picture's highest: most files do not say
    how many of their bits they use.

    Parameters
    ----------
    path : str or Path
    content : bytes, optional
        The file's, where they have been read already: the path is then only its name.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB".

    Raises
    ------
    ImageError
        The file is missing, no picture, truncated, too large or in a format that Pillow
        cannot read here; its levels are floats, negative or over 16 bits, or a colour picture of
        16 bits uses 12 at most, of which Pillow drops too many.
    """
    try:
        with Image.open(path if content is None else BytesIO(content)) as file:
            halved = re.search("(RGB[AX]?|LA);16", str(file.tile))  # by Pillow: 16 bits to 8
            picture = ImageOps.exif_transpose(file)
            if halved and max(high for _, high in picture.getextrema()[:3]) < 16:
                raise ValueError("its 16 bits a colour hold 12 at most; save it with 8 or all 16")
            return _to_rgb(picture)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"Cannot read {path}: {_reason(path, content, error)}") from error


def _to_rgb(picture):
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.int64)
        low, high = levels.min(), levels.max()
        if low < 0 or high >= 2**16:
            raise ValueError(f"its levels go from {low} to {high}; save it with 8 or 16 bits")
        bits = next(bits for bits in (8, 12, 16) if high < 2**bits)
        picture = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    if picture.mode == "F":
        raise ValueError("its pixels are floats without a stated range; save it with 8 or 16 bits")
    return picture.convert("RGB")


def _reason(path, content, error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if Path(path).suffix.lower() in _HEIC:
        return "convert it to JPEG, or install what reads HEIC: pip install pillow-heif"
    if isinstance(error, Image.UnidentifiedImageError):
        size = os.path.getsize(path) if content is None else len(content)
        return "the file is no picture" if size else "the file is empty"
    return str(error) or type(error).__name__


def find_images(folder):
    """Paths of the pictures in a folder and below, sorted.

    A picture is what has the name of one, by Pillow's list of extensions, and under any other name
    what Pillow can read. Hidden files and folders and those that systems make for themselves
    (``@eaDir``, ``__MACOSX``, ``Thumbs.db`` and the like) are ignored; what else is left out is
    counted in a warning.

    Raises
    ------
    OSError
        A folder cannot be read.
    """
    files = {path: _is_picture(path) for path in _walk(folder)}
    tell("Files left out, no pictures", [path for path, known in files.items() if not known])
    return sorted(path for path, known in files.items() if known)


def _walk(folder, above=()):
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        yield folder
        return
    for path in entries(folder):
        if os.path.isdir(path):
            yield from _walk(path, (*above, real))
        else:
            yield path


def entries(folder):
    """Paths of what is in a folder, without what is hidden or a system's own: list of str."""
    with os.scandir(folder) as found:
        return [one.path for one in found if not _NOT_DATA.fullmatch(one.name)]


def tell(what, cases):
    """One warning that counts the cases of something and names one; none if there are none."""
    if len(cases):
        warnings.warn(f"{what}: {len(cases)}, such as {min(cases)}", stacklevel=3)


def has_picture_name(path):
    """Whether a name ends like a picture's, by Pillow's list of extensions."""
    suffix = Path(path).suffix.lower()
    return suffix in _HEIC or _of_pictures(Image.registered_extensions().get(suffix))


def _is_picture(path):
    suffix = Path(path).suffix.lower()
    if has_picture_name(path):
        return True
    with suppress(Exception):  # as in read_image
        if os.path.isfile(path):
            with Image.open(path) as picture:
                if _of_pictures(picture.format):  # a TIFF can be a camera's raw file or a slide,
                    return not suffix or picture.format != "TIFF"  # with a small preview
                return bool(picture.load())
    return False


def _of_pictures(format):
    """Is it one of Pillow's formats for pictures (not MPEG, PDF, HDF5, …)?"""
    return Image.MIME.get(format, "").startswith("image/")


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

    paths = list(paths)  # in blocks: a job takes longer to begin than a small file to be read
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    with ThreadPoolExecutor(CORES) as pool:
        found = pool.map(lambda block: [digest(path) for path in block], blocks)
        return [one for block in found for one in block]


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
