"""cliphelpers.images on real small files of every kind."""

import numpy as np
import pytest
from PIL import Image

from cliphelpers.images import ImageError, check_images, read_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def pixels(path):
    picture = read_image(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def left_red_right_blue(width=32, height=16):
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),  # a place (x, y) that is red when the picture is upright
    [
        (1, (32, 16), (4, 8)),
        (2, (32, 16), (28, 8)),  # mirrored
        (3, (32, 16), (28, 8)),  # by 180 degrees
        (6, (16, 32), (8, 4)),  # by 90 degrees clockwise: left becomes top
        (8, (16, 32), (8, 28)),  # by 90 degrees the other way
    ],
)
def test_exif_rotation_is_applied(tmp_path, orientation, size, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    left_red_right_blue().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture = read_image(tmp_path / "turned.jpg")
    assert picture.size == size
    assert np.abs(np.subtract(picture.getpixel(red_at), RED)).max() < 10
    opposite = tuple(side - 1 - at for side, at in zip(size, red_at, strict=True))
    assert np.abs(np.subtract(picture.getpixel(opposite), BLUE)).max() < 10


def palette_with_transparency(path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *BLUE, 0, 0, 0])
    picture.putdata([0, 1, 2])
    picture.save(path, transparency=1)


def rgb_with_transparent_colour(path):
    picture = Image.new("RGB", (3, 1))
    picture.putdata([RED, BLUE, (0, 0, 0)])
    picture.save(path, transparency=BLUE)


def rgba(path):
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(*RED, 255), (10, 20, 30, 0), (0, 0, 0, 255)])
    picture.save(path)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (palette_with_transparency, "a.png"),
        (palette_with_transparency, "a.gif"),
        (rgb_with_transparent_colour, "a.png"),
        (rgba, "a.png"),
        (rgba, "a.tif"),
    ],
)
def test_transparency_is_laid_on_white(tmp_path, save, name):
    save(tmp_path / name)
    assert pixels(tmp_path / name).tolist() == [[[*RED], [*WHITE], [0, 0, 0]]]


def test_half_transparent_grey_is_mixed_with_white(tmp_path):
    picture = Image.new("LA", (2, 1))
    picture.putdata([(0, 102), (100, 255)])  # 102 of 255 is 40 %: 0.4 * 0 + 0.6 * 255 = 153
    picture.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[153] * 3, [100] * 3]]


@pytest.mark.parametrize(
    ("stored", "name", "expected"),
    [
        (np.array([[0, 100, 255]], np.uint8), "grey.png", [0, 100, 255]),
        (np.array([[False, True]]), "bits.png", [0, 255]),
        (np.array([[False, True]]), "bits.tif", [0, 255]),
        # 16 bits to 8 are the upper eight: 255 -> 0, 256 -> 1, 0x80FF = 33023 -> 0x80 = 128
        (np.array([[0, 255, 256, 33023, 65535]], np.uint16), "deep.png", [0, 0, 1, 128, 255]),
        (np.array([[0, 255, 256, 33023, 65535]], np.uint16), "deep.tif", [0, 0, 1, 128, 255]),
        (np.array([[0, 255, 256, 33023, 65535]], np.uint16), "deep.pgm", [0, 0, 1, 128, 255]),
    ],
)
def test_grey_pictures_of_any_depth(tmp_path, stored, name, expected):
    Image.fromarray(stored).save(tmp_path / name)
    assert pixels(tmp_path / name).tolist() == [[[value] * 3 for value in expected]]


