"""Features of an index's pictures, computed once and kept on disk."""

import json
import os
import posixpath
import sqlite3
import warnings
import zlib
from collections import deque
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from threading import Lock
from time import monotonic

import numpy as np
import torch

from cliphelpers.cache import cache_folder, kept_name, located
from cliphelpers.encoders.encoder import EncoderError, encode_batch, to_joint
from cliphelpers.images import ImageError, digests, read_image
from cliphelpers.parallel import CORES, thread_pool
from cliphelpers.progress import progress

_CPU_BATCH, _GPU_BATCH = 16, 128  # larger ones leave a CPU's caches: DeiT-Tiny took 1.1 x as long
AT_ONCE, SECONDS = 1024, 20  # features are kept after so many pictures, or so long
_TABLE = "CREATE TABLE IF NOT EXISTS features (digest TEXT PRIMARY KEY, vector BLOB, crc INTEGER)"
_WANTED = "SELECT key, vector, crc FROM json_each(?) JOIN features ON digest = value"


def extract_features(encoder, index, rows=None, cache=None, batch=None):
    """Features of the pictures of an index.

    Pictures are decoded and resized by parallel threads, ahead of the encoder, and travel as
    uint8. What has been computed is kept on disk, in a SQLite file for each encoder's key (weights,
    preprocessing, precision), under the content of each picture: an interrupted run goes on where
    it stopped, renaming or moving pictures costs nothing, and only the pictures that are asked for
    are read. What ``cliphelpers extract`` has written is taken, too: see :func:`kept_elsewhere`.

    Parameters
    ----------
    encoder : Encoder
        Of a CLIP the features are those before the projection, which probes use (CLIP paper,
        section 3.2), or the joint embedding, which zero-shot uses: see
        :func:`cliphelpers.encoders.encoder.joint`. Both come from one computation.
    index : DataFrame
        Only the column ``path`` is used.
    rows : int array, optional
        Positions of the pictures that are wanted; the array's other rows are not a number. By
        default all.
    cache : str or Path, optional
        Folder; by default :func:`cliphelpers.cache.cache_folder`.
    batch : int, optional
        Pictures in a batch on the device; by default 16 on a CPU and 128 on a GPU. It is halved
        until it fits into a GPU's memory.

    Returns
    -------
    float32 array, shape (N, D)
        Row i belongs to ``index.iloc[i]``.

    Raises
    ------
    ImageError
        A picture cannot be read; the message names it. What was computed before is kept.
    EncoderError
        A GPU's memory does not hold the encoder and one picture.
    ValueError
        There are no pictures.
    OSError
        Features cannot be kept, as on a full disk.
    """
    file = Path(cache or cache_folder()) / "features" / f"{kept_name(encoder)}.sqlite"
    paths = list(index.path if rows is None else index.path.iloc[rows])
    if not paths:
        raise ValueError("There are no pictures to take features of")
    contents = digests(paths)
    pictures = dict(zip(contents, paths, strict=True))
    known = _read(file, pictures)
    known |= kept_elsewhere(encoder, pictures.keys() - known.keys())
    missing = {digest: path for digest, path in pictures.items() if digest not in known}
    if missing:
        known.update(zip(missing, _compute(encoder, missing, file, batch), strict=True))
    features = np.stack([known[digest] for digest in contents])
    features = to_joint(encoder, features) if encoder.joint else features
    if rows is None:
        return features
    whole = np.full((len(index), features.shape[1]), np.nan, np.float32)
    whole[rows] = features
    return whole


def _compute(encoder, pictures, file, batch):
    """Features of pictures, a dict of digest to path, kept in the file: float32 (N, D)."""
    batch = batch or (_CPU_BATCH if encoder.device == "cpu" else _GPU_BATCH)
    contents, features, done, saved, since = list(pictures), None, 0, 0, monotonic()
    try:
        for some in _encode(encoder, list(pictures.values()), batch):
            if features is None:  # one block: small ones kept among freed large ones pin the heap
                features = np.empty((len(contents), some.shape[1]), np.float32)
            features[done : done + len(some)] = some
            done += len(some)
            if done - saved >= AT_ONCE or monotonic() - since >= SECONDS:
                _write(file, contents[saved:done], features[saved:done])
                saved, since = done, monotonic()
    except ImageError as error:
        raise ImageError(f"{error}. `cliphelpers check FOLDER` lists all such pictures") from error
    finally:  # an error or an interrupt loses no finished batch
        if done > saved:
            _write(file, contents[saved:done], features[saved:done])
    return features


