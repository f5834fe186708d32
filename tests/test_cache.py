"""What is kept on disk: computed once, never half, never damaged."""

import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

from cliphelpers.cache import (
    kept,
    key_of,
    load_arrays,
    save_arrays,
    write_atomically,
    write_table,
)
from cliphelpers.classifiers import Logistic


def test_kept_computes_once_and_again_for_another_part(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.ones((2, 2), bool)}

    for part in (1, 1, 2, 1):
        arrays = kept("some", (part, np.zeros(4)), compute)
        np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
        assert arrays["b"].dtype == bool
    assert len(calls) == 2


def test_keys_tell_values_arrays_and_settings_apart():
    X = np.random.default_rng(0).random((5, 3), np.float32)
    other = X.copy()
    other[4, 2] += 1e-6
    keys = [
        key_of("a", X),
        key_of("a", other),
        key_of("a", X.astype(np.float64)),
        key_of("b", X),
        key_of("a", X.T),
        key_of(Logistic([1.0]), X),
        key_of(Logistic([2.0]), X),
        key_of(Logistic([1.0], rtol=1e-3), X),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of("a", X.copy()) == keys[0]
    assert key_of(Logistic([1.0]), X.copy()) == keys[5]


def test_a_damaged_file_is_found_out_wherever_the_damage_is(tmp_path):
    path = tmp_path / "x.npz"
    save_arrays(path, {"a": np.arange(5)})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.warns(UserWarning, match="x.npz is damaged"):
            assert load_arrays(path) is None
        assert not path.exists()
    path.write_bytes(whole)
    np.testing.assert_array_equal(load_arrays(path)["a"], np.arange(5))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def write_and_die(path):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # before the file has its name
    write_atomically(path, b"new")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path, forkserver
):
    dying = forkserver.Process(target=write_and_die, args=(tmp_path / "x.npz",))
    dying.start()
    dying.join(120)
    (left,) = tmp_path.iterdir()
    assert dying.exitcode == -signal.SIGKILL and left.suffix == ".part"
    assert left.read_bytes() == b"new"
    old = time.time() - 2 * 86_400
    os.utime(left, (old, old))
    living = tmp_path / "z.part"  # of this or another machine, or of another container's process
    living.write_bytes(b"half")
    write_atomically(tmp_path / "y.npz", b"whole")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "y.npz", living]


@pytest.mark.skipif(os.name == "nt", reason="there are neither pipes nor links with names")
def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    real, link, pipe = (tmp_path / name for name in ("elsewhere/real", "link", "pipe"))
    write_atomically(real, b"old")
    link.symlink_to(real)
    write_atomically(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"told")
    assert os.read(reader, 9) == b"told" and pipe.is_fifo()
    os.close(reader)


def test_a_table_holds_names_that_are_no_text(tmp_path):
    table = pd.DataFrame({"path": ["a,b", "\udce9.png"], "value": [0.25, 1 / 3]}, index=[7, 3])
    write_table(tmp_path / "new" / "table.csv", table, float_format="%.3f")
    said = (tmp_path / "new" / "table.csv").read_bytes()
    assert said == b'path,value\n"a,b",0.250\n\\udce9.png,0.333\n'
