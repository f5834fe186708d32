"""Small fixtures that several test files share."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import clip
import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw

SHAPES = {"Apple Red 1": "ellipse", "Banana": "rectangle", "Fig": "ellipse", "Kiwi": "rectangle"}
COLOURS = [(200, 30, 40), (230, 200, 40), (90, 40, 110), (110, 140, 50)]


@pytest.fixture(scope="session", autouse=True)
def full_precision():
    """The same numbers on every machine: "auto" is fp32 in tests, though not in their kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cliphelpers.encoders.encoder.auto_precision", lambda device: "fp32")
        yield


@pytest.fixture(autouse=True)
def no_figures_stay():
    """Notebooks that tests execute here leave theirs open, and pyplot warns of the 21st."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """What is kept stays in a test file's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def draw(tmp_path):
    """A function that writes a small picture below tmp_path and returns its path."""

    def write(name, size=(12, 10), seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def same_process(monkeypatch):
    """A run prepares in a thread, so that what a test has changed counts there, too."""
    pool = "cliphelpers.command.run.ProcessPoolExecutor"
    monkeypatch.setattr(pool, lambda count, _: ThreadPoolExecutor(count))


@pytest.fixture(scope="session")
def forkserver():
    """A multiprocessing context: its processes are forked from one that has imported it all."""
    context = multiprocessing.get_context("forkserver")
    modules = ["pytest", "nbformat", "psutil", "cliphelpers.finetuning.training"]
    context.set_forkserver_preload([*modules, "cliphelpers.srgan", "cliphelpers.command.run"])
    return context


def _shape(shape, colour, place, size, rng):
    """A coloured shape with noise on white, 100x100."""
    picture = Image.new("RGB", (100, 100), "white")
    box = [*place, place[0] + size, place[1] + 0.7 * size]
    getattr(ImageDraw.Draw(picture), shape)(box, fill=colour)
    noisy = np.asarray(picture) + rng.normal(0, 12, (100, 100, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def fruits(tmp_path_factory):
    """A folder in Fruits-360's layout: 4 classes of 3 clips of 4 training and 2 test frames."""
    root, rng = tmp_path_factory.mktemp("data") / "tiny-fruits", np.random.default_rng(0)
    for (label, shape), colour in zip(SHAPES.items(), COLOURS, strict=True):
        for clip_name in ("", "r_", "r2_"):
            size, tint = rng.integers(40, 60), rng.normal(0, 15, 3)
            for frame in range(6):
                path = root / ("Test" if frame > 3 else "Training") / label
                path.mkdir(parents=True, exist_ok=True)
                place = rng.integers(5, 40, 2)
                hue = tuple(int(v) for v in np.clip(np.add(colour, tint), 0, 255))
                picture = _shape(shape, hue, [int(v) for v in place], int(size), rng)
                picture.save(path / f"{clip_name}{frame}_100.jpg", quality=92)
    return root


def _save_clip(path, vision_layers, vision_width, vision_patch_size, seed):
    """A CLIP with random weights in CLIP's own file format."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = clip.model.CLIP(
            embed_dim=32, image_resolution=64, vision_layers=vision_layers,
            vision_width=vision_width, vision_patch_size=vision_patch_size, context_length=77,
            vocab_size=49408, transformer_width=64, transformer_heads=1, transformer_layers=1,
        )  # fmt: skip
        for value in model.parameters():
            if value.ndim == 1:  # initialised to 0 or 1
                value.data += torch.randn_like(value) / 3
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # it takes the next batch's statistics,
                layer.momentum = 1  # so that features differ from picture to picture
        with torch.no_grad():
            colours, noise = torch.randn(32, 3, 1, 1), torch.randn(32, 3, 64, 64)
            model.train().visual(colours + noise / 2)
        clip.model.convert_weights(model)
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def clip_vit(tmp_path_factory):
    """File of a tiny ViT CLIP, 64 px."""
    return _save_clip(tmp_path_factory.mktemp("weights") / "tiny-vit.pt", 1, 64, 32, seed=101)


@pytest.fixture(scope="session")
def clip_rn(tmp_path_factory):
    """File of a tiny ModifiedResNet CLIP, 64 px."""
    path = tmp_path_factory.mktemp("weights") / "tiny-rn.pt"
    return _save_clip(path, (1, 1, 1, 1), 8, None, seed=102)


@pytest.fixture(scope="session")
def timm_spec(tmp_path_factory):
    """Spec of a small timm model with random weights in a file."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    with torch.random.fork_rng():
        torch.manual_seed(103)
        torch.save(timm.create_model("test_vit").state_dict(), path)
    return f"timm:test_vit@{path}"
