"""Draw the contact sheet of a folder in Fruits-360's layout: a cell a class, some pictures a clip.

python contact_sheet.py ../../fruits-mini ../../../pics/fruits-mini.jpg
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TITLE, GAP = 18, 8


def parse_arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of Training/ and Test/")
    parser.add_argument("sheet", type=Path, help="picture to write")
    parser.add_argument("--columns", type=int, default=4, help="classes in a row (default: 4)")
    parser.add_argument("--clips", type=int, default=3, help="clips of each class (default: 3)")
    parser.add_argument("--frames", type=int, default=1, help="pictures of a clip (default: 1)")
    parser.add_argument("--side", type=int, default=76, help="pixels of a picture (default: 76)")
    parser.add_argument("--quality", type=int, default=88, help="of the JPEG (default: 88)")
    return parser.parse_args(argv)


def find_clips(root, name):
    """The pictures of a class: a list for each clip, in the order of turning."""
    clips = defaultdict(dict)
    for path in root.glob(f"T*/{name}/*.jpg"):
        prefix, number = re.fullmatch(r"(r?\d*_)??(\d+)_100", path.stem).groups()
        clips[prefix or ""][int(number)] = path
    return [[clip[number] for number in sorted(clip)] for _, clip in sorted(clips.items())]


def choose(root, name, clips, frames):
    """The pictures that stand for a class: `frames` of each clip, evenly around its turn."""
    chosen = []
    for k, clip in enumerate(find_clips(root, name)[:clips]):
        step = len(clip) / frames
        chosen += [clip[int((j + 0.15 + 0.1 * k) * step) % len(clip)] for j in range(frames)]
    return chosen


def draw_sheet(root, columns, clips, frames, side):
    """The sheet as a picture."""
    names = sorted({path.name for path in root.glob("T*/*")})
    width, height = clips * frames * side + GAP, side + TITLE + GAP
    rows = -(-len(names) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, name in enumerate(names):
        left, top = GAP + k % columns * width, GAP + k // columns * height
        pen.text((left, top), name, fill="black", font=font)
        for j, path in enumerate(choose(root, name, clips, frames)):
            with Image.open(path) as picture:
                small = picture.resize((side, side), Image.LANCZOS)
            sheet.paste(small, (left + j * side, top + TITLE))
    return sheet


def main(argv=None):
    """Draw the sheet and write it."""
    arguments = parse_arguments(argv)
    sheet = draw_sheet(
        arguments.folder, arguments.columns, arguments.clips, arguments.frames, arguments.side
    )
    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.sheet, quality=arguments.quality)
    print(f"{arguments.sheet}: {sheet.width}x{sheet.height} pixels")


if __name__ == "__main__":
    main()
