"""Features of any number of pictures on any number of machines, by Ray Data.

A job goes through a list of pictures with the digest of each. Tasks decode and preprocess them,
actors encode them, and the features are written as Parquet files. What is done is known by digest,
so that a job that was stopped goes on where it was, and a lost machine costs its last blocks alone.
What needs torch is imported where it is used: the processes that decode are many, and small so.
"""

import logging
import os
import posixpath
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256

import numpy as np

from cliphelpers.cache import kept_name, key_of, located
from cliphelpers.images import find_images, has_picture_name, read_image
from cliphelpers.parallel import join_cluster
from cliphelpers.tables import listed_paths

try:
    import pyarrow as pa
    import ray.data.checkpoint
    from pyarrow import dataset, fs
except ImportError as error:
    raise RuntimeError("extract takes more packages: pip install -e '.[cluster]'") from error

_BLOCK = 256  # pictures that are decoded and encoded at once
_POOL = ThreadPoolExecutor(16)  # a picture on another machine is long in coming
_LIST = {"path": pa.binary(), "name": pa.string(), "offset": pa.int64(), "size": pa.int64(),
         "bytes": pa.large_binary(), "digest": pa.string(), "error": pa.string()}  # fmt: skip


def extract(data, spec, output, address=None):
    """Write the features of pictures as Parquet files, which ``extract_features`` takes.

    The files lie in ``output/<kept_name(encoder)>/``, with the columns ``digest`` (SHA-256 of a
    picture's bytes), ``features`` (list of float32; of a CLIP before the projection) and ``error``
    (""). A picture that cannot be read is a row with its error alone, and the next run tries it
    again. Copies are computed as often as they are listed. Beside these files lie ``manifests/``
    and ``checkpoints/``, with which a job that was stopped, given again, goes on.

    Parameters
    ----------
    data : str
        A local path, or an address that pyarrow knows, such as ``s3://``, ``gs://`` and
        ``fsspec+…://``, which tests try:

        - a folder of pictures, or a local CSV file that lists them;
        - a Parquet file, or a folder of such: a row for each picture, with the column ``path`` (an
          address, or from the manifest's folder) or ``bytes``, and ``digest``, as above, if it is
          known: else every picture is read once more, before the others;
        - a .tar file of WebDataset's, or a folder of such.
    spec : str
        See :func:`cliphelpers.encoders.load.load_encoder`. Only this machine reads the weights.
    output : str
        Path or address; all machines must see a local one as the same folder.
    address : str, optional
        Of a Ray cluster, such as ``ray://head:10001``, whose machines have this package; by default
        the one that this process uses already, what RAY_ADDRESS says, or this machine alone. Start
        its head with GRPC_ENABLE_FORK_SUPPORT=0 set, else it fails now and then to serve those
        outside (ray-project/ray#60316).

    Returns
    -------
    tuple of (int, list of str)
        How many pictures have got features, and the errors of those that have none.

    Raises
    ------
    EncoderError
        The encoder cannot be made.
    ValueError, OSError
        There are no pictures, or they cannot be listed.
    RuntimeError
        The job was stopped by an error, and what is written is kept, or no cluster answers.
    """
    from cliphelpers.encoders.load import load_encoder

    encoder = load_encoder(spec, device="cpu")
    data, output = (one if "://" in one else os.path.abspath(one) for one in (data, output))
    join_cluster(address)
    if not ray.util.client.ray.is_connected():
        return _work(encoder, data, output)
    try:  # Ray Data cannot be led from outside the cluster
        return ray.get(ray.remote(num_cpus=0)(_work).remote(ray.put(encoder), data, output))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _work(encoder, data, output):
    """What ``extract`` does, in a process of the cluster."""
    name, key = kept_name(encoder), key_of(data)
    system, folder = located(output)
    target, done = posixpath.join(folder, name), posixpath.join(folder, "checkpoints", name, key)
    before = _files(system, target)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it tells of each step
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # else it says no more than that there was one
    context.use_datasource_v2 = False  # it starts 32 processes to read
    try:
        listed = _list_pictures(data, system, posixpath.join(folder, "manifests", key))
        _encode(encoder, *listed, system, target, done)
    except ray.exceptions.RayError as error:
        words = (str(getattr(error, "cause", error)).strip() or repr(error)).splitlines()[0]
        raise RuntimeError(f"{words}\nWhat is written is kept: the same goes on") from error
    new = sorted({*_files(system, target)} - {*before})  # none if all was there
    table = dataset.dataset(new, pa.schema({"error": pa.string()}), "parquet", system)
    errors = table.to_table(filter=dataset.field("error") != "")["error"].to_pylist()
    return table.count_rows() - len(errors), errors


# ------------------------------------------------------------------------------- what there is


def _files(system, folder):
    """Paths of the files in a folder and below, or of the file that it is."""
    if system.get_file_info(folder).is_file:
        return [folder]
    if isinstance(system, fs.LocalFileSystem):  # names of any bytes
        return [os.path.join(place, one) for place, _, names in os.walk(folder) for one in names]
    chosen = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return [one.path for one in system.get_file_info(chosen) if one.is_file]


