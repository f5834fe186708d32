"""Bad pictures, bad files, kills and other people's data: one clear error, or the right numbers.

What each module's own test file already holds is not repeated here.
"""

import errno
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
import warnings
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as T

from cliphelpers import cache as cache_module
from cliphelpers import features as features_module
from cliphelpers.cache import kept
from cliphelpers.classifiers import NearestMean, Ridge, text_weights
from cliphelpers.command import main
from cliphelpers.command.run import NOTEBOOKS
from cliphelpers.encoders.encoder import Encoder, EncoderError, raw_pixels
from cliphelpers.encoders.load import load_encoder
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.features import extract_features
from cliphelpers.images import ImageError, read_image
from cliphelpers.index import index_images, prompt_names, summary
from cliphelpers.parallel import in_parallel
from cliphelpers.splits import Fold, few_shot, make_splits
from cliphelpers.study import Study

# ------------------------------------------------------------------------------- pictures


def test_a_decompression_bomb_is_refused_unopened(tmp_path):
    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 10 GiB of pixels
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(ImageError, match=r"Cannot read .*bomb.png: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_001), (20_000, 7)])
def test_a_dot_and_a_line_are_read_as_their_middle(tmp_path, monkeypatch, size):
    picture = Image.new("RGB", size, (0, 0, 255))
    x, y = (max(side // 2 - 300, 0) for side in size)
    picture.paste((250, 128, 0), (x, y, x + 600, y + 600))  # the crop sees no other colour
    picture.save(tmp_path / "a.png")
    made, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda *a, **k: made.append(resize(*a, **k)) or made[-1]
    )
    pixels = Preprocess(224, 256)(read_image(tmp_path / "a.png"))
    assert pixels.shape == (224, 224, 3) and (pixels == (250, 128, 0)).all()
    assert max(one.size[0] * one.size[1] for one in made) < 2_000_000  # not 256 x 5,120,000


@pytest.mark.parametrize("size", [(401, 20), (20, 402), (403, 21), (21, 404), (990, 33)])
def test_of_long_pictures_the_middle_is_that_of_torchvision(size):
    rng = np.random.default_rng(size[0])
    picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(size)
    reference = T.Compose([T.Resize(64, T.InterpolationMode.BICUBIC), T.CenterCrop(56)])
    expected = np.asarray(reference(picture)).astype(int)
    assert np.abs(Preprocess(56, 64)(picture) - expected).mean() < 1  # of a spread of 50


def test_heic_is_read_by_the_package_that_is_named(tmp_path):
    path = tmp_path / "a.heic"
    if "pillow_heif" in sys.modules:  # images.py imports it where it is installed
        Image.new("RGB", (32, 32), "red").save(path)
        assert read_image(path).getpixel((9, 9))[0] > 235
    else:
        path.write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(ImageError, match="a.heic: convert it .* pip install pillow-heif"):
            read_image(path)


LONG = "🍎" * 61 + "ä" + ".png"  # 250 bytes
NAMES = [LONG, os.fsdecode(b"not utf-8 \xff.png"), "'\"$(x) `y`\n.png", " .png"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES, ids=["long", "not UTF-8", "marks", "space"])
def test_a_name_of_any_bytes_goes_all_the_way(tmp_path, draw, name):
    assert len(os.fsencode(LONG)) == 250
    for label in ("a", "b"):
        for seed in range(3):
            draw(f"data/{label}/{seed}.png", seed=seed + 3 * (label == "b"))
    os.rename(tmp_path / "data/b/1.png", tmp_path / "data/b" / name)
    index = index_images(tmp_path / "data")
    assert str(tmp_path / "data/b" / name) in set(index.path)
    assert len(extract_features(raw_pixels(4), index, cache=tmp_path / "cache")) == 6
    assert len(few_shot(index, 3)) == 6
    assert main(["check", str(tmp_path / "data")]) == 0


def test_links_in_a_circle(tmp_path, draw):
    draw("data/a/1.png")
    draw("data/b/2.png", seed=2)
    data = tmp_path / "data"
    (data / "a" / "up").symlink_to(data)
    (data / "one").symlink_to(data / "other")
    (data / "other").symlink_to(data / "one")
    (data / "a" / "to b").symlink_to(data / "b")
    (data / "b" / "to a").symlink_to(data / "a")
    with pytest.warns(UserWarning, match="Files left out, no pictures: 6, such as .*data/a/"):
        index = index_images(data)
    names = ["a/1.png", "a/to b/2.png", "b/2.png", "b/to a/1.png"]
    assert list(index.path) == [str(data / name) for name in names]
    (data / "c").symlink_to(data)
    with (
        pytest.warns(
            UserWarning, match="Files left out, no pictures: 7, such as .*data/a/to b/to a"
        ),
        pytest.warns(UserWarning, match="Class folders left out, without a picture: 1, .*data/c"),
    ):
        assert list(index_images(data).path) == [str(data / name) for name in names]


def test_a_link_to_itself_is_named(tmp_path, draw):
    draw("data/a/1.png")
    draw("data/b/2.png", seed=2)
    (tmp_path / "data" / "b" / "self.png").symlink_to(tmp_path / "data" / "b" / "self.png")
    with pytest.raises(ImageError, match=r"self.png: Too many levels of symbolic links"):
        index = index_images(tmp_path / "data")
        extract_features(raw_pixels(4), index, cache=tmp_path / "cache")


def test_a_link_to_a_folder_elsewhere_is_a_class_like_any_other(tmp_path, draw):
    draw("data/a/1.png")
    draw("elsewhere/2.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert list(index_images(tmp_path / "data").label) == ["a", "b"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_folder_without_rights_is_named(
    tmp_path, draw, monkeypatch, capsys, command, same_process
):
    draw("data/a/1.png")
    secret = draw("data/b/secret/2.png").parent
    scandir = os.scandir

    def refuse(path="."):  # root may read all, so rights alone would not do
        if Path(path) == secret:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    data = str(tmp_path / "data")
    arguments = [data] if command == "check" else ["01", "--data", data]
    assert main([command, *arguments]) == 1
    error = capsys.readouterr().err
    assert f"Permission denied: '{secret}'" in error and error.count("\n") == 1


def test_a_single_class_is_refused(tmp_path, draw):
    draw("data/cat/1.png")
    draw("data/cat/2.png", seed=1)
    (tmp_path / "data" / "dog").mkdir()
    with (
        pytest.warns(UserWarning, match="Class folders left out, without a picture: 1, .*dog"),
        pytest.raises(ValueError, match="data are of one class, 'cat': there must be two to tell"),
    ):
        index_images(tmp_path / "data")


def test_classes_of_one_picture_each_cannot_be_tested(tmp_path, draw):
    for seed, label in enumerate("abc"):
        draw(f"data/{label}/1.png", seed=seed)
    with pytest.raises(ValueError, match="No class has two pictures, one to learn from"):
        make_splits(index_images(tmp_path / "data"), ["official"])


# ------------------------------------------------------------------------------- leakage


def test_the_same_picture_in_training_and_test_is_counted(tmp_path, draw):
    for seed, name in enumerate(["train/a/1", "train/a/2", "train/b/3", "test/a/4", "test/b/5"]):
        draw(f"data/{name}.png", seed=seed)
    data = tmp_path / "data"
    index = index_images(data)
    assert list(summary(index)["copies of training pictures"]) == [0, 0, 0]
    shutil.copy(data / "train/a/1.png", data / "test/b/stray.png")  # leaks
    shutil.copy(data / "test/a/4.png", data / "test/a/again.png")  # both in the test part
    with pytest.warns(UserWarning, match=r"1 pictures, 1 of them of the test part, are copies of "
                      r"training .*train/a/1.png and .*test/b/stray.png"):  # fmt: skip
        table = summary(index_images(data))
    assert table["copies of training pictures"].to_dict() == {"test": 1, "train": 0, "all": 1}
    assert table.pictures.to_dict() == {"test": 4, "train": 3, "all": 7}
    shutil.copy(data / "train/a/1.png", data / "train/a/again.png")  # leaks from clip to clip
    with pytest.warns(UserWarning, match=r"3 pictures, 1 of them of the test part"):
        table = summary(index_images(data))
    assert table["copies of training pictures"].to_dict() == {"test": 1, "train": 2, "all": 3}


def test_without_a_test_part_every_copy_counts(tmp_path, draw):
    for seed in range(4):
        draw(f"data/{'ab'[seed % 2]}/{seed}.png", seed=seed)
    shutil.copy(tmp_path / "data/a/0.png", tmp_path / "data/a/copy.png")
    with pytest.warns(UserWarning, match="2 pictures are copies of other pictures"):
        table = summary(index_images(tmp_path / "data"))
    assert list(table["copies of training pictures"]) == [2, 2]


def test_files_are_hashed_once_unless_they_change(tmp_path, draw, monkeypatch):
    for seed in range(4):
        draw(f"data/{'ab'[seed % 2]}/{seed}.png", seed=seed)
    index, read, reads = index_images(tmp_path / "data"), Path.read_bytes, []

    def counted(path):
        reads.append(str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    summary(index)
    assert sorted(reads) == sorted(index.path)
    extract_features(raw_pixels(4), index, cache=tmp_path / "cache")
    assert len(reads) == 4
    draw("data/a/0.png", seed=9)
    summary(index)
    assert reads[4:] == [str(tmp_path / "data/a/0.png")]


# ------------------------------------------------------------------------------- files


class Means(nn.Module):
    """Three numbers a picture, slowly, so that a kill hits the midst of the work."""

    def forward(self, x):
        time.sleep(0.005)
        return x.mean((2, 3))


def means(paths, cache):
    """The features of pictures by batches of two, each kept at once."""
    features_module.AT_ONCE = 2
    encoder = Encoder("means", Means(), Preprocess(8, 8), device="cpu")
    return {"X": extract_features(encoder, pd.DataFrame({"path": paths}), cache=cache, batch=2)}


@pytest.fixture
def paths(draw):
    return [str(draw(f"data/{i}.png", seed=i)) for i in range(24)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(
        features_module, "AT_ONCE", features_module.AT_ONCE
    )  # whatever means() sets


def test_no_space_left_names_the_file_and_loses_nothing(tmp_path, monkeypatch):
    write, left = Path.write_bytes, [3]

    def full(path, content):
        if left[0]:
            left[0] -= 1
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write(2): no file name

    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}.*npz'"):
        for number in range(5):
            kept("some", (number,), lambda: {"a": np.zeros(4)})
    assert len(list(tmp_path.rglob("*.npz"))) == 3 and not list(tmp_path.rglob("*.part"))


def test_a_cache_that_cannot_be_made_says_what_to_do(tmp_path, paths):
    (tmp_path / "file").write_text("no folder")
    cache = tmp_path / "file" / "cache"
    with pytest.raises(OSError, match="Features cannot be kept in .* set CLIPHELPERS_CACHE to a"):
        extract_features(raw_pixels(4), pd.DataFrame({"path": paths}), cache=cache)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits to set")
def test_no_space_left_for_features_names_the_file_and_loses_nothing(tmp_path, paths):
    import resource

    index, cache, pixels = pd.DataFrame({"path": paths}), tmp_path / "cache", raw_pixels(64)
    features_module.AT_ONCE = 2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))  # 12 pictures of 49 kB
    try:
        with pytest.raises(
            OSError, match=f"Features cannot be kept in {cache}.*sqlite: .*. make room"
        ):
            extract_features(pixels, index, cache=cache, batch=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert count_kept(cache) >= 6
    expected = extract_features(pixels, index, cache=tmp_path / "another")
    np.testing.assert_allclose(extract_features(pixels, index, cache=cache), expected)


@pytest.mark.parametrize("kind", ["below a file", "read-only"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path, fruits, monkeypatch, capsys, kind
):
    (tmp_path / "file").touch()
    output, mkdir = tmp_path / ("file" if kind == "below a file" else "ro") / "out", Path.mkdir

    def refuse(path, *args, **more):  # root may write all, so rights alone would not do
        if tmp_path / "ro" in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return mkdir(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["run", "03", "--data", str(fruits), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "Not a directory" in error or "Read-only file system" in error
    assert str(output) in error and error.count("\n") == 1


def change(content, rng):
    """The bytes of a file after an accident: a flipped byte, or some lost, added or blanked."""
    place, size = int(rng.integers(len(content))), int(rng.integers(1, 600))
    after = content[place + size :]
    return [
        content[:place]
        + bytes([content[place] ^ int(rng.integers(1, 256))])
        + content[place + 1 :],
        content[:place],
        content[:place] + after,
        content[:place] + rng.bytes(size) + content[place:],
        content[:place] + bytes(len(content) - place - len(after)) + after,
    ][rng.integers(5)]


def test_damage_at_any_place_of_the_cache_is_found_and_made_good(tmp_path, fruits):
    cache, index, rng = tmp_path / "cache", index_images(fruits), np.random.default_rng(3)
    splits, pixels = make_splits(index, ["official"]), raw_pixels(4)

    def run():
        study = Study("damage", index, splits)
        study.ask("ridge", Ridge([0.1]), pixels)
        study.run()
        return study.answers().scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(cache))
        expected, found = run(), 0
        for _ in range(50):
            files = sorted(cache.rglob("*.npz"))
            path = files[rng.integers(len(files))]
            whole = path.read_bytes()
            path.write_bytes(change(whole, rng))
            changed = path.read_bytes() != whole
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                np.testing.assert_allclose(run(), expected)
            told = [str(one.message) for one in seen]
            assert len(told) == changed and all(f"{path} is damaged" in text for text in told)
            found += len(told)
        assert found > 40


def test_what_an_older_version_kept_is_not_used(tmp_path, paths, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(cache))
    with monkeypatch.context() as old:
        old.setattr(cache_module, "_FEATURES_FORMAT", "0")
        old.setattr(cache_module, "CACHE_FORMAT", "0")
        old.setattr(Means, "forward", lambda self, x: x.mean((2, 3)) + 1)
        wrong = means(paths, cache)["X"]
        kept("kind", ("part",), lambda: {"a": np.zeros(2)})
    right = means(paths, cache)["X"]
    np.testing.assert_allclose(right, means(paths, tmp_path / "new")["X"])
    assert np.abs(right - wrong).min() > 0.9
    assert kept("kind", ("part",), lambda: {"a": np.ones(2)})["a"].tolist() == [1, 1]


class Bomb:
    """Its unpickling makes a folder, as it could do anything else."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_weights_of_srgan_that_would_execute_code_are_refused(tmp_path):
    from cliphelpers.srgan import load_generator  # the encoders' loaders: see test_encoders.py

    torch.save({"conv1.0.weight": Bomb(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="weights.pth .*pickled code, which is not executed"):
        load_generator(tmp_path / "weights.pth", "cpu")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "executed").exists()  # so the file was dangerous


# ------------------------------------------------------------------------------- kill -9


def enlarged(paths, cache):
    """Pictures through a small random SRGAN."""
    from cliphelpers.srgan import Generator

    torch.manual_seed(0)
    os.environ["CLIPHELPERS_CACHE"] = str(cache)
    generator = Generator(blocks=1).eval().requires_grad_(False)
    large = in_parallel(generator.enlarge, [read_image(path) for path in paths[:12]])
    return {path: np.asarray(picture) for path, picture in zip(paths, large, strict=False)}


def tuned(paths, cache):
    """A small encoder and head after three epochs of fine-tuning."""
    from cliphelpers.finetuning.training import Recipe, Training, fine_tune

    torch.manual_seed(0)
    os.environ["CLIPHELPERS_CACHE"] = str(cache)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    encoder = Encoder("small", network, Preprocess(8, 8), device="cpu")
    index = pd.DataFrame({"path": paths, "label": list("ab") * (len(paths) // 2)})
    head = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32), np.zeros(2, np.float32)
    rows = np.arange(len(paths))
    fold = Fold(rows[:16], rows[16:], rows[:0], seed=0)
    (done,) = fine_tune([Training(encoder, fold, index, Recipe(3, 4, rate=1e-3), head)])
    state = {name: value.numpy() for name, value in done.encoder.module.state_dict().items()}
    return state | {"W": done.head[0], "loss": done.curves.loss.to_numpy()}


def count_kept(cache):
    """How many features are kept in a cache."""
    count = 0
    for file in cache.rglob("*.sqlite"):
        with closing(sqlite3.connect(file, timeout=60)) as database:
            if database.execute("SELECT * FROM sqlite_master").fetchone():
                count += database.execute("SELECT count(*) FROM features").fetchone()[0]
    return count


def child(work, paths, cache, began):
    began.set()
    work(paths, cache)


@pytest.mark.parametrize("work", [means, enlarged, tuned])
def test_killed_at_any_moment_the_next_run_ends_with_the_right_numbers(
    tmp_path, paths, monkeypatch, forkserver, work
):
    monkeypatch.setenv("CLIPHELPERS_CACHE", "")  # works set it; the test's end restores it

    def start(cache):
        began = forkserver.Event()
        process = forkserver.Process(target=child, args=(work, paths, cache, began))
        process.start()
        assert began.wait(120)
        return process

    duration = 60
    expected, rng, killed, halfway = work(paths, tmp_path / "whole"), np.random.default_rng(), 0, 0
    for number in range(14):  # the first measures how long it takes
        cache = tmp_path / str(number)
        process, begin = start(cache), time.perf_counter()
        process.join(rng.uniform(0, duration) if number else duration)
        if process.exitcode is None:
            process.kill()
            process.join()
        else:
            duration = time.perf_counter() - begin
        killed += process.exitcode == -9
        some = any(cache.rglob("*.npz")) or count_kept(cache)
        halfway += bool(process.exitcode == -9 and some)
        found = work(paths, cache)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, err_msg=name)
    assert killed >= 4 and halfway >= 1


# ------------------------------------------------------------------------------- own images

WORDS = "label,name\nкот,cat\nсобака 2,big dog\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two classes, no clips, no test part; one class with a single picture; a copy; a table."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for label, count in (("кот", 6), ("собака 2", 1)):
        for number in range(count):
            path = folder / "my pictures" / label / f"{number} ü.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    shutil.copy(path.parent.parent / "кот" / "0 ü.png", path.parent.parent / "кот" / "copy.png")
    (folder / "my names.csv").write_text(WORDS, encoding="utf-8")
    return folder


SMALL = {"shots": [1, 4], "seeds": [0, 1], "strengths": [0.1], "names": "my names.csv"}


def arguments(encoders, output, *names):
    known = [name for name in SMALL if name != "names" or names != ("03",)]
    given = {name: SMALL[name] for name in known} | {"encoders": encoders}
    pairs = [part for name, value in given.items() for part in ("-p", name, repr(value))]
    return ["run", *names, "--data", "my pictures", *pairs, "--output", output]


def listening(processes):
    """Addresses at which the processes and their children listen, and how many they are."""
    family = {
        one.pid
        for process in processes
        for one in [process, *process.children(recursive=True)]
        if one.is_running()
    }
    every = psutil.net_connections("inet")
    return {c.laddr.ip for c in every if c.pid in family and c.status == psutil.CONN_LISTEN}, family


def test_two_runs_at_once_on_one_cache_agree_and_listen_to_this_machine_alone(
    own, clip_vit, timm_spec
):
    before = set(NOTEBOOKS.glob("kernel-*"))
    environment = os.environ | {"CLIPHELPERS_CACHE": str(own / "cache"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        "import sys; from cliphelpers.command import main; sys.exit(main())",
    ]
    runs = [
        subprocess.Popen(
            [*command, *arguments([f"clip:{clip_vit}"], output, "03")],
            cwd=own, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )
        for output in ("one", "two")
    ]  # fmt: skip
    watched, addresses, most = [psutil.Process(run.pid) for run in runs], set(), 0
    while any(run.poll() is None for run in runs):
        try:
            found, family = listening([one for one in watched if one.is_running()])
        except psutil.NoSuchProcess:
            continue
        addresses, most = addresses | found, max(most, len(family))
        time.sleep(1)
    for run in runs:
        assert run.wait() == 0
    assert most >= 4  # two runs, two kernels
    assert addresses <= {"127.0.0.1", "::1"}
    tables = [(own / name / "results" / "03_linear_probe_clip.csv") for name in ("one", "two")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    table = pd.read_csv(tables[0])
    assert set(table.split) == {"random", "by_look"} and set(table.n) == {7}  # all but the only one
    book = (own / "one" / "notebooks" / "03_linear_probe_clip.ipynb").read_text(encoding="utf-8")
    assert "2 pictures are copies of other pictures" in book
    assert set(NOTEBOOKS.glob("kernel-*")) <= before, "a kernel's sockets lie among the notebooks"


def test_two_classes_one_with_a_single_picture_run_through_the_other_notebooks(
    own, clip_vit, timm_spec, monkeypatch
):
    monkeypatch.chdir(own)
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(own / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ["01_zero_shot", "02_k_shot", "04_linear_probe_imagenet", "05_fine_tune_clip"]
    names += ["06_fine_tune_imagenet", "07_upsampling"]
    small = {"quarter": 5, "sides": [10], "compared": 4, "epochs": 1}
    small = [part for name, value in small.items() for part in ("-p", name, repr(value))]
    assert main([*arguments([f"clip:{clip_vit}", timm_spec], "three", *names), *small]) == 0
    for name in names:
        table = pd.read_csv(own / "three" / "results" / f"{name}.csv")
        table = table[table.metric.str.startswith("top-")]
        assert set(table.split) <= {"random", "by_look"} and "random" in set(table.split)
        assert set(table.dataset) == {"my pictures"}
        assert table.value.between(-1, 1).all()
    assert prompt_names(["кот", "собака 2"], own / "my names.csv") == ["cat", "big dog"]


def test_a_thousand_classes(tmp_path, clip_vit, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in range(1000):
        (tmp_path / "data" / f"class {label:04}x").mkdir(parents=True)
        tint = rng.integers(0, 256, 3)
        for number in range(3):
            pixels = (tint + rng.integers(-3, 4, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / f"class {label:04}x" / f"{number}.bmp")
    index = index_images(tmp_path / "data")
    with pytest.warns(UserWarning, match="instead of by_group the split is by_look"):
        splits = make_splits(index, ["by_group"])
    assert [len(fold.test) for fold in splits["by_look"]] == [600] * 5  # 3 looks a class
    assert all(len(fold.train) >= 1000 for fold in splits["by_look"])
    study = Study("many", index, splits, top=(1, 5))
    study.ask("nearest mean", NearestMean(), raw_pixels(2))
    table = study.run()
    assert 0.2 < table.value[0] < table.value[1] and list(table.metric) == ["top-1", "top-5"]
    words = prompt_names(sorted(set(index.label)))
    assert len(set(words)) == 1000
    weights = text_weights(load_encoder(f"clip:{clip_vit}"), words, ["a photo of a {}."])
    assert weights.shape == (1000, 32)
