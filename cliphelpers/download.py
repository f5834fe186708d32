"""Downloading Fruits-360, checked, so that a broken transfer or unpacking leaves nothing half."""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from tqdm import tqdm

from cliphelpers.images import check_images

ARCHIVE = "fruits-360-2020.05.18.zip"
CHUNK = 1 << 16  # bytes; what a broken transfer loses at most


class Edition(NamedTuple):
    """Where an archive is and what must be in it."""

    url: str
    classes: int
    pictures: dict  # of part to number of pictures


EDITION = Edition(
    "https://codeload.github.com/Horea94/Fruit-Images-Dataset/zip/"
    "ffda2d14eada57a0c5537700190b309cfea2e120",
    131,
    {"Training": 67_692, "Test": 22_688},
)


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

    A broken transfer goes on where it stopped if the server can do that, which GitHub's often
    cannot: then it starts again. The archive lies beside the folder and is deleted at the end.

    Parameters
    ----------
    folder : str or Path
        The folder to make, with Training/ and Test/. It appears when all is unpacked and checked.
        If it is already there and holds pictures, it is checked only.

    Returns
    -------
    Path
        The folder, for :func:`cliphelpers.data.index_images`.

    Raises
    ------
    DownloadError
        No connection, a damaged or unsafe archive, or not the whole edition.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        verify_fruits_360(folder)
        return folder
    archive = folder.absolute().parent / ARCHIVE
    _fetch(archive, folder, EDITION.url)
    _install(archive, folder, EDITION)
    archive.unlink()
    return folder


def verify_fruits_360(folder):
    """Check that a folder holds the whole edition 2020.05.18 and that every picture can be read.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    DownloadError
        It does not.
    """
    if fault := _fault(Path(folder), EDITION):
        raise DownloadError(
            f"{folder} is not the whole edition 2020.05.18 of Fruits-360: {fault}. "
            "Remove it and download again, or choose another folder"
        )


def _fetch(archive, folder, url):
    """Have the archive; one that is there already is taken."""
    source = pooch.create(archive.parent, "", registry={ARCHIVE: None}, urls={ARCHIVE: url})
    part = archive.with_name(f"{ARCHIVE}.part")
    try:
        source.fetch(ARCHIVE, downloader=partial(_resume, part))
    except OSError as error:  # requests' errors are among them
        raise DownloadError(
            f"Cannot download {url} ({_reason(error)}). Run the command again; or fetch it by "
            f"hand, put it at {archive} and run the command again; or unpack it by hand to "
            f"{folder}, so that Training and Test are in it: that folder is what index_images takes"
        ) from error


def _resume(part, url, output_file, pooch):
    """Download as pooch asks, by way of a file that an interrupted transfer leaves to go on from.

    Parameters
    ----------
    part : Path
        That file. The others are what pooch passes.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=60) as response:
        if response.status_code != 416:  # that is: nothing is left to send
            response.raise_for_status()
            have = have if response.status_code == 206 else 0
            _save(response, part, have)
    os.replace(part, output_file)


def _save(response, part, have):
    """Write what comes behind the first ``have`` bytes, with a progress bar."""
    length = response.headers.get("Content-Length")  # GitHub does not always say
    total = have + int(length) if length else None
    with (
        open(part, "ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=ARCHIVE) as bar,
    ):
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _reason(error):
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "no connection"
    if isinstance(error, requests.RequestException):
        return "the connection broke; what came is kept"
    return error.strerror or str(error)


def _install(archive, folder, edition):
    """Unpack into a temporary folder beside the wanted one, check, and rename."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{folder.name}-") as temporary:
        unpacked = Path(temporary, folder.name)
        try:
            _unpack(archive, unpacked, edition.pictures)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DownloadError(
                f"{archive} is damaged ({error}): delete it and run the command again"
            ) from error
        except OSError as error:
            raise DownloadError(f"Cannot unpack {archive} to {folder}: {error.strerror}") from error
        if fault := _fault(unpacked, edition):
            raise DownloadError(
                f"{archive} is not the whole edition 2020.05.18 of Fruits-360: {fault}. "
                "Delete it and run the command again"
            )
        if folder.is_dir():
            folder.rmdir()  # it is empty; Windows does not rename onto it
        unpacked.rename(folder)


def _unpack(archive, folder, parts):
    """Write the pictures of the parts to folder/part/class/name; all else stays packed."""
    with zipfile.ZipFile(archive) as packed:
        for member in tqdm(packed.infolist(), unit="file", desc="Unpacking"):
            _, *names = member.filename.split("/")
            if member.is_dir() or not names or names[0] not in parts:
                continue
            if not _is_safe(member, names):
                raise DownloadError(f"{archive} is unsafe and not unpacked: {member.filename!r}")
            target = folder.joinpath(*names)
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)


def _is_safe(member, names):
    """Is a member a file (no link), and would it come to lie in the folder on every system?"""
    mode = stat.S_IFMT(member.external_attr >> 16)
    inside = all(name not in ("", ".", "..") and not set(name) & set("\\:") for name in names)
    return mode in (0, stat.S_IFREG) and inside


def _fault(folder, edition):
    """What an unpacked folder lacks, in words, or ""."""
    paths = {part: sorted((folder / part).glob("*/*.jpg")) for part in edition.pictures}
    counts = {part: Counter(path.parent.name for path in paths[part]) for part in paths}
    classes = sorted(set().union(*counts.values()))
    if len(classes) != edition.classes:
        return f"it has {len(classes)} classes, not {edition.classes}"
    for part, expected in edition.pictures.items():
        if lacking := [label for label in classes if label not in counts[part]]:
            return f"{part} has no pictures of {lacking[0]!r}"
        if len(paths[part]) != expected:
            return f"{part} has {len(paths[part])} pictures, not {expected}"
    bad = check_images([str(path) for part in paths.values() for path in part])
    if len(bad):
        first = Path(bad.path[0]).relative_to(folder).as_posix()
        return f"{len(bad)} pictures cannot be read, first {first} ({bad.problem[0]})"
    return ""
