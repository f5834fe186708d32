"""Features on several machines: a real Ray cluster of three nodes, which all tests share.

A job's processes start anew, which is most of these tests' time: hence few jobs.
"""

import hashlib
import io
import os
import pickle
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

os.environ |= {  # read at the import; the token is else a file in the home folder
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip
ray = pytest.importorskip("ray", reason="Ray is missing: pip install -e '.[cluster]'")
from pyarrow import dataset, fs  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from cliphelpers import cluster as module_under_test  # noqa: E402
from cliphelpers import extract_features, features  # noqa: E402
from cliphelpers.cache import kept_name  # noqa: E402
from cliphelpers.command import main  # noqa: E402
from cliphelpers.encoders.encoder import encode_batch  # noqa: E402
from cliphelpers.encoders.load import load_encoder  # noqa: E402
from cliphelpers.finetuning import training as trained  # noqa: E402
from cliphelpers.finetuning import workers  # noqa: E402
from cliphelpers.finetuning.training import FineTuneError, Recipe, Training, fine_tune  # noqa: E402
from cliphelpers.images import read_image  # noqa: E402
from cliphelpers.index import index_images  # noqa: E402
from cliphelpers.parallel import join_cluster  # noqa: E402
from cliphelpers.splits import make_splits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, of its threads and sockets


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


CLIENT = free_port()  # the cluster's, for those outside
FRUITS = sorted((Path(__file__).parents[1] / "data" / "fruits-mini").rglob("*.jpg"))
SLOW = """
import os, time
from dataclasses import replace
from pathlib import Path
from torch import nn
from cliphelpers.encoders.load import load_encoder

class Slow(nn.Module):
    # Tells how many pictures each process has seen.
    def __init__(self, inner, log):
        super().__init__()
        self.inner, self.log = inner, log

    def forward(self, pictures):
        with open(f"{self.log}/{os.getpid()}", "a") as file:
            file.write(f"{len(pictures)}\\n")
        time.sleep(0.05 * len(pictures))
        return self.inner(pictures)

def encoder(file):
    weights, log = file.split("+")
    encoder = load_encoder(f"clip:{weights}")
    return replace(encoder, module=Slow(encoder.module, log))
"""
FAULTY = """
from dataclasses import replace
from torch import nn
from cliphelpers.encoders.load import load_encoder

class Faulty(nn.Module):
    def forward(self, pictures):
        raise RuntimeError("no such kernel\\n(and much more)")

def encoder(file):
    return replace(load_encoder(f"clip:{file}"), module=Faulty())
"""


def patiently(make):
    """Ray gives a node's agents 15 seconds to start, which is little while others compute."""
    for _ in range(5):
        try:
            return make()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return make()


@pytest.fixture(scope="module")
def cluster():
    """Three nodes: one that leads, and two of one core each, of which the first stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # else the head's fork can crash: ray#60316
        node = {"num_cpus": 1, "object_store_memory": 2**28}
        head = node | {
            "num_cpus": 0, "include_dashboard": False, "ray_client_server_port": CLIENT,
            "_system_config": {"num_workers_soft_limit": 8},  # idle ones
        }  # fmt: skip
        started = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(2):
            patiently(lambda: started.add_node(**node))
        patch.setenv("RAY_ADDRESS", started.address)
        ray.init(log_to_driver=False)  # once: each job's processes start anew
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module_under_test, "_BLOCK", 20)


@pytest.fixture
def pictures(tmp_path):
    """A folder of 160 pictures, no two the same."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, path in enumerate(FRUITS[:: len(FRUITS) // 160][:160]):
        shutil.copy(path, folder / f"{number:03}.jpg")
    return folder


@pytest.fixture
def slow(tmp_path, clip_vit):
    """Spec of an encoder that takes its time, and the folder where it notes what it does."""
    log = tmp_path / "log"
    log.mkdir()
    (tmp_path / "slow.py").write_text(SLOW)
    return f"module:{tmp_path / 'slow.py'}@{clip_vit}+{log}", log


def index_of(folder):
    return pd.DataFrame({"path": [str(path) for path in sorted(folder.iterdir())]})


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def by_hand(spec, paths):
    encoder = load_encoder(spec, device="cpu")
    squares = np.stack([encoder.preprocess(read_image(path)) for path in paths])
    return encode_batch(encoder, squares)


def written(output, spec):
    place = output / kept_name(load_encoder(spec, device="cpu"))
    return dataset.dataset(place, format="parquet").to_table().to_pandas()


def assert_complete(output, spec, folder):
    """All of the folder's pictures, each once, as they are computed here."""
    table, paths = written(output, spec), index_of(folder).path
    table = table[table.error == ""].set_index("digest")
    assert sorted(table.index) == sorted(map(digest, paths))
    found = np.stack(table.features[[digest(path) for path in paths]])
    np.testing.assert_allclose(found, by_hand(spec, paths), atol=1e-6)


def until(condition, seconds=600):  # on a machine that others use, too
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def seen(log):
    """How many pictures the slow encoder has been given."""
    return sum(int(line) for path in log.iterdir() for line in path.read_text().split())


# ------------------------------------------------------------------------------- inputs


def shards(folder, place):
    """WebDataset's: two .tar files with a label beside each picture."""
    place.mkdir()
    paths = sorted(folder.iterdir())
    for number, some in enumerate([paths[:80], paths[80:]]):
        with tarfile.open(place / f"{number:06}.tar", "w") as tar:
            for path in some:
                for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.cls", b"3")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return place


def manifest(paths, place, **columns):
    """A Parquet file that lists pictures: by paths of each kind, and by their bytes."""
    names = [f"pictures/{Path(path).name}" for path in paths]
    names[1] = f"file://{paths[1]}"
    table = pd.DataFrame({"path": names, "label": "fruit"} | columns)
    table["bytes"] = [
        Path(path).read_bytes() if row % 4 == 3 else None for row, path in enumerate(paths)
    ]
    table.loc[3::4, "path"] = None
    table.to_parquet(place)
    return f"fsspec+file://{place}"


# ------------------------------------------------------------------------------- hard days


@pytest.fixture
def buckets():
    """Addresses in a bucket of Amazon's kind and in one of Google's, in which {} stands for a name,
    and their file systems."""
    amazon = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    emulated, port = pytest.importorskip("gcp_storage_emulator.server"), free_port()
    google = emulated.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    amazon.start()
    google.start()
    gs = f"gs://anonymous@bucket/{{}}?endpoint_override=127.0.0.1:{port}"
    gs += "&scheme=http&retry_limit_seconds=9"
    host, port = amazon.get_host_and_port()
    s3 = f"s3://key:secret@bucket/{{}}?endpoint_override={host}:{port}"
    s3 += "&scheme=http&allow_bucket_creation=true"
    systems = [fs.FileSystem.from_uri(one.format(""))[0] for one in (s3, gs)]
    systems[0].create_dir("bucket")
    yield (s3, gs), systems
    amazon.stop()
    google.stop()


KILLED = """
import sys
from cliphelpers import cluster, command
cluster._BLOCK = 20
command.main(sys.argv[1:])
"""
OUTSIDE = """
import os, sys
from cliphelpers.command import main
*job, address = sys.argv[1:]
nobody = main([*job, "ray://127.0.0.1:1"])
done = main([*job, address])
empty = main([*[one.replace("/some", "/none") for one in job], address])
sys.exit([nobody, done, empty] != [1, 0, 1])
"""


def test_what_a_killed_driver_left_is_done_from_far_away(
    cluster, tmp_path, pictures, slow, buckets, monkeypatch
):
    (source, target), (theirs, system) = buckets
    fs.copy_files(str(shards(pictures, tmp_path / "shards")), "bucket/some fruit",
                  destination_filesystem=theirs)  # fmt: skip
    place, output, (spec, log) = source.format("some%20fruit"), target.format("out"), slow
    job = ["extract", "--data", place, "--encoder", spec, "--output", output]
    driver = subprocess.Popen([sys.executable, "-c", KILLED, *job])

    def committed():
        chosen = fs.FileSelector("bucket/out/checkpoints", recursive=True, allow_not_found=True)
        paths = [one.path for one in system.get_file_info(chosen) if one.is_file]
        return [one for one in paths if one.endswith(".parquet") and ".pending." not in one]

    try:
        until(committed)
    finally:
        driver.kill()
        driver.wait()
    time.sleep(3)  # until its actors are dead, too
    done = dataset.dataset(committed(), filesystem=system).count_rows()
    assert 0 < done < 160
    before = seen(log)
    job = [sys.executable, "-c", OUTSIDE, *job, "--address", f"ray://127.0.0.1:{CLIENT}"]
    ended = subprocess.run(job, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "pictures have got features; 0 have none" in ended.stdout
    assert "cliphelpers: The Ray cluster ray://127.0.0.1:1 cannot be used: " in ended.stderr
    assert f"cliphelpers: There are no pictures in {source.format('none%20fruit')}" in ended.stderr
    assert seen(log) - before == 160 - done
    encoder, index = load_encoder(spec, device="cpu"), index_of(pictures)
    written = dataset.dataset(f"bucket/out/{kept_name(encoder)}", filesystem=system).to_table()
    assert sorted(written["digest"].to_pylist()) == sorted(map(digest, index.path))
    monkeypatch.setenv("CLIPHELPERS_FEATURES", output)
    monkeypatch.setattr(features, "encode_batch", None)  # nothing is computed
    taken = extract_features(encoder, index, cache=tmp_path / "cache")
    np.testing.assert_allclose(taken, by_hand(spec, index.path), atol=1e-6)


@pytest.fixture
def lesson(fruits, clip_vit, tmp_path, monkeypatch):
    """24 pictures to learn from, in batches of which the last holds a single one."""
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "alone"))
    index = index_images(fruits)
    encoder = load_encoder(f"clip:{clip_vit}", device="cpu")
    rng, size = np.random.default_rng(0), encode_batch(encoder, np.zeros((1, 64, 64, 3), np.uint8))
    head = rng.normal(0, 0.1, (size.shape[1], 4)).astype(np.float32), np.zeros(4, np.float32)
    recipe = Recipe(epochs=10, batch=23, rate=1e-4, augmentation="photo")
    return Training(encoder, make_splits(index, ["by_group"])["by_group"][0], index, recipe, head)


