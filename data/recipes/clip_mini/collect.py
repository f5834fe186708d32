"""Step 1: fetch the packages, decode every picture once, write captions and licences.

    python data/recipes/clip_mini/collect.py --grocery FOLDER [--work FOLDER] [--limit N]

Writes pictures.npy (RGBA, 160 x 160), pictures.tsv (source, name, captions, split), sources.tsv
(licences and counts) and words.txt (nouns of WordNet) into the work folder. Needs npm, apt-get
and dpkg-deb. None of the pictures is shipped with the project.
"""

import argparse
import gzip
import json
import random
import re
import subprocess
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np
from common import SIDE, add_work, read_table, save_array, write_table
from PIL import Image, ImageOps

NPM = {"emoji-datasource-google": "16.0.0", "emoji-datasource-twitter": "16.0.0",
       "@lobehub/fluent-emoji-3d": "1.1.0", "emojibase-data": "17.0.0"}
DEBIAN = ("openclipart-png", "openclipart-svg", "tuxpaint-stamps-default", "wordnet-base")
LICENCES = {
    "noto": "Noto Emoji, Google, Apache-2.0 (npm emoji-datasource-google, MIT)",
    "twemoji": "Twemoji, Twitter and contributors, CC BY 4.0 (npm emoji-datasource-twitter, MIT)",
    "fluent": "Fluent Emoji, Microsoft, MIT (npm @lobehub/fluent-emoji-3d, MIT)",
    "openclipart": "Open Clip Art Library, public domain (Debian openclipart-png, -svg)",
    "tuxpaint": "Tux Paint stamps, Bill Kendrick and contributors, GPL-2 (Debian "
                "tuxpaint-stamps-default)",
    "grocery": "GroceryStoreDataset, training split, Marcus Klasson and others, MIT",
    "words": "WordNet 3.0, Princeton University, WordNet licence (Debian wordnet-base)",
}
SKIPPED_CLIPART = ("/signs_and_symbols/", "/shapes/", "/special/", "/unsorted/", "/computer/",
                   "/geography/flags", "menu_example")
SKIPPED_STAMPS = ("/symbols/", "/military/")
FOOD = re.compile(r"fruit|vegetable|\bfood\b|\bnuts?\b")
COLOURS = {"black": (20, 20, 20), "grey": (128, 128, 128), "white": (245, 245, 245),
           "red": (200, 30, 30), "dark red": (110, 15, 25), "orange": (235, 130, 20),
           "yellow": (240, 215, 60), "green": (70, 150, 40), "dark green": (30, 80, 25),
           "yellow green": (170, 200, 60), "brown": (120, 75, 40), "light brown": (190, 145, 90),
           "purple": (95, 40, 95), "pink": (240, 150, 170), "blue": (40, 80, 190)}
NOUN_KINDS = {"05": "animal", "06": "thing", "13": "food", "17": "thing", "20": "plant",
              "27": "thing"}


