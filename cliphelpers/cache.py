"""What is computed once and kept: the folder, addresses, keys, and files that are never half."""

import hashlib
import io
import os
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from uuid import uuid4

import joblib
import numpy as np
import pooch

# Part of every key or name: raise one when what is kept, or how it is computed, changes.
CACHE_FORMAT, _FEATURES_FORMAT = "1", "4"
# Python 3.11's parser, which reads the heads of arrays, fails at times in two threads (gh-106905).
_ONE_AT_A_TIME = Lock()
_DAY = 86_400  # seconds


def cache_folder():
    """The folder of what is kept: $CLIPHELPERS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("CLIPHELPERS_CACHE") or pooch.os_cache("cliphelpers"))


def kept_name(encoder):
    """What an encoder's kept features are called: those of another key cannot mix with them."""
    return f"{_FEATURES_FORMAT}-{encoder.key[:32]}"


@cache  # it can ask the network where a bucket lies
def located(address):
    """The file system of an address that pyarrow knows, or of a local path, and the path there."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(address) if "://" in address else (fs.LocalFileSystem(), address)


def key_of(*parts):
    """A key of values, arrays (by content), lists, dicts and objects of them: 40 hex digits."""
    return joblib.hash((CACHE_FORMAT, *parts), hash_name="sha1")


def write_atomically(path, content):
    """Write bytes so that the file is there as a whole or not at all, whoever else writes.

    A link stays one, and what is no file, such as a device or a pipe, is just written to.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        Path(path).write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_parts(path.parent)
    part = path.with_name(f"{path.name[:8]}.{uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # of a system that can only be read
            part.unlink()
        if isinstance(error, OSError):  # one of writing, such as a full disk, names no file
            error.filename = str(path)
        raise


@cache
def _remove_parts(folder):
    """Remove, once a process, what was half written a day ago: nobody goes on with that."""
    for part in folder.glob("*.part"):
        with suppress(OSError):  # another process does the same
            if time.time() - part.stat().st_mtime > _DAY:
                part.unlink()


def write_table(path, table, **form):
    """Write a DataFrame, without its index, as a CSV file; names of files need not be text."""
    text = table.to_csv(index=False, lineterminator="\n", **form)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def as_bytes(save, /, **options):
    """What ``save(file, **options)`` writes into a file."""
    file = io.BytesIO()
    save(file, **options)
    return file.getvalue()


def save_arrays(path, arrays):
    """Write a dict of names to arrays atomically, after the SHA-256 of the file's other bytes."""
    content = as_bytes(np.savez, **arrays)
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load_arrays(path):
    """What :func:`save_arrays` wrote; None if there is no such file, or if it is damaged.

    A damaged file is deleted, with a warning, so that its content is computed again.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        warnings.warn(f"{path} is damaged; its content is computed again", stacklevel=2)
        Path(path).unlink(missing_ok=True)
        return None
    with _ONE_AT_A_TIME:
        return dict(np.load(io.BytesIO(content[32:])))


def kept(kind, parts, compute):
    """The arrays that ``compute()`` returns, computed only if they are not on disk already.

    Parameters
    ----------
    kind : str
        Folder below the cache folder.
    parts : tuple
        All that the arrays depend on: see :func:`key_of`.
    compute : function
        Returns a dict of names to arrays.

    Returns
    -------
    dict of str to array
    """
    path = kept_path(kind, parts)
    arrays = load_arrays(path)
    if arrays is None:
        arrays = compute()
        save_arrays(path, arrays)
    return arrays


def kept_path(kind, parts):
    """The file of what :func:`kept` keeps: Path."""
    return cache_folder() / kind / f"{key_of(*parts)}.npz"