def test_two_workers_train_as_one_replace_a_lost_one_and_tell_errors(
    cluster, lesson, tmp_path, monkeypatch
):
    (alone,) = fine_tune([lesson])
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "shared"))
    monkeypatch.setenv("CLIPHELPERS_WORKERS", "2")
    checkpoints, lost = tmp_path / "shared" / "checkpoints", []

    def lose():
        until(lambda: any(checkpoints.glob("*.npz")))
        there = psutil.process_iter(["cmdline"])  # None of a zombie
        found = [one for one in there if "TrainWorker" in "".join(one.info["cmdline"] or [])]
        found[-1].kill()
        (file,), now = checkpoints.glob("*.npz"), time.time()
        until(lambda: file.stat().st_mtime > now)  # there were epochs to come
        lost.append(found[-1].pid)

    hot = replace(lesson, recipe=replace(lesson.recipe, rate=1e30))
    loser = Thread(target=lose)
    loser.start()
    with monkeypatch.context() as patched:
        patched.setattr(trained._Run, "_gradients", None)  # in this process nothing is learnt
        with pytest.raises(FineTuneError, match="is not finite in epoch 1: lower the rates"):
            fine_tune([lesson, hot])
        patched.setattr(workers, "join_cluster", None)  # what is kept takes no workers
        (shared,) = fine_tune([lesson])
    loser.join()
    assert lost and not psutil.pid_exists(lost[0])
    pd.testing.assert_frame_equal(shared.curves, alone.curves, rtol=1e-3)
    assert shared.curves.loss.iloc[-1] < shared.curves.loss.iloc[0]
    pairs = zip(*[one.encoder.module.state_dict().values() for one in (alone, shared)], strict=True)
    assert all(torch.allclose(*pair, atol=1e-4) for pair in pairs)


