"""cliphelpers.features: right rows, computed once, whatever happens to the run or its files."""

import os
import shutil
import signal
import sqlite3
import threading
import time
import warnings
import weakref
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cliphelpers import features as module_under_test
from cliphelpers import parallel
from cliphelpers.cache import cache_folder
from cliphelpers.encoders.encoder import Encoder, EncoderError, encode_batch, joint, normalize
from cliphelpers.encoders.load import load_encoder
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.features import extract_features
from cliphelpers.images import ImageError, digests, read_image
from cliphelpers.index import index_images
from cliphelpers.upsampling import with_upsampling

LOCK = threading.Lock()


def size_of(encoder):
    """D, the length of an encoder's feature vectors."""
    side = encoder.preprocess.size
    return encode_batch(encoder, np.zeros((1, side, side, 3), np.uint8)).shape[1]


class Counting(nn.Module):
    """Three numbers a picture; counts its pictures, and breaks down after some batches."""

    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(seed).normal(size=3)))
        self.pictures, self.batches_left = 0, np.inf

    def forward(self, x):
        with LOCK:  # batches come from several threads
            if self.batches_left == 0:
                raise KeyboardInterrupt
            self.batches_left -= 1
            self.pictures += len(x)
        return x.mean((2, 3)) * self.weight.float()


@pytest.fixture
def encoder():
    return Encoder("counting", Counting(), Preprocess(8, 8, "bilinear"), device="cpu")


@pytest.fixture
def index(draw):
    """24 pictures in no special order."""
    paths = [str(draw(f"data/{i}.png", seed=i)) for i in np.random.default_rng(0).permutation(24)]
    return pd.DataFrame({"path": paths})


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def often(monkeypatch):
    """Features are kept after two batches of 4, so several times for a few pictures."""
    monkeypatch.setattr(module_under_test, "AT_ONCE", 8)


def by_hand(encoder, index):
    """One picture after the other, without any of the machinery."""
    pictures = [encoder.preprocess(read_image(path))[None] for path in index.path]
    return np.concatenate([encode_batch(encoder, picture) for picture in pictures])


def computed(encoder, index, cache, **more):
    """The features and how many pictures were computed for them."""
    before = encoder.module.pictures
    features = extract_features(encoder, index, cache=cache, **more)
    return features, encoder.module.pictures - before


def files(cache):
    return sorted(Path(cache).rglob("*.sqlite"))


def count_kept(cache):
    (file,) = files(cache)
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT count(*) FROM features").fetchone()[0]


# ------------------------------------------------------------------------------- the right rows


def test_rows_are_the_index_s(encoder, index, cache):
    features, count = computed(encoder, index, cache, batch=5)
    assert features.dtype == np.float32 and count == 24
    np.testing.assert_allclose(features, by_hand(encoder, index), rtol=1e-5)


def test_any_order_subset_and_duplicates(encoder, index, cache):
    rows = np.array([3, 17, 3, 3, 0, 23, 17, 8])
    expected = by_hand(encoder, index)
    features, count = computed(encoder, index.iloc[rows], cache)
    np.testing.assert_allclose(features, expected[rows], rtol=1e-5)
    assert count == 5
    features, count = computed(encoder, index.iloc[::-1], cache)
    np.testing.assert_allclose(features, expected[::-1], rtol=1e-5)
    assert count == 24 - 5


def test_two_files_of_the_same_content_are_computed_once(encoder, index, cache, tmp_path):
    copy = shutil.copy(index.path[0], tmp_path / "copy.png")
    features, count = computed(encoder, pd.DataFrame({"path": [index.path[0], str(copy)]}), cache)
    assert count == 1 and np.array_equal(features[0], features[1])


def test_the_joint_embedding(clip_vit, index, cache):
    encoder = load_encoder(f"clip:{clip_vit}")
    before = extract_features(encoder, index, cache=cache)
    after = extract_features(joint(encoder), index, cache=cache)
    assert before.shape == (24, 64) and after.shape == (24, 32)
    expected = before @ encoder.projection.weight.cpu().numpy().T
    np.testing.assert_allclose(after, encoder.logit_scale * normalize(expected), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), encoder.logit_scale, rtol=1e-5)
    assert len(files(cache)) == 1  # both are from one computation


