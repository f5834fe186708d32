"""cliphelpers.images on real small files of every kind."""

import os
import struct

import numpy as np
import pytest
import tifffile  # scikit-image brings it
from PIL import Image

from cliphelpers.images import ImageError, check_images, find_images, read_image

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
        (np.array([[0, 255, 256, 33023, 65535]], np.uint16), "deep.jp2", [0, 0, 1, 128, 255]),
        (np.array([[0, 255, 256, 33023, 65535]], np.int32), "deep.tif", [0, 0, 1, 128, 255]),
        (np.array([[0, 4096]], np.uint16), "deep.png", [0, 16]),
        # all fits in 8 bits: the numbers as they are
        (np.array([[0, 1, 100, 255]], np.uint16), "shallow.png", [0, 1, 100, 255]),
        (np.array([[0, 1, 100, 255]], np.uint16), "shallow.tif", [0, 1, 100, 255]),
        (np.array([[0, 1, 100, 255]], np.uint16), "shallow.pgm", [0, 1, 100, 255]),
        (np.array([[0, 1, 100, 255]], np.int32), "shallow.tif", [0, 1, 100, 255]),
        (np.array([[0, 1, 100, 255]], np.uint32), "shallow.tiff", [0, 1, 100, 255]),
        # all fits in the 12 bits of many cameras: the upper eight of them, 0x80F = 2063 -> 0x80
        (np.array([[0, 256, 2063, 4095]], np.uint16), "camera.png", [0, 16, 128, 255]),
        (np.array([[0, 256, 2063, 4095]], np.uint16), "camera.tif", [0, 16, 128, 255]),
        (np.array([[0, 256, 2063, 4095]], np.int32), "camera.tif", [0, 16, 128, 255]),
    ],
)
def test_grey_pictures_of_any_depth(tmp_path, stored, name, expected):
    if stored.dtype == np.uint32:  # Pillow cannot write them
        tifffile.imwrite(tmp_path / name, stored)
    else:
        Image.fromarray(stored).save(tmp_path / name)
    assert pixels(tmp_path / name).tolist() == [[[value] * 3 for value in expected]]
    assert check_images([tmp_path / name]).problem.tolist() == [f"odd size {len(expected)}x1"]


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (np.array([[-1, 200]], np.int32), "from -1 to 200"),
        (np.array([[-1000, 3000]], np.int16), "from -1000 to 3000"),  # as of tomography
        (np.array([[0, 65536]], np.int32), "from 0 to 65536"),
        (np.array([[0, 10**9]], np.uint32), "from 0 to 1000000000"),
    ],
)
def test_levels_without_a_known_range_are_refused(tmp_path, stored, found):
    tifffile.imwrite(tmp_path / "a.tif", stored)
    with pytest.raises(
        ImageError, match=f"a.tif: its levels go {found}; save it with 8 or 16 bits"
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("extra", [{}, {"compression": "zlib"}, {"extrasamples": ["unassalpha"]}])
@pytest.mark.parametrize("highest", [200, 255, 4095, 65535])
def test_16_bit_colours_that_pillow_would_make_black_are_refused(tmp_path, extra, highest):
    stored = np.full((9, 9, 3 + len(extra.get("extrasamples", []))), 65535, np.uint16)
    stored[..., :3] = highest
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **extra)
    if highest == 65535:
        assert (pixels(tmp_path / "a.tif") == 255).all()
    else:
        with pytest.raises(ImageError, match="a.tif: its 16 bits a colour hold 12 at most; save"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("colour", [(0, 0, 0), (3, 9, 15)])
@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_dark_pictures_of_8_bits_stay_dark(tmp_path, colour, name):
    Image.new("RGB", (9, 9), colour).save(tmp_path / name)
    assert np.abs(pixels(tmp_path / name).astype(int) - colour).max() < 3


def test_16_bit_colours_are_halved_and_16_bit_bitmaps_are_colours(tmp_path):
    stored = np.array([[[65535, 0, 256], [32768, 255, 4096]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    assert pixels(tmp_path / "a.tif").tolist() == [[[255, 0, 1], [128, 0, 16]]]
    header = struct.pack("<2sIII", b"BM", 58, 0, 54)  # 5, 5 and 5 bits of a pixel
    header += struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header + struct.pack("<HH", 1 << 10, 1))
    assert pixels(tmp_path / "a.bmp").tolist() == [[[8, 0, 0], [0, 0, 8]]]


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


# ------------------------------------------------------------------------------- finding


def found(folder):
    return [os.path.relpath(path, folder) for path in find_images(folder)]


def save(path, format):
    """A small picture under a name that need not fit its format."""
    Image.new("1" if format == "MSP" else "RGB", (9, 9), 200).save(path, format)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.JPG", "JPEG"), ("a.png", "PNG"),
        ("a.apng", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.j2k", "JPEG2000"),
        ("a.dib", "DIB"), ("a.tga", "TGA"), ("a.pcx", "PCX"), ("a.mpo", "MPO"), ("a.sgi", "SGI"),
        # by what is in them
        ("a.dds", "DDS"), ("a.msp", "MSP"), ("a.other", "DDS"),
        ("a", "JPEG"), ("b", "TIFF"), ("c", "PNG"), ("1234567", "WEBP"),
        ("a.jpg_original", "JPEG"), ("photo.jpeg.1", "JPEG"), ("a.bin", "GIF"), ("v1.0", "PNG"),
    ],
)  # fmt: skip
def test_whatever_pillow_can_open_is_found_and_read(tmp_path, name, format):
    save(tmp_path / name, format)
    assert found(tmp_path) == [name]
    assert pixels(tmp_path / name).shape == (9, 9, 3)


def test_names_of_pictures_are_not_opened(tmp_path):
    names = ["a.jpg", "b.JFIF", "c.heic", "d.webp", "e.tiff", "f.HEIF"]
    for name in names:
        (tmp_path / name).touch()
    assert found(tmp_path) == names


@pytest.mark.parametrize(
    "content",
    [
        {"a.txt": b"hello", "b.csv": b"path,label\n", "README": b"# Pictures", "LICENSE": b""},
        {"a.mpg": b"\0\0\1\xb3\x16\0\xf0\xc4" + bytes(99)},  # Pillow knows it, and reads none
        {"a.mp4": b"\0\0\0\x18ftypmp42" + bytes(99), "a.pdf": b"%PDF-1.7\n", "a.svg": b"<svg/>"},
        {"a.h5": b"\x89HDF\r\n\x1a\n" + bytes(99), "a.grib": b"GRIB\0\0\0\1" + bytes(99)},
        {"a.jpg.part": b"\xff\xd8\xff", "b": bytes(99), "c.json": b"{}"},
    ],
)
def test_what_is_no_picture_is_counted_and_said_in_one_warning(tmp_path, content):
    save(tmp_path / "z.png", "PNG")
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    with pytest.warns(UserWarning) as told:
        assert found(tmp_path) == ["z.png"]
    first = tmp_path / min(content)
    expected = f"Files left out, no pictures: {len(content)}, such as {first}"
    assert [str(one.message) for one in told] == [expected]


@pytest.mark.parametrize("name", ["a.nef", "a.dng", "a.CR2", "a.svs", "a.arw"])
def test_raw_files_and_slides_are_not_read_as_their_small_previews(tmp_path, name):
    save(tmp_path / "a.jpg", "JPEG")
    save(tmp_path / name, "TIFF")  # which they are built on
    with pytest.warns(UserWarning, match=f"Files left out, no pictures: 1, such as .*{name}"):
        assert found(tmp_path) == ["a.jpg"]


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


def test_bytes_that_have_been_read_are_the_picture_of_the_path(draw):
    path = draw("one.png")
    known = read_image("elsewhere/one.png", path.read_bytes())
    assert np.array_equal(known, read_image(path))
    with pytest.raises(ImageError, match="Cannot read s3://far/one.png: the file is empty"):
        read_image("s3://far/one.png", b"")
    with pytest.raises(ImageError, match="Cannot read s3://far/one.png: the file is no picture"):
        read_image("s3://far/one.png", b"no")
