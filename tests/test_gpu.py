"""What a GPU computes is what the CPU computes. These tests skip where there is no GPU.

python -m pytest -m gpu
"""

import numpy as np
import pytest
import torch

from cliphelpers.classifiers import text_weights
from cliphelpers.encoders.encoder import default_device
from cliphelpers.encoders.load import load_encoder
from cliphelpers.features import extract_features
from cliphelpers.finetuning.training import Recipe, Training, fine_tune
from cliphelpers.index import index_images, targets
from cliphelpers.splits import make_splits
from cliphelpers.srgan import load_generator, upscale

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no GPU"),
]


@pytest.fixture(params=["clip_vit", "clip_rn", "timm"])
def spec(request, clip_vit, clip_rn, timm_spec):
    """A ViT and a ResNet of CLIP, and a network of timm."""
    return {"clip_vit": f"clip:{clip_vit}", "clip_rn": f"clip:{clip_rn}"}.get(
        request.param, timm_spec
    )


@pytest.fixture(scope="module")
def index(fruits):
    return index_images(fruits)


@pytest.fixture
def both(spec, index, tmp_path):
    """A function: features of the same pictures on the CPU in fp32, and on the GPU."""

    def compute(precision):
        on_cpu = load_encoder(spec, device="cpu")
        on_gpu = load_encoder(spec, precision, device=default_device())
        places = [(on_cpu, tmp_path / "cpu"), (on_gpu, tmp_path / "gpu")]
        return [extract_features(encoder, index, cache=place) for encoder, place in places]

    return compute


def cosines(X, Y):
    """Of each row of X with that of Y: float (N,)."""
    return (X * Y).sum(1) / np.linalg.norm(X, axis=1) / np.linalg.norm(Y, axis=1)


def test_features_are_those_of_the_cpu(both):
    on_cpu, on_gpu = both("fp32")
    assert cosines(on_cpu, on_gpu).min() > 0.99999
    assert np.abs(on_cpu - on_gpu).max() < 1e-2 * np.abs(on_cpu).max()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_features_of_half_precision_are_nearly_those(both, precision):
    on_cpu, on_gpu = both(precision)
    assert cosines(on_cpu, on_gpu).min() > 0.999
    assert not np.array_equal(on_cpu, on_gpu)


def test_weights_of_texts_are_those_of_the_cpu(clip_vit):
    names = ["apple", "banana", "fig", "kiwi"]
    encoders = [load_encoder(f"clip:{clip_vit}", device=d) for d in ("cpu", default_device())]
    on_cpu, on_gpu = (text_weights(encoder, names, ["a {}.", "{}"]) for encoder in encoders)
    assert cosines(on_cpu, on_gpu).min() > 0.99999


def test_a_batch_too_large_for_the_memory_is_halved(index, tmp_path):
    """A real one: a network whose activations of 72 pictures do not fit, but those of few do."""
    from cliphelpers import Encoder, Preprocess

    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    if not free:
        pytest.skip("the free memory is known of NVIDIA's and AMD's GPUs alone")
    wanted = free // 4 // 20  # numbers a picture, so that 20 fit

    class Large(torch.nn.Module):
        def forward(self, x):
            large = torch.ones(len(x), wanted, device=x.device)
            return x.mean((2, 3)) * large[:, :1]

    encoder = Encoder("large", Large(), Preprocess(8, 8), device=default_device())
    X = extract_features(encoder, index, cache=tmp_path)
    assert X.shape == (len(index), 3) and np.isfinite(X).all()


@pytest.mark.parametrize("method", ["ML", "CS"])
def test_training_goes_as_on_the_cpu(spec, index, method, tmp_path, monkeypatch):
    """bf16 on a GPU that has it: curves are near, not equal."""
    fold, curves = make_splits(index, ["by_group"])["by_group"][0], []
    for device in ("cpu", default_device()):
        monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / device))
        encoder = load_encoder(spec, device=device)
        X = extract_features(encoder, index)
        means = np.stack([X[targets(index) == label].mean(0) for label in range(4)], axis=1)
        head = (means / np.linalg.norm(means), np.zeros(4, np.float32)) if method == "ML" else None
        recipe = Recipe(epochs=2, batch=8, rate=1e-4, augmentation="none")
        (tuned,) = fine_tune([Training(encoder, fold, index, recipe, head)])
        curves.append(tuned.curves.loss.to_numpy(float))
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.05, atol=0.02)


def test_srgan_draws_what_it_draws_on_the_cpu():
    picture = np.random.default_rng(0).integers(0, 256, (25, 25, 3), np.uint8)
    on_cpu, on_gpu = (
        upscale(load_generator(device=device), picture).astype(int)
        for device in ("cpu", default_device())
    )
    assert on_gpu.shape == (100, 100, 3)
    assert np.abs(on_cpu - on_gpu).max() <= 2