def test_only_the_rows_that_are_wanted_are_computed(encoder, index, cache):
    rows = np.array([20, 3, 7])
    before = encoder.module.pictures
    features = extract_features(encoder, index, rows, cache)
    assert features.shape == (24, 3) and encoder.module.pictures - before == 3
    assert np.flatnonzero(np.isfinite(features).all(1)).tolist() == [3, 7, 20]
    assert np.isnan(features).all(1).sum() == 21
    np.testing.assert_allclose(features[rows], by_hand(encoder, index.iloc[rows]), rtol=1e-5)


# ------------------------------------------------------------------------------- computed once


def test_what_is_kept_is_not_computed_again(encoder, index, cache, often):
    first, _ = computed(encoder, index, cache, batch=4)
    again, count = computed(encoder, index, cache, batch=4)
    assert count == 0 and np.array_equal(first, again)
    assert count_kept(cache) == 24


def test_moving_and_renaming_pictures_computes_nothing(encoder, index, cache, tmp_path):
    first, _ = computed(encoder, index, cache)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    paths = [path.replace("/data/", "/elsewhere/") for path in index.path]
    os.rename(paths[2], tmp_path / "elsewhere" / "new name.png")
    paths[2] = str(tmp_path / "elsewhere" / "new name.png")
    again, count = computed(encoder, pd.DataFrame({"path": paths}), cache)
    assert count == 0 and np.array_equal(first, again)


def test_a_changed_picture_alone_is_computed_again(encoder, index, cache, draw):
    first, _ = computed(encoder, index, cache)
    old = os.stat(index.path[5])
    draw(f"data/{Path(index.path[5]).name}", seed=99)
    os.utime(index.path[5], ns=(old.st_atime_ns, old.st_mtime_ns))  # the date does not tell
    again, count = computed(encoder, index, cache)
    assert count == 1
    assert np.flatnonzero((first != again).any(1)).tolist() == [5]
    np.testing.assert_allclose(again[5:6], by_hand(encoder, index[5:6]), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"module": Counting(seed=1)},
        {"precision": "bf16"},
        {"preprocess": Preprocess(8, 9, "bilinear")},
        {"preprocess": Preprocess(8, 8, "bilinear", mean=(0.5, 0.5, 0.5))},
    ],
)
def test_another_encoder_has_features_of_its_own(encoder, index, cache, change):
    first, _ = computed(encoder, index, cache)
    other = replace(encoder, **change)
    features, count = computed(other, index, cache)
    assert count == 24
    np.testing.assert_allclose(features, by_hand(other, index), rtol=1e-2)
    again, count = computed(encoder, index, cache)
    assert count == 0 and np.array_equal(first, again)


def test_another_name_is_the_same_encoder(encoder, index, cache):
    computed(encoder, index, cache)
    assert computed(replace(encoder, name="renamed"), index, cache)[1] == 0


def test_the_cache_s_place(encoder, index, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "from environment"))
    assert cache_folder() == tmp_path / "from environment"
    extract_features(encoder, index)
    assert len(files(tmp_path / "from environment")) == 1
    monkeypatch.delenv("CLIPHELPERS_CACHE")
    assert "cliphelpers" in str(cache_folder()) and str(tmp_path) not in str(cache_folder())


# ------------------------------------------------------------------------------- accidents


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_where_it_stopped(
    encoder, index, cache, often, tmp_path, batches, monkeypatch
):
    monkeypatch.setattr(parallel, "CORES", 1)  # with more, batches under way are lost too
    whole, _ = computed(encoder, index, tmp_path / "another cache", batch=4)
    encoder.module.batches_left = batches
    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, index, cache=cache, batch=4)
    encoder.module.batches_left = np.inf
    features, count = computed(encoder, index, cache, batch=4)
    assert count == 24 - batches * 4
    assert np.array_equal(features, whole)