def _encode(encoder, paths, batch):
    """Yield the features of each batch, in order.

    Each thread decodes a batch, brings it to the device, waits for its turn there, and encodes it;
    on a CPU no one waits. At most two batches a thread are under way, so memory does not grow with
    the data.
    """
    turn = nullcontext() if encoder.device == "cpu" else Lock()
    cuda = torch.device(encoder.device).type == "cuda"
    copies = torch.cuda.Stream(encoder.device) if cuda else None

    def work(some):
        nonlocal batch
        pictures = np.stack([encoder.preprocess(read_image(path)) for path in some])
        pictures = torch.from_numpy(pictures)
        if cuda:  # copied while the device computes another batch
            with torch.cuda.stream(copies):
                pictures = pictures.pin_memory().to(encoder.device, non_blocking=True)
            copies.synchronize()
        while True:
            try:
                with turn:
                    parts = [encode_batch(encoder, part) for part in pictures.split(batch)]
                return np.concatenate(parts)
            except torch.OutOfMemoryError as error:
                if batch == 1:
                    words = f"The memory of {encoder.device} does not hold {encoder.name} and one"
                    raise EncoderError(f"{words} picture: use a smaller encoder") from error
            batch = -(-batch // 2)

    with thread_pool() as pool, progress(total=len(paths), unit="image", desc=encoder.name) as bar:
        starts = range(0, len(paths), batch)
        waiting = (pool.submit(work, paths[start : start + batch]) for start in starts)
        ahead = deque(islice(waiting, 2 * CORES))
        while ahead:
            rows = ahead.popleft().result()
            ahead.extend(islice(waiting, 1))
            yield rows
            bar.update(len(rows))


# ---------------------------------------------------------------------------- what is kept


@contextmanager
def _database(file):
    """A connection to an encoder's file; what is written is kept as a whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            database.text_factory = bytes  # only damage makes a text of a vector
            database.execute(_TABLE)
            yield database
    except (sqlite3.OperationalError, OSError) as error:
        if str(error).startswith("no such"):  # column: a name is damaged
            raise sqlite3.DatabaseError(str(error)) from error
        todo = "make room, or set CLIPHELPERS_CACHE to a folder on a local disk"
        raise OSError(f"Features cannot be kept in {file}: {error}. {todo}") from error


def _read(file, contents):
    """Those of some pictures that are kept in a file: dict of digest to float32 (D,).

    A damaged row or file is deleted, with a warning, so that its content is computed again.
    """
    contents, known, damaged = list(contents), {}, []
    try:
        with _database(file) as database:
            for number, vector, crc in database.execute(_WANTED, [json.dumps(contents)]):
                digest = contents[number]
                if isinstance(vector, bytes) and _crc(digest, vector) == crc:
                    known[digest] = np.frombuffer(vector, np.float32)
                else:
                    damaged.append([digest])
            database.executemany("DELETE FROM features WHERE digest = ?", damaged)
    except sqlite3.DatabaseError:
        known, damaged = {}, [file]
        file.unlink(missing_ok=True)  # another process has done so
    if damaged:
        warnings.warn(f"{file} is damaged; its content is computed again", stacklevel=3)
    return known


def _write(file, contents, features):
    """Keep the features of pictures, float32 (N, D)."""
    vectors = [np.float32(vector).tobytes() for vector in features]
    pairs = zip(contents, vectors, strict=True)
    rows = [(digest, vector, _crc(digest, vector)) for digest, vector in pairs]
    with _database(file) as database:
        database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)


def _crc(digest, vector):
    return zlib.crc32(digest.encode() + vector)


def kept_elsewhere(encoder, contents):
    """Those of some pictures that ``cliphelpers extract`` has written, on whatever machines.

    Parameters
    ----------
    encoder : Encoder
    contents : iterable of str
        Digests: see :func:`cliphelpers.images.digests`.

    Returns
    -------
    dict of str to float32 array, shape (D,)
        Of the Parquet files below the address in the environment variable CLIPHELPERS_FEATURES, a
        folder or any address that pyarrow and fsspec know; nothing if it is not set, nor of what
        ``extract`` does not make: baselines, fine-tuned encoders, and pictures enlarged otherwise.

    Raises
    ------
    OSError
        There are no features of this encoder.
    """
    address = os.environ.get("CLIPHELPERS_FEATURES")
    if not address or not contents:
        return {}
    from pyarrow import dataset  # here, since few have such files

    system, folder = located(address)
    files = posixpath.join(folder, kept_name(encoder))
    try:
        table = dataset.dataset(files, filesystem=system, format="parquet")
    except FileNotFoundError as error:
        other = encoder.features.partition(", ")[2] not in ("", encoder.precision)  # such as srgan
        if not encoder.spec or encoder.tuned or other:
            return {}
        todo = f"run `cliphelpers extract --encoder {encoder.spec}`, or unset the variable"
        words = f"CLIPHELPERS_FEATURES is {address}, which has no features of {encoder.name}"
        raise OSError(f"{words}: {todo}") from error
    wanted = dataset.field("digest").isin(list(contents)) & dataset.field("features").is_valid()
    digest, vectors = table.to_table(["digest", "features"], wanted).columns
    return dict(zip(digest.to_pylist(), vectors.to_numpy(), strict=True))
