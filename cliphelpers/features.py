"""Features of an index's pictures, computed once and kept on disk."""

from collections import deque
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from threading import Lock
from time import monotonic

import numpy as np

from cliphelpers.cache import cache_folder, key_of, load_arrays, save_arrays
from cliphelpers.encoders.encoder import encode_batch, to_joint
from cliphelpers.images import ImageError, digests, read_image
from cliphelpers.parallel import CORES, thread_pool
from cliphelpers.progress import progress

_CPU_BATCH, _GPU_BATCH = 16, 128  # larger ones leave a CPU's caches: DeiT-Tiny took 1.1 x as long
SHARD, SECONDS = 1024, 20  # a file of features is written after so many pictures, or so long
SHARD_FORMAT = "3"  # part of every folder's name: raise it when shards change


def extract_features(encoder, index, rows=None, cache=None, batch=None):
    """Features of the pictures of an index.

    Pictures are decoded and resized by parallel threads, ahead of the encoder, and travel as
    uint8. What has been computed is kept on disk under the content of each picture and
    the encoder's key (weights, preprocessing, precision): an interrupted run goes on where it
    stopped, and renaming or moving pictures costs nothing.

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
        Pictures in a batch on the device; by default 16 on a CPU and 128 on a GPU.

    Returns
    -------
    float32 array, shape (N, D)
        Row i belongs to ``index.iloc[i]``.

    Raises
    ------
    ImageError
        A picture cannot be read; the message names it. What was computed before is kept.
    """
    folder = Path(cache or cache_folder()) / "features" / f"{SHARD_FORMAT}-{encoder.key[:32]}"
    paths = list(index.path if rows is None else index.path.iloc[rows])
    contents = digests(paths)
    known = _read_shards(folder)
    pictures = zip(contents, paths, strict=True)
    missing = {digest: path for digest, path in pictures if digest not in known}
    if missing:
        known.update(zip(missing, _compute(encoder, missing, folder, batch), strict=True))
    features = np.stack([known[digest] for digest in contents])
    features = to_joint(encoder, features) if encoder.joint else features
    if rows is None:
        return features
    whole = np.full((len(index), features.shape[1]), np.nan, np.float32)
    whole[rows] = features
    return whole


def _compute(encoder, pictures, folder, batch):
    """Features of pictures, a dict of digest to path, kept in the folder: float32 (N, D)."""
    batch = batch or (_CPU_BATCH if encoder.device == "cpu" else _GPU_BATCH)
    contents, features, done, saved, since = list(pictures), None, 0, 0, monotonic()
    try:
        for some in _encode(encoder, list(pictures.values()), batch):
            if features is None:  # one block: small ones kept among freed large ones pin the heap
                features = np.empty((len(contents), some.shape[1]), np.float32)
            features[done : done + len(some)] = some
            done += len(some)
            if done - saved >= SHARD or monotonic() - since >= SECONDS:
                _write_shard(folder, contents[saved:done], features[saved:done])
                saved, since = done, monotonic()
    except ImageError as error:
        raise ImageError(f"{error}. `cliphelpers check FOLDER` lists all such pictures") from error
    finally:  # an error or an interrupt loses no finished batch
        if done > saved:
            _write_shard(folder, contents[saved:done], features[saved:done])
    return features


def _encode(encoder, paths, batch):
    """Yield the features of each batch, in order.

    Each thread decodes a batch, waits for its turn on the device, and encodes it; on a CPU no one
    waits. At most two batches a thread are under way, so memory does not grow with the data.
    """
    turn = Lock() if encoder.device != "cpu" else nullcontext()

    def work(some):
        pictures = np.stack([encoder.preprocess(read_image(path)) for path in some])
        with turn:
            return encode_batch(encoder, pictures)

    with thread_pool() as pool, progress(total=len(paths), unit="image", desc=encoder.name) as bar:
        starts = range(0, len(paths), batch)
        waiting = (pool.submit(work, paths[start : start + batch]) for start in starts)
        ahead = deque(islice(waiting, 2 * CORES))
        while ahead:
            rows = ahead.popleft().result()
            ahead.extend(islice(waiting, 1))
            yield rows
            bar.update(len(rows))


def _read_shards(folder):
    """All that is kept in a folder: dict of picture digest to feature vector."""
    known = {}
    for path in sorted(folder.glob("*.npz")):
        if shard := load_arrays(path):  # a damaged one is deleted, its pictures computed again
            known.update(zip(shard["digests"].tolist(), shard["features"], strict=True))
    return known


def _write_shard(folder, contents, features):
    arrays = {"digests": np.array(contents), "features": features}
    save_arrays(folder / f"{key_of(contents)}.npz", arrays)