def extract_until_killed(index, cache, batches):
    """Every batch takes longer than may be lost; the process dies as by a lack of memory."""

    class Dying(Counting):
        def forward(self, x):
            if self.pictures == batches * len(x):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    module_under_test.SECONDS, parallel.CORES, module_under_test.CORES = 0, 1, 1
    encoder = Encoder("counting", Dying(), Preprocess(8, 8, "bilinear"), device="cpu")
    extract_features(encoder, index, cache=cache, batch=4)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("batches", [4, 5])
def test_a_killed_run_loses_only_what_was_computed_since_it_was_kept(
    index, cache, forkserver, batches
):
    killed = forkserver.Process(target=extract_until_killed, args=(index, cache, batches))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    assert batches * 4 - 12 <= count_kept(cache) <= batches * 4


def test_features_are_kept_by_the_clock_too(encoder, index, cache, monkeypatch):
    times, sizes = iter(range(0, 1000, 7)), []  # a batch takes 7 s

    def noting(file, contents, features):
        sizes.append(len(contents))
        write(file, contents, features)

    write = module_under_test._write
    monkeypatch.setattr(module_under_test, "_write", noting)
    monkeypatch.setattr(module_under_test, "monotonic", lambda: next(times))
    monkeypatch.setattr(module_under_test, "SECONDS", 20)
    first, _ = computed(encoder, index, cache, batch=2)
    assert sum(sizes) == 24 and len(sizes) > 2 and max(sizes) <= 6
    again, count = computed(encoder, index, cache)
    assert count == 0 and np.array_equal(first, again)


def cells(cache):
    """Where in the file its vectors lie: (file, first byte, length) of each."""
    (file,) = files(cache)
    with closing(sqlite3.connect(file)) as database:
        vectors = [row[0] for row in database.execute("SELECT vector FROM features")]
    return [(file, file.read_bytes().index(vector), len(vector)) for vector in vectors]


@pytest.mark.parametrize("place", np.random.default_rng(7).integers(12 * 24, size=20).tolist())
def test_a_flipped_byte_of_a_vector_is_found_and_it_is_made_again(encoder, index, cache, place):
    first, _ = computed(encoder, index, cache)
    file, start, _ = cells(cache)[place // 12]
    content = bytearray(file.read_bytes())
    content[start + place % 12] ^= 1 + place % 255
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged; its content is computed"):
        again, count = computed(encoder, index, cache)
    assert count == 1 and np.array_equal(first, again)
    assert computed(encoder, index, cache)[1] == 0


def test_a_byte_flipped_anywhere_makes_no_wrong_feature(encoder, index, cache):
    first, _ = computed(encoder, index, cache)
    (file,) = files(cache)
    whole, rng = file.read_bytes(), np.random.default_rng(8)
    for place in [*range(0, 100, 4), *rng.integers(len(whole), size=50)]:
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(computed(encoder, index, cache)[0], first)
        assert computed(encoder, index, cache)[1] == 0


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_truncated_file_is_found_and_made_again(encoder, index, cache, share):
    first, _ = computed(encoder, index, cache)
    (file,) = files(cache)
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.warns(UserWarning, match="is damaged"):
        again, count = computed(encoder, index, cache)
    assert count == 24 and np.array_equal(first, again)
    assert computed(encoder, index, cache)[1] == 0


def test_a_few_pictures_do_not_read_what_else_is_kept(encoder, index, cache):
    """Reading 4 of many takes what they take alone, not what all of them take."""
    few = index[:4]
    first, _ = computed(encoder, few, cache)
    (file,) = files(cache)
    rng = np.random.default_rng(0)
    others = [rng.bytes(32).hex() for _ in range(20_000)]
    module_under_test._write(file, others, rng.normal(size=(20_000, 3)))
    steps = []
    connect = sqlite3.connect

    def watched(*args, **more):
        database = connect(*args, **more)
        database.set_progress_handler(lambda: steps.append(1), 10)  # of SQLite's machine
        return database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", watched)
        again, count = computed(encoder, few, cache)
    assert count == 0 and np.array_equal(first, again)
    assert len(steps) < 100


# ------------------------------------------------------------------------------- more machines


def extracted(encoder, index, folder, error=None):
    """Write features as ``cliphelpers extract`` does, of one picture none but an error."""
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"digest": digests(index.path), "features": [*by_hand(encoder, index)]})
    table["error"] = ""
    if error is not None:
        table.loc[error, ["features", "error"]] = None, "the file is no picture"
    place = folder / module_under_test.kept_name(encoder)
    place.mkdir(parents=True)
    table[::2].to_parquet(place / "b.parquet")
    table[1::2].to_parquet(place / "a.parquet")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_other_machines_have_extracted_is_taken(
    encoder, index, cache, tmp_path, monkeypatch, scheme
):
    extracted(encoder, index, tmp_path / "extracted", error=7)
    monkeypatch.setenv("CLIPHELPERS_FEATURES", f"{scheme}{tmp_path / 'extracted'}")
    features, count = computed(encoder, index[::-1], cache)
    assert count == 1  # the one with an error there
    np.testing.assert_allclose(features, by_hand(encoder, index[::-1]), rtol=1e-5)