def fetch(work):
    """Download and unpack all packages once; return the folder that holds them."""
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in NPM.items():
        target = folder / name.rsplit("/", 1)[-1]
        if not target.exists():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder,
                           check=True, stdout=subprocess.DEVNULL)
            stem = name.lstrip("@").replace("/", "-")
            with tarfile.open(folder / f"{stem}-{version}.tgz") as tar:
                tar.extractall(target, filter="data")
    for name in DEBIAN:
        if not (folder / name).exists():
            subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True,
                           stdout=subprocess.DEVNULL)
            package = next(folder.glob(f"{name}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, folder / name], check=True)
    return folder


def emoji_entries(folder):
    """(source, file, name, tags, is food) of the three emoji sets; no skin tones, no flags."""
    data = json.loads((folder / "emojibase-data/package/en/data.json").read_text("utf-8"))
    emoji = [e for e in data if e.get("group") in (1, 3, 4, 5, 6, 7)]
    for source, path in (("noto", "emoji-datasource-google/package/img/google/64/{}.png"),
                         ("twemoji", "emoji-datasource-twitter/package/img/twitter/64/{}.png"),
                         ("fluent", "fluent-emoji-3d/package/assets/{}.webp")):
        for e in emoji:
            code = e["hexcode"].lower()
            for name in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
                file = folder / path.format(name)
                if file.exists():
                    yield source, file, e["label"].lower(), e.get("tags", []), e["group"] == 4
                    break


def clipart_entries(folder):
    """(source, file, title, keywords, is food) of Open Clip Art; the metadata is in the SVGs."""
    root = folder / "openclipart-png/usr/share/openclipart/png"
    svg_root = folder / "openclipart-svg/usr/share/openclipart/svg"
    for file in sorted(root.rglob("*.png")):
        path = f"/{file.relative_to(root).as_posix()}"
        if any(part in path for part in SKIPPED_CLIPART) or "_bw" in path:
            continue
        title, keywords = svg_metadata(svg_root / path[1:].replace(".png", ".svg"))
        title = title or re.sub(r"_", " ", file.stem)
        yield "openclipart", file, clean(title), keywords, path.startswith("/food/")


def svg_metadata(path):
    """Title and keywords of an SVG of Open Clip Art."""
    for candidate in (path, Path(f"{path}.gz"), path.with_suffix(".svgz")):
        if candidate.exists():
            data = candidate.read_bytes()
            data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            text = data.decode("utf-8", "replace")
            title = re.search(r"<dc:title>([^<]*)", text)
            keywords = [clean(k) for k in re.findall(r"<rdf:li>([^<]*)", text)]
            return title and title.group(1), [k for k in keywords if k]
    return None, []


def stamp_entries(folder):
    """(source, file, caption, [], is food) of the photographs and drawings of Tux Paint."""
    root = folder / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for file in sorted(root.rglob("*.png")):
        path = f"/{file.relative_to(root).as_posix()}"
        text = file.with_suffix(".txt")
        if text.exists() and not any(part in path for part in SKIPPED_STAMPS):
            caption = clean(text.read_text("utf-8", "replace").splitlines()[0])
            yield "tuxpaint", file, caption, [clean(file.stem)], path.startswith("/food/")


def grocery_entries(root):
    """(source, file, class name, [coarse name], is food) of the grocery photographs."""
    for file in sorted(root.rglob("*.jpg")):
        kind, coarse, *fine = file.relative_to(root).parts[:-1]
        coarse = coarse.replace("-", " ").lower()
        name = fine[0].replace("-", " ").lower() if fine else coarse
        if kind != "Packages" and coarse not in name and not name.endswith("melon"):
            name = f"{name} {coarse}"
        yield "grocery", file, name, [coarse], kind != "Packages"


def clean(text):
    """Lower case, no numbers, punctuation, articles or runs of blanks."""
    text = re.sub(r"[\d_#?!.,:;\"()]+", " ", text.lower()).strip()
    text = re.sub(r"^(an?|the|some|this is an?) ", "", text)
    return re.sub(r"\s+", " ", text).strip()


def decode(file):
    """A picture as a square RGBA array: cut-outs are cropped to their content and padded.

    None for an empty picture and for the few clip-arts of more than 20 million pixels.
    """
    try:
        image = Image.open(file).convert("RGBA")
    except Image.DecompressionBombError:
        return None
    if image.getextrema()[3][0] == 255:
        return np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS))
    box = image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if max(image.size) < SIDE:
        scale = SIDE / max(image.size)
        size = [max(1, round(scale * side)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(canvas)


def colour_word(picture):
    """The nearest colour word of a cut-out's average colour, or '' for photographs."""
    opaque = picture[..., 3] > 128
    if opaque.mean() > 0.98 or opaque.sum() < 50:
        return ""
    pixels = picture[opaque][:, :3].astype(np.float32)
    words = list(COLOURS)
    palette = np.array([COLOURS[word] for word in words], np.float32)
    nearest = ((pixels[::7, None] - palette) ** 2).sum(-1).argmin(1)
    counts = np.bincount(nearest, minlength=len(words))
    return words[counts.argmax()] if counts.max() > 0.4 * counts.sum() else ""


def captions(name, tags, colour, food):
    """The captions of one picture, the plainest first."""
    result = [name]
    if colour:
        result += [f"{colour} {name}", f"{name} {colour}"]
    if food:
        result += [f"{tag} {name}" for tag in tags if tag not in name][:1]
        result += [f"{name}, a type of food"]
    elif tags:
        result += [f"{name}, {', '.join(tags[:3])}", tags[0]]
    return list(dict.fromkeys(result))


def split_of(source, name, file):
    """'val' for a fixed tenth of grocery and a fixed third of Tux Paint's food, else 'train'."""
    share = {"grocery": 10, "tuxpaint": 33}.get(source, 0)
    if source == "tuxpaint" and "/food/" not in str(file):
        share = 0
    return "val" if zlib.crc32(f"{name}/{file.name}".encode()) % 100 < share else "train"


def nouns(folder):
    """Nouns of WordNet for things one can see; no Latin names of animals and plants."""
    path = folder / "wordnet-base/usr/share/wordnet/data.noun"
    words = {}
    for line in path.read_text("utf-8").splitlines():
        fields = line.split()
        if line.startswith(" ") or fields[1] not in NOUN_KINDS:
            continue
        kind = NOUN_KINDS[fields[1]]
        for lemma in fields[4:4 + 2 * int(fields[3], 16):2]:
            word = lemma.replace("_", " ").lower()
            latin = lemma[0].isupper() and kind in ("animal", "plant")
            latin |= word.startswith("genus ")
            if re.fullmatch(r"[a-z' -]{3,30}", word) and not latin and words.get(word) != "food":
                words[word] = kind
    return [{"word": word, "kind": kind} for word, kind in words.items()]


def collect(entries, limit):
    """Decode all entries; return the pictures and their rows."""
    pictures, rows = [], []
    for source, file, name, tags, food in entries:
        picture = decode(file) if name else None
        if picture is None:
            continue
        tags = [clean(tag) for tag in tags]
        food = food or bool(FOOD.search(" ".join(tags)))
        colour = colour_word(picture)
        pictures.append(picture)
        rows.append({"index": len(rows), "source": source, "name": name, "food": int(food),
                     "photo": int(source == "grocery"), "colour": colour,
                     "split": split_of(source, name, file),
                     "captions": "|".join(captions(name, tags, colour, food))})
        if limit and len(rows) >= limit:
            break
    return np.stack(pictures), rows


def write_sources(path, rows, words):
    """One line a source: what it is, its licence and how many items of it are used."""
    counts = {source: sum(row["source"] == source for row in rows) for source in LICENCES}
    counts["words"] = len(words)
    write_table(path, [{"source": s, "items": counts[s], "origin and licence": text}
                       for s, text in LICENCES.items()])


def main():
    """Collect everything into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("--grocery", type=Path, required=True, help="grocery's train folder")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many pictures")
    args = parser.parse_args()

    Image.MAX_IMAGE_PIXELS = 10_000_000
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    folder = fetch(args.work)
    entries = [*emoji_entries(folder), *clipart_entries(folder), *stamp_entries(folder),
               *grocery_entries(args.grocery)]
    if args.limit:
        random.Random(0).shuffle(entries)
    pictures, rows = collect(entries, args.limit)
    words = nouns(folder)
    save_array(args.work / "pictures.npy", pictures)
    write_table(args.work / "pictures.tsv", rows)
    write_table(args.work / "words.tsv", words)
    write_sources(args.work / "sources.tsv", rows, words)
    for row in read_table(args.work / "sources.tsv"):
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
