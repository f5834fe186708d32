"""Downloading Fruits-360, checked, so that a broken transfer or unpacking leaves nothing half."""

import stat
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch
import requests

from cliphelpers.images import check_images

ARCHIVE = "fruits-360-2020.05.18.zip"
COMMIT = "ffda2d14eada57a0c5537700190b309cfea2e120"
URL = f"https://codeload.github.com/Horea94/Fruit-Images-Dataset/zip/{COMMIT}"
CLASSES = 131
PICTURES = {"Training": 67_692, "Test": 22_688}


class DownloadError(RuntimeError):
    """Fruits-360 cannot be had or is not whole. The message says what to do."""


def download_fruits_360(folder):
    """Download Fruits-360, edition 2020.05.18: 131 classes, 67,692 + 22,688 pictures of 100x100.

    The source is the authors' repository Horea94/Fruit-Images-Dataset at commit ffda2d1. Its readme
    there states this edition and these numbers, and public code of others that pins this commit
    asserts the 131 classes; the archive itself was out of our reach when this was written.
    GitHub makes the archive anew at times, so that it has no lasting checksum. What is checked
    instead is the checksum of every member, the classes, the number of pictures and that each of
    them can be read.

    The archive lies beside the folder, where one fetched by hand is taken too, and is deleted at
    the end. Of a broken transfer nothing stays.

    Parameters
    ----------
    folder : str or Path
        The folder to make, with Training/ and Test/. It appears when all is unpacked and checked.
        If it is already there and holds pictures, it is checked only.

    Returns
    -------
    Path
        The folder, for :func:`cliphelpers.index.index_images`.

    Raises
    ------
    DownloadError
        No connection, a damaged or unsafe archive, or not the whole edition.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        _check(folder, folder)
        return folder
    archive = folder.absolute().parent / ARCHIVE
    print(f"Fetching {URL} to {folder}")
    pooch.get_logger().setLevel("WARNING")  # it would advise on the checksum that there is not
    try:
        pooch.retrieve(URL, None, ARCHIVE, archive.parent, progressbar=True)
        _install(archive, folder)
        archive.unlink()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive} is damaged ({error}): delete it and try again") from error
    except OSError as error:  # requests' errors are among them
        offline = isinstance(error, requests.ConnectionError | requests.Timeout)
        raise DownloadError(
            f"Cannot bring {URL} to {folder} ({'no connection' if offline else error}). Try again; "
            f"or fetch it by hand, put it at {archive} and try again; or unpack it by hand so that "
            f"Training and Test are in {folder}: that folder is what index_images takes"
        ) from error
    return folder


def _install(archive, folder):
    """Unpack Training and Test beside the wanted folder, check, and rename."""
    beside = TemporaryDirectory(dir=archive.parent, prefix=f".{folder.name}-")
    with beside as temporary, zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            names = member.filename.removesuffix("/").split("/")  # to lie inside on every system:
            inside = all(name.strip(".") and not set(name) & set("\\:") for name in names)
            if not inside or stat.S_ISLNK(member.external_attr >> 16):
                raise DownloadError(f"{archive} is unsafe and not unpacked: {member.filename!r}")
            if PICTURES.keys() & names[1:2]:
                packed.extract(member, temporary)
        unpacked = next(Path(temporary).iterdir(), Path(temporary))
        _check(unpacked, archive)
        if folder.is_dir():
            folder.rmdir()  # it is empty; Windows does not rename onto it
        unpacked.rename(folder)


def _check(folder, source):
    """Refuse the source of a folder in which anything is missing or cannot be read."""
    if fault := next(_faults(folder), None):
        raise DownloadError(
            f"{source} is not the whole edition 2020.05.18 of Fruits-360: {fault}. "
            "Remove it, or choose another folder, and try again"
        )


def _faults(folder):
    """Yield, in words, what is wrong with an unpacked folder."""
    found = {part: sorted((folder / part).glob("*/*.jpg")) for part in PICTURES}
    training, test = ({path.parent.name for path in paths} for paths in found.values())
    if len(training | test) != CLASSES:
        yield f"it has {len(training | test)} classes, not {CLASSES}"
    for label in sorted(training ^ test):
        yield f"{label!r} is not in both Training and Test"
    for part, paths in found.items():
        if len(paths) != PICTURES[part]:
            yield f"{part} has {len(paths)} pictures, not {PICTURES[part]}"
    checked = check_images(sum(found.values(), []))
    for one in checked[checked.width == 0].itertuples():
        yield f"{one.path.relative_to(folder)} cannot be read ({one.problem})"