def test_cmyk_jpeg(tmp_path):
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow make red
    picture.save(tmp_path / "print.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "print.jpg").astype(int) - RED).max() < 10


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (pixels(tmp_path / "a.gif") == RED).all()


def test_floats_are_refused_with_advice(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: its pixels are floats .* 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


NAMES = ["two words.png", 'it\'s "quoted".png', "🍎 Äpfel.png", "100%.png", "-rf.png"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_read_and_is_named_when_it_cannot(draw, name):
    path = draw(name)
    assert read_image(str(path)).size == (12, 10)
    path.write_text("no picture")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"Cannot read {path}: the file is no picture"


@pytest.fixture
def spoiled(draw):
    """Files that cannot be read: dict of path to a part of the reason."""
    truncated, damaged = draw("truncated.jpg", size=(64, 64)), draw("damaged.png", size=(64, 64))
    truncated.write_bytes(truncated.read_bytes()[:1000])
    damaged.write_bytes(damaged.read_bytes()[:1000] + b"\0" * 1000)
    folder = truncated.parent
    for name, content in (("empty.jpg", ""), ("text.jpg", "hello"), ("phone.HEIC", "ftypheic")):
        (folder / name).write_text(content)
    (folder / "folder.jpg").mkdir()
    reasons = {
        "truncated.jpg": "truncated",
        "damaged.png": "",  # Pillow's words differ between versions
        "empty.jpg": "the file is empty",
        "text.jpg": "the file is no picture",
        "phone.HEIC": "convert it to JPEG",
        "folder.jpg": "Is a directory",
        "missing.jpg": "No such file or directory",
        "missing.heic": "No such file or directory",
    }
    return {str(folder / name): reason for name, reason in reasons.items()}


def test_what_cannot_be_read_is_named_with_the_reason(spoiled):
    for path, reason in spoiled.items():
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value).startswith(f"Cannot read {path}: ")
        assert reason in str(caught.value)


def test_check_tells_every_bad_picture_from_the_good_ones(draw, spoiled):
    good = [str(draw(f"{i}.png", seed=i)) for i in range(20)]
    table = check_images(good[:10] + list(spoiled) + good[10:])
    assert list(table.path) == good[:10] + list(spoiled) + good[10:]
    bad = table[table.problem != ""]
    assert list(bad.path) == list(spoiled)
    for problem, reason in zip(bad.problem, spoiled.values(), strict=True):
        assert reason in problem and not problem.startswith("Cannot read")
    assert (bad[["width", "height"]] == 0).all(axis=None)
    assert set(zip(table.width, table.height, strict=True)) == {(12, 10), (0, 0)}


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((8, 8), ""),
        ((7, 20), "odd size 7x20"),
        ((20, 7), "odd size 20x7"),
        ((80, 10), ""),
        ((81, 10), "odd size 81x10"),
        ((10, 81), "odd size 10x81"),
        ((10_000, 1_250), ""),
        ((10_001, 1_300), "odd size 10001x1300"),
    ],
)
def test_check_lists_odd_sizes(tmp_path, size, problem):
    picture = Image.new("1", size)
    picture.paste(1, (0, 0, size[0], size[1] // 2))
    picture.save(tmp_path / "a.png")
    assert check_images([tmp_path / "a.png"]).values[0, 1:].tolist() == [*size, problem]


@pytest.mark.parametrize(
    ("low", "high", "name", "flat"),
    [
        ((0, 0, 0), (0, 0, 0), "black.png", True),
        ((200, 30, 40), (200, 30, 40), "red.jpg", True),
        ((120, 120, 120), (124, 122, 125), "dark.png", True),
        ((9, 9, 9, 0), (200, 8, 90, 0), "clear.png", True),  # transparent, so white
        ((120, 120, 120), (128, 120, 120), "fog.png", False),
        ((0, 0, 0), (255, 255, 255), "mixed.jpg", False),
    ],
)
def test_check_lists_pictures_of_one_colour(tmp_path, low, high, name, flat):
    picture = Image.new("RGBA" if len(low) == 4 else "RGB", (40, 30), low)
    picture.paste(high, (0, 0, 20, 30))
    picture.save(tmp_path / name)
    problem = "one colour, no contrast" if flat else ""
    assert list(check_images([tmp_path / name]).problem) == [problem]


def test_check_of_nothing_is_an_empty_table():
    table = check_images([])
    assert table.empty and list(table.columns) == ["path", "width", "height", "problem"]