def test_features_of_another_encoder_are_not_taken(encoder, index, cache, tmp_path, monkeypatch):
    extracted(encoder, index, tmp_path / "extracted")
    monkeypatch.setenv("CLIPHELPERS_FEATURES", str(tmp_path / "extracted"))
    other = replace(encoder, module=Counting(seed=1), spec="timm:other")
    with pytest.raises(OSError, match="CLIPHELPERS_FEATURES is .*no features of counting: run"):
        computed(other, index, cache)


@pytest.mark.parametrize("kind", ["a baseline", "fine-tuned", "shrunk", "lanczos"])
def test_what_nobody_can_extract_is_computed_here(
    encoder, index, cache, tmp_path, monkeypatch, kind
):
    extracted(encoder, index, tmp_path / "extracted")
    monkeypatch.setenv("CLIPHELPERS_FEATURES", str(tmp_path / "extracted"))
    other = replace(encoder, module=Counting(seed=1), spec="timm:other", tuned=kind == "fine-tuned")
    if kind == "a baseline":
        other.spec = ""
    if kind in ("shrunk", "lanczos"):
        way = ("lanczos",) if kind == "lanczos" else ("bicubic", 8)
        other = with_upsampling(other, *way)
    features, count = computed(other, index, cache)
    assert count == len(index)
    np.testing.assert_allclose(features, by_hand(other, index), rtol=1e-5)


# ------------------------------------------------------------------------------- a device's memory


class Small(Counting):
    """A device whose memory holds so many pictures."""

    def __init__(self, most):
        super().__init__()
        self.most, self.batches = most, []

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        with LOCK:
            self.batches.append(len(x))
        return super().forward(x)


def test_a_batch_that_does_not_fit_is_halved_once_for_all(index, cache, monkeypatch):
    monkeypatch.setattr(parallel, "CORES", 1)
    encoder = Encoder("large", Small(3), Preprocess(8, 8, "bilinear"), device="cpu")
    features, count = computed(encoder, index, cache, batch=12)
    assert count == 24 and encoder.module.batches == [3] * 8
    np.testing.assert_allclose(features, by_hand(encoder, index), rtol=1e-5)


def test_a_picture_that_does_not_fit_is_one_clear_error(index, cache):
    encoder = Encoder("too large", Small(0), Preprocess(8, 8, "bilinear"), device="cpu")
    with pytest.raises(EncoderError, match="memory of cpu does not hold too large and one picture"):
        extract_features(encoder, index, cache=cache)


def test_a_picture_that_cannot_be_read_stops_but_what_was_done_is_kept(encoder, index, cache):
    good = Path(index.path[13]).read_bytes()
    Path(index.path[13]).write_text("no picture")
    with pytest.raises(ImageError) as caught:
        extract_features(encoder, index, cache=cache, batch=4)
    assert f"Cannot read {index.path[13]}: the file is no picture" in str(caught.value)
    assert "`cliphelpers check" in str(caught.value)
    Path(index.path[13]).write_bytes(good)
    features, count = computed(encoder, index, cache, batch=4)
    assert count == 24 - 12  # three batches came before it
    np.testing.assert_allclose(features, by_hand(encoder, index), rtol=1e-5)


