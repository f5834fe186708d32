"""cliphelpers.upsampling: encoders that see enlarged pictures, and measures of those pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import nn

from cliphelpers.encoders.encoder import Encoder, EncoderError, encode_batch, raw_pixels
from cliphelpers.encoders.preprocess import Preprocess
from cliphelpers.features import extract_features
from cliphelpers.images import read_image
from cliphelpers.srgan import Generator, load_generator, upscale
from cliphelpers.upsampling import quality, upsampled, with_upsampling

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is read from or written to the user's own cache."""
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def generator():
    """The embedded weights."""
    return load_generator(device="cpu")


def noise(height, width, seed=1):
    """A uint8 picture that is smooth and rough in places."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    smooth = small.repeat(4, 0).repeat(4, 1)[:height, :width]
    rough = rng.normal(0, 30, (height, width, 3)) * (np.arange(width) % 40 < 20)[:, None]
    return (smooth + rough).clip(0, 255).astype(np.uint8)


def pictures_of(*sizes):
    return [Image.fromarray(noise(h, w, seed=n)) for n, (h, w) in enumerate(sizes)]


@pytest.fixture
def encoder():
    return raw_pixels(24)


@pytest.fixture
def file(tmp_path):
    """A small generator's weights."""
    torch.save(Generator(blocks=1).state_dict(), tmp_path / "generator.pth")
    return tmp_path / "generator.pth"


def test_the_key_depends_on_method_shrink_and_generator(encoder, tmp_path, file):
    torch.save(Generator(blocks=1).state_dict(), tmp_path / "other.pth")  # other random weights
    ways = [("bicubic", None), ("bilinear", None), ("bicubic", 8), ("bicubic", 9)]
    ways += [("srgan", None), ("srgan", 8)]
    ways += [(f"srgan@{file}", None), (f"srgan@{tmp_path}/other.pth", None)]
    changed = [with_upsampling(encoder, *way) for way in ways]
    assert len({one.key for one in changed}) == len({one.features for one in changed}) == len(ways)
    again = with_upsampling(encoder, "srgan", 8)
    assert again.key == changed[5].key and again.features == "pixels, srgan from 8"
    assert with_upsampling(encoder, "bilinear").key == encoder.key  # its own way


def test_a_file_that_changes_is_read_again(encoder, file):
    way = f"srgan@{file}"
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
    large = Image.fromarray(upscale(generator, np.array(small)))
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
    large = [upscale(generator, np.array(read_image(path))) for path in index.path]
    pictures = [encoder_bicubic(encoder).preprocess(Image.fromarray(one)) for one in large]
    expected = encode_batch(encoder, np.stack(pictures))
    np.testing.assert_allclose(features, expected, atol=1e-6)
    plain = extract_features(encoder_bicubic(encoder), index)
    assert np.abs(plain - expected).max() > 0.05


def encoder_bicubic(encoder):
    return replace(encoder, preprocess=replace(encoder.preprocess, interpolation="bicubic"))


def test_large_pictures_are_not_enlarged(file, monkeypatch):
    generator, seen = load_generator(file, "cpu"), []
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda x: seen.append(x.shape) or forward(x))
    way = Preprocess(24, 24, generator=generator)
    large, tiny, wide = pictures_of((24, 30), (10, 10), (12, 200))
    batch = np.stack([way(one) for one in (large, tiny, large)])
    assert seen == [(1, 3, 10, 10)] and batch.shape == (3, 24, 24, 3)
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
    original = noise(40, 36)
    picture = np.array(Image.fromarray(original).resize((18, 20)).resize((36, 40)))
    found = quality(picture, original)
    error = ((picture.astype(float) - original) ** 2).mean()
    assert found["PSNR (dB)"] == pytest.approx(10 * np.log10(255**2 / error))
    assert found["SSIM"] == pytest.approx(ssim_by_formula(picture, original), abs=1e-6)
    assert found["sharpness"] == pytest.approx(edges(picture) / edges(original))
    assert 0 < found["sharpness"] < 0.9
    same = quality(original, original)
    assert same == {"PSNR (dB)": 100, "SSIM": 1, "sharpness": 1}  # and a mean stays a number


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
    original = noise(40, 36)
    picture = np.roll(original, 1, axis=1)
    flat = structural_similarity(original, picture, channel_axis=2, data_range=255)
    assert abs(quality(picture, original)["SSIM"] - flat) > 1e-3


@pytest.mark.skipif(not (SHARED / "data" / "grocery").is_dir(), reason="without ../shared")
def test_on_photographs_it_is_a_little_above_bicubic_and_much_sharper():
    """In an earlier check on seven photographs: 26.24 dB against 26.10."""
    paths = sorted((SHARED / "data" / "grocery" / "train").rglob("*.jpg"))[::520][:5]
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


def test_one_colour_is_as_sharp_as_itself():
    flat = np.full((16, 16, 3), 90, np.uint8)
    assert quality(flat, flat)["sharpness"] == 1
