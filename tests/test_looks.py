"""cliphelpers.looks against scikit-learn's clustering and looks that are painted on purpose."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from cliphelpers.looks import group_of, looks


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index_of(tmp_path):
    """A function of labels and uint8 pixels (N, 10, 10, 3): an index of such pictures."""

    def write(labels, pixels, names="{}.png"):
        paths = [str(tmp_path / names.format(number)) for number in range(len(labels))]
        for path, picture in zip(paths, pixels, strict=True):
            Image.fromarray(picture).save(path)
        return pd.DataFrame({"path": paths, "label": labels, "split": "", "group": ""})

    return write


@pytest.fixture
def seen(monkeypatch):
    """A function of labels and features (N, D): an index of pictures that look so."""

    def patch(labels, X):
        monkeypatch.setattr("cliphelpers.looks.extract_features", lambda encoder, index: X)
        return pd.DataFrame({"label": labels, "group": ""})

    return patch


def patterns(numbers, noise=20, seed=0):
    """Pictures uint8 (N, 10, 10, 3): of one number they look alike, of two they do not."""
    rng, numbers = np.random.default_rng(seed), np.asarray(numbers)
    drawn = rng.integers(0, 256, (numbers.max() + 1, 10, 10, 3))[numbers]
    return (drawn + rng.normal(0, noise, drawn.shape)).clip(0, 255).astype(np.uint8)


def same_parts(one, other):
    return adjusted_rand_score(one, other) == 1


# ------------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("count", [2, 5])
def test_looks_are_scikit_learn_s_clusters_within_each_class_the_largest_first(index_of, count):
    rng, sizes = np.random.default_rng(count), {"a": 1, "b": 2, "c": 4, "d": 30, "e": 60}
    labels = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    pixels = patterns(rng.integers(0, 9, len(labels)), noise=120)  # not at all well separated
    found = looks(index_of(labels, pixels), count)
    X = pixels.reshape(len(labels), -1) / 255
    X -= X.mean(0)
    for label, size in sizes.items():
        own, most = found[labels == label], min(count, size)
        if size > 1:
            reference = AgglomerativeClustering(most, metric="cosine", linkage="average")
            assert same_parts(reference.fit_predict(X[labels == label]), own)
        counts = np.bincount(own)
        assert len(counts) == most and (np.diff(counts) <= 0).all()


def test_five_looks_by_default_and_no_more_than_are_asked_for(index_of):
    numbers = np.arange(70) % 7
    index = index_of(["a"] * 70, patterns(numbers))
    assert set(looks(index)) == set(range(5))
    assert same_parts(looks(index, 7), numbers)
    assert not looks(index, 1).any()


def test_classes_of_one_and_of_two_pictures(index_of):
    assert looks(index_of(["a", "b", "b"], patterns([0, 1, 2]))).tolist() in ([0, 0, 1], [0, 1, 0])
    assert looks(index_of(["a", "b"], patterns([0, 0], noise=0))).tolist() == [0, 0]


@pytest.mark.parametrize("different", [1, 2, 4, 5, 7])
def test_copies_share_a_look(index_of, different):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        numbers = np.concatenate([np.arange(different), rng.integers(0, different, 6)])
        pixels = patterns(numbers, noise=0, seed=seed)
        index = index_of(["a"] * len(numbers), pixels)
        other = index_of(["a"] * len(numbers), pixels, f"{seed} again {{}}.bmp")
        found = looks(pd.concat([index, other]).reset_index(drop=True))
        assert len({*zip(np.tile(numbers, 2), found, strict=True)}) == different
        assert len(set(found)) == min(different, 5)


def test_a_set_of_one_picture_again_and_again_is_one_look(index_of):
    index = index_of(["a"] * 3 + ["b"] * 4, patterns([0] * 7, noise=0))
    assert not looks(index).any()


def test_the_order_of_rows_does_not_matter(index_of):
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], [6, 13, 40])  # many looks have one size
    index = index_of(labels, rng.integers(0, 256, (59, 10, 10, 3), np.uint8))
    expected = pd.Series(looks(index), index.path)
    for _ in range(5):
        mixed = index.sample(frac=1, random_state=rng)
        again = pd.Series(looks(mixed), mixed.path)
        pd.testing.assert_series_equal(again.sort_index(), expected.sort_index())


# ------------------------------------------------------------------------------- many pictures


def apart(rng, count, size):
    """Features (N, 300) of ``count`` looks of about N / count pictures, and their numbers."""
    numbers = rng.integers(0, count, size)
    X = rng.normal(size=(count, 300))[numbers] + 0.3 * rng.normal(size=(size, 300))
    return X.astype(np.float32), numbers


@pytest.mark.parametrize("most", [400, 399, 60])
def test_of_more_pictures_some_are_clustered_and_the_others_join_them(seen, monkeypatch, most):
    X, numbers = apart(np.random.default_rng(0), 5, 400)
    monkeypatch.setattr("cliphelpers.looks._MOST", most)
    found = looks(seen(["a"] * 400, X))
    assert same_parts(found, numbers)
    assert (np.diff(np.bincount(found)) <= 0).all() or most == 60  # there of those clustered


def test_a_large_class_does_not_take_the_memory_of_all_its_pairs(seen, monkeypatch):
    X, numbers = apart(np.random.default_rng(0), 5, 5000)
    monkeypatch.setattr("cliphelpers.looks._MOST", 300)
    index = seen(["a"] * 5000, X)
    tracemalloc.start()
    found = looks(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same_parts(found, numbers)
    assert peak < 40e6 < 5000 * 4999 / 2 * 8  # a few times the 6 MB of X


# ------------------------------------------------------------------------------- kept on disk


def test_looks_are_kept_and_found_again_unless_something_changes(index_of, monkeypatch):
    labels = np.array(["a", "b"])[np.arange(20) % 2]
    index = index_of(labels, patterns(np.arange(20) % 7))
    expected = looks(index)
    monkeypatch.setattr("cliphelpers.looks.linkage", None)
    np.testing.assert_array_equal(looks(index), expected)
    with pytest.raises(TypeError):
        looks(index, 3)
    with pytest.raises(TypeError):
        looks(index.assign(label=labels[::-1]))
    Image.new("RGB", (10, 10)).save(index.path[7])
    with pytest.raises(TypeError):
        looks(index)


# ------------------------------------------------------------------------------- groups


def test_groups_have_the_class_in_their_name_and_looks_stand_in_for_those_without(index_of):
    labels = ["a", "a", "a", "b", "b", "b"]
    index = index_of(labels, patterns([0, 1, 1, 2, 3, 3]))
    index["group"] = ["r0", "", "", "r0", "r1", ""]
    found = looks(index)
    expected = ["a/r0", f"a/look {found[1]}", f"a/look {found[2]}"]
    assert group_of(index).tolist() == [*expected, "b/r0", "b/r1", f"b/look {found[5]}"]
    assert index["group"].tolist() == ["r0", "", "", "r0", "r1", ""]  # as before


def test_groups_that_classes_share_do_not_have_the_class_in_their_name(index_of):
    index = index_of(["a", "a", "b", "b"], patterns([0, 1, 2, 3]))
    index["group"], index.attrs["shared"] = ["mon", "tue", "mon", ""], True
    assert group_of(index).tolist() == ["/mon", "/tue", "/mon", f"b/look {looks(index)[3]}"]
    index["group"] = ["mon", "tue", "wed", ""]  # a manifest whose classes share none
    assert group_of(index).tolist() == ["a/mon", "a/tue", "b/wed", f"b/look {looks(index)[3]}"]


def test_where_every_group_is_named_no_picture_is_read():
    rows = {"path": ["/gone.png"] * 2, "label": ["a", "ü"], "group": ["x", "y z"]}
    assert group_of(pd.DataFrame(rows)).tolist() == ["a/x", "ü/y z"]