def test_workers_that_cannot_be_had_are_refused(cluster, lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_WORKERS", "99")
    with pytest.raises(RuntimeError, match="CLIPHELPERS_WORKERS is 99, but the Ray cluster has"):
        fine_tune([lesson])
    monkeypatch.setenv("CLIPHELPERS_WORKERS", "two")
    with pytest.raises(FineTuneError, match="must be a whole number, not 'two'"):
        fine_tune([lesson])
    told = workers._work({"storage": f"{tmp_path}/on another machine", "trainings": [lesson]})
    assert isinstance(told, RuntimeError) and "all machines share" in str(told)


def test_a_lost_machine_and_a_broken_picture_lose_nothing_else(
    cluster, tmp_path, pictures, slow, capsys, monkeypatch
):
    output, (spec, log) = tmp_path / "output", slow
    good, broken = index_of(pictures), tmp_path / "pictures" / "broken.jpg"
    broken.write_bytes(b"no picture")
    data, there = manifest([*good.path, broken], tmp_path / "m.parquet"), f"fsspec+file://{output}"

    def lose():
        until(lambda: seen(log) > 30)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    loser = Thread(target=lose)
    loser.start()
    status = main(["extract", "--data", data, "--encoder", spec, "--output", there])
    loser.join()
    said = capsys.readouterr()
    assert status == 1 and "160 pictures have got features; 1 have none" in said.out
    assert "Cannot read pictures/broken.jpg: the file is no picture" in said.err
    assert len(cluster.list_all_nodes()) == 2
    broken.unlink()
    assert_complete(output, spec, pictures)
    monkeypatch.setenv("CLIPHELPERS_FEATURES", str(output))
    monkeypatch.setattr(features, "encode_batch", None)  # nothing is computed
    encoder = load_encoder(spec, device="cpu")
    taken = extract_features(encoder, good, cache=tmp_path / "cache")
    np.testing.assert_allclose(taken, by_hand(spec, good.path), atol=1e-6)


def test_an_error_of_the_encoder_is_told_and_the_next_job_is_well(
    cluster, tmp_path, pictures, clip_vit, capsys
):
    paths, output = index_of(pictures).path, tmp_path / "output"
    data = manifest(paths, tmp_path / "m.parquet", digest=[digest(path) for path in paths])
    (tmp_path / "faulty.py").write_text(FAULTY)
    job = ["extract", "--output", str(output), "--encoder"]
    assert main([*job, f"module:{tmp_path / 'faulty.py'}@{clip_vit}", "--data", data]) == 1
    told = "cliphelpers: no such kernel\nWhat is written is kept: the same goes on\n"
    assert capsys.readouterr().err.endswith(told)
    assert main([*job, f"clip:{clip_vit}", "--data", str(pictures)]) == 0
    assert "160 pictures have got features; 0 have none" in capsys.readouterr().out
    assert_complete(output, f"clip:{clip_vit}", pictures)


def test_what_decodes_does_without_torch(tmp_path, clip_vit):
    look = load_encoder(f"clip:{clip_vit}", device="cpu").preprocess
    (tmp_path / "look.pickle").write_bytes(pickle.dumps(look))
    code = f"""
import pickle, sys
from cliphelpers import cluster
look = pickle.load(open({str(tmp_path / "look.pickle")!r}, "rb"))
assert look(cluster.read_image({str(FRUITS[0])!r})).shape == ({look.size}, {look.size}, 3)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("ray client connection timeout", "ray client connection timeout"),
        ("Initialization failure from server:\nTraceback\nRuntimeError: no server\n\n",
         "RuntimeError: no server"),
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_be_used_is_named(told, why, monkeypatch):
    def init(*_, **__):
        raise ConnectionAbortedError(told)

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as there:
        here = f"127.0.0.1:{there.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", f"ray://{here}")
        for address, named in ((None, f"ray://{here}"), (here, here)):
            with pytest.raises(RuntimeError) as error:
                join_cluster(address)
            assert str(error.value) == f"The Ray cluster {named} cannot be used: {why}"


NOBODY = {
    "ray://127.0.0.1:1": "Errno", "127.0.0.1:1": "Errno", "[::1]:1": "Errno",
    "ray://no.invalid:1": "Errno", "ray://head:port": "'port'", "head": "Invalid address",
}  # fmt: skip


@pytest.mark.parametrize(("address", "why"), NOBODY.items())
def test_an_address_where_nobody_answers_is_told_at_once(address, why, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # as in a process of its own
    if why != "Invalid address":
        monkeypatch.setattr(ray, "init", None)  # it would try for minutes
    with pytest.raises(RuntimeError) as error:
        join_cluster(address)
    start = f"The Ray cluster {address} cannot be used: "
    assert str(error.value).startswith(start) and why in str(error.value)


def test_nothing_there_is_one_sentence(tmp_path, clip_vit, capsys):
    job = ["extract", "--encoder", f"clip:{clip_vit}", "--output", str(tmp_path), "--data"]
    assert main([*job, str(tmp_path / "gone")]) == 1
    assert str(tmp_path / "gone") in capsys.readouterr().err