def _list_pictures(data, system, folder):
    """Parquet files of a row for each picture with its digest, which are written if need be.

    Returns
    -------
    tuple of (str, FileSystem, FileSystem, str)
        The files' folder, or the only file, and their file system; that of the pictures, and the
        folder that their paths are from.
    """
    source, place = located(data)
    files = _files(source, place)
    base = ""  # what is found here has whole paths
    tables, shards = ([one for one in files if one.endswith(end)] for end in (".parquet", ".tar"))
    if tables:
        base = posixpath.dirname(place) if place in files else place
        columns = set(dataset.dataset(tables, filesystem=source).schema.names)
        if not columns & {"path", "bytes"}:
            raise ValueError(f"{data} needs the column path or bytes, but has {sorted(columns)}")
        if "digest" in columns:
            return place, source, source, base
        rows = ray.data.read_parquet(place, filesystem=source)
    else:
        if place in files and place.lower().endswith(".csv"):
            files = listed_paths(place)
        elif isinstance(source, fs.LocalFileSystem) and not shards:
            files = find_images(place)
        else:
            files = shards or [*filter(has_picture_name, files)]
        if not files:
            raise ValueError(f"There are no pictures in {data}")
        rows = ray.data.from_arrow(pa.table({"path": [os.fsencode(one) for one in files]}))
    rows = rows.repartition(target_num_rows_per_block=1 if shards else _BLOCK)
    rows = rows.map_batches(partial(_find, source=source, base=base), batch_format="pyarrow")
    rows.write_parquet(folder, filesystem=system, mode=ray.data.SaveMode.OVERWRITE)
    return folder, system, source, base


def _find(batch, source, base):
    """From paths and contents to pictures and their digests: tables of the columns _LIST."""
    found = _POOL.map(partial(_known, source=source, base=base), batch.to_pylist())
    return pa.Table.from_pylist(sum(found, []), pa.schema(_LIST))


def _known(row, source, base):
    """The rows of a picture, or of those in a .tar file, with their digests: list of dict."""
    try:
        if not _name(row).endswith(".tar"):
            return [row | {"digest": sha256(_content(row, source, base)).hexdigest()}]
        with source.open_input_file(row["path"]) as file, tarfile.open(fileobj=file) as shard:
            return [
                row | {"name": f"{_name(row)}/{one.name}",
                       "offset": one.offset_data, "size": one.size,
                       "digest": sha256(shard.extractfile(one).read()).hexdigest()}
                for one in shard if one.isfile() and has_picture_name(one.name)
            ]  # fmt: skip
    except (OSError, ValueError, tarfile.TarError) as error:
        return [row | {"digest": _name(row), "error": f"Cannot read {_name(row)}: {error}"}]


def _name(row):
    """What a picture is called in errors."""
    path = os.fsdecode(row.get("path") or "").encode("utf-8", "backslashreplace").decode()
    return row.get("name") or path or row.get("digest", "bytes")


def _content(row, source, base):
    """The bytes of a picture."""
    if row.get("bytes") is not None:
        return row["bytes"]
    folder, name = posixpath.split(os.fsdecode(row["path"]))
    source, base = located(folder) if "://" in folder else (source, posixpath.join(base, folder))
    with source.open_input_file(os.fsencode(posixpath.join(base, name))) as file:
        return file.read() if row.get("size") is None else file.read_at(row["size"], row["offset"])


# ------------------------------------------------------------------------------- the work


def _encode(encoder, manifest, listed, source, base, system, folder, done):
    """Write the features of the pictures that Parquet files list, but for those that are done."""
    cores, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    decode = partial(_decode, preprocess=encoder.preprocess, source=source, base=base)
    rows = ray.data.read_parquet(manifest, filesystem=listed)
    rows.context.checkpoint_config = ray.data.checkpoint.CheckpointConfig(
        "digest", done, delete_checkpoint_on_success=False, override_filesystem=system
    )
    rows = rows.repartition(target_num_rows_per_block=_BLOCK)
    rows = rows.map_batches(decode, batch_format="pyarrow")
    rows = rows.map_batches(
        _Actor, fn_constructor_args=[replace(encoder, text=None, tokenizer=None, projection=None)],
        compute=ray.data.ActorPoolStrategy(size=gpus or cores), num_cpus=0, num_gpus=min(gpus, 1),
        batch_size=128 if gpus else 16,
    )  # fmt: skip
    total = dataset.dataset(_files(listed, manifest), filesystem=listed).count_rows()
    # 10,000 files of features at most, if nothing is stopped
    rows.write_parquet(folder, filesystem=system, min_rows_per_file=max(_BLOCK, total // 10_000))


def _decode(batch, preprocess, source, base):
    """From rows of pictures to what the encoder takes: black, with an error, where it cannot be."""

    def read(row):
        try:
            content = _content(row, source, base)
            if sha256(content).hexdigest() != row["digest"]:
                raise ValueError(f"The digest of {_name(row)} is not the SHA-256 of its content")
            return preprocess(read_image(_name(row), content)), ""
        except (OSError, ValueError) as error:  # ImageError is one
            black = np.zeros((preprocess.size, preprocess.size, 3), np.uint8)
            return black, row.get("error") or str(error)

    pictures, errors = zip(*_POOL.map(read, batch.to_pylist()), strict=True)
    return {"digest": batch["digest"], "error": np.array(errors), "pictures": np.stack(pictures)}


class _Actor:
    """Holds the encoder, and takes blocks of pictures."""

    def __init__(self, encoder):
        from cliphelpers.encoders.encoder import default_device, encode_batch

        self.encode = partial(encode_batch, replace(encoder, device=default_device()))

    def __call__(self, batch):
        features, errors = self.encode(batch["pictures"]), batch["error"]
        known = np.where(errors == "", batch["digest"], "")  # so that others are tried again
        vectors = pa.array(list(features), pa.list_(pa.float32()), mask=errors != "")
        return pa.table({"digest": known, "features": vectors, "error": errors})