def test_a_missing_picture_is_named(encoder, index, cache):
    os.remove(index.path[4])
    with pytest.raises(ImageError, match=f"Cannot read {index.path[4]}: No such file"):
        extract_features(encoder, index, cache=cache)


def extract_at_once(index, cache, file, barrier):
    module_under_test.AT_ONCE = 4
    encoder = Encoder("counting", Counting(), Preprocess(8, 8, "bilinear"), device="cpu")
    barrier.wait(120)
    np.save(file, extract_features(encoder, index, cache=cache, batch=2))


def test_two_processes_at_once_do_no_harm(encoder, index, cache, tmp_path, forkserver):
    barrier = forkserver.Barrier(2)  # once both are there: off they go
    processes = [
        forkserver.Process(target=extract_at_once, args=(part, cache, tmp_path / name, barrier))
        for name, part in (("a.npy", index), ("b.npy", index[::-1]))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    expected = by_hand(encoder, index)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, rtol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), expected[::-1], rtol=1e-5)
    features, count = computed(encoder, index, cache)
    assert count == 0 and count_kept(cache) == 24
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_pictures_prepared_ahead_stay_few(index, cache, monkeypatch):
    """A slow encoder is never more than two batches a core behind, whatever the number."""
    prepared, encoded, ahead, lock = 0, 0, [], threading.Lock()

    class Slow(Counting):
        def forward(self, x):
            nonlocal encoded
            time.sleep(0.02)
            with lock:
                encoded += len(x)
            return super().forward(x)

    class Noting(Preprocess):
        def __call__(self, picture):
            nonlocal prepared
            with lock:
                prepared += 1
                ahead.append(prepared - encoded)
            return super().__call__(picture)

    monkeypatch.setattr(module_under_test, "CORES", 2)
    monkeypatch.setattr(parallel, "CORES", 2)
    encoder = Encoder("slow", Slow(), Noting(8, 8, "bilinear"), device="cpu")
    extract_features(encoder, index, cache=cache, batch=2)
    assert len(ahead) == 24 and 2 < max(ahead) <= (2 * 2 + 1) * 2


def test_the_features_of_a_batch_are_not_kept_as_a_small_array(index, cache, monkeypatch):
    """Kept between the large ones of a network, they pinned the heap: 0.1 MB a picture of a ViT."""
    batches, alive = [], []

    def noting(encoder, pictures):
        features = encode_batch(encoder, pictures)
        with LOCK:
            batches.append(weakref.ref(features))
            alive.append(sum(batch() is not None for batch in batches))
        return features

    monkeypatch.setattr(module_under_test, "CORES", 2)
    monkeypatch.setattr(parallel, "CORES", 2)
    monkeypatch.setattr(module_under_test, "encode_batch", noting)
    encoder = Encoder("small", Counting(), Preprocess(8, 8, "bilinear"), device="cpu")
    extract_features(encoder, index, cache=cache, batch=1)
    assert len(alive) == 24 and max(alive) <= 2 * 2 + 2


def test_the_encoder_does_not_wait_for_one_picture_after_the_other(index, cache, monkeypatch):
    """Reading takes place in several threads, and while the encoder works."""
    threads = set()

    class Noting(Preprocess):
        def __call__(self, picture):
            threads.add(threading.get_ident())
            time.sleep(0.005)
            return super().__call__(picture)

    monkeypatch.setattr(parallel, "CORES", 4)
    encoder = Encoder("noting", Counting(), Noting(8, 8, "bilinear"), device="cpu")
    extract_features(encoder, index, cache=cache, batch=8)
    assert len(threads) > 1 and threading.get_ident() not in threads


def test_a_whole_folder(fruits, timm_spec, cache):
    encoder, index = load_encoder(timm_spec), index_images(fruits)
    features = extract_features(encoder, index, cache=cache, batch=10)
    some = np.arange(0, 72, 5)  # of every class, clip and part
    assert features.shape == (72, size_of(encoder))
    np.testing.assert_allclose(features[some], by_hand(encoder, index.iloc[some]), atol=1e-4)
