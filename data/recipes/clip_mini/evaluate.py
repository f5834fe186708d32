"""Step 8: zero-shot figures of an exported model.

    python data/recipes/clip_mini/evaluate.py MODEL [--work FOLDER]      held-out pictures
    python data/recipes/clip_mini/evaluate.py MODEL --fruits FOLDER      Fruits-360's Test

Choices are made on the held-out grocery photographs and Tux Paint stamps only; Fruits-360 is for
one look at the end. A class's text is the mean over the templates. "By name" counts an answer as
right when the names agree without their numbers (Tomato 1 and Tomato 4).
"""

import argparse
import re
from pathlib import Path

import clip
import numpy as np
import torch
from common import TEMPLATES, add_work, read_table, unit, use_one_thread
from PIL import Image
from teacher import candidate_names

BATCH = 128


@torch.inference_mode()
def encode_texts(model, names):
    """One unit vector a name, the mean over the templates."""
    rows = []
    for name in names:
        tokens = clip.tokenize([template.format(name) for template in TEMPLATES])
        rows.append(unit(model.encode_text(tokens)).mean(0))
    return unit(torch.stack(rows))


@torch.inference_mode()
def encode_images(model, preprocess, images):
    """One unit vector a picture."""
    rows, batch = [], []
    for image in images:
        batch.append(preprocess(image))
        if len(batch) == BATCH:
            rows.append(model.encode_image(torch.stack(batch)))
            batch = []
    if batch:
        rows.append(model.encode_image(torch.stack(batch)))
    return unit(torch.cat(rows))


def figures(image, text, labels, names):
    """Top-1, top-5, top-1 by name, and the share of the most frequent answer."""
    names = [re.sub(r"[\d ]+$", "", name) for name in names]
    best = (image @ text.T).topk(5).indices
    hits = best == labels[:, None]
    same = [names[a] == names[b] for a, b in zip(best[:, 0].tolist(), labels.tolist(),
                                                strict=True)]
    most = torch.bincount(best[:, 0]).max() / len(best)
    return (f"{len(best)} pictures, {len(names)} classes: top-1 {hits[:, 0].float().mean():.4f} "
            f"top-5 {hits.any(1).float().mean():.4f} by name {np.mean(same):.4f} "
            f"most frequent answer {most:.3f}")


def held_out(work):
    """Per kind: (pictures, labels, names) of the held-out food."""
    rows = read_table(work / "pictures.tsv")
    names = candidate_names(rows)
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    views = np.load(work / "views.npy", mmap_mode="r")
    table = read_table(work / "views.tsv")
    for kind in ("photo", "patch", "cutout"):
        picked = [(n, rows[int(v["picture"])]) for n, v in enumerate(table)
                  if v["kind"] == kind and v["split"] == "val" and v["food"] == "1"]
        images = [Image.fromarray(views[n]) for n, _ in picked]
        yield kind, images, [names.index(row["name"]) for _, row in picked], names
    picked = [r for r in rows if r["split"] == "val" and r["food"] == "1"]
    images = [on_white(pictures[int(r["index"])]) for r in picked]
    yield "plain", images, [names.index(r["name"]) for r in picked], names


def on_white(picture):
    """An RGBA picture on white."""
    image = Image.fromarray(picture)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def fruits(folder):
    """(pictures, labels, names) of a folder with one subfolder a class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, n) for n, path in enumerate(classes) for file in sorted(path.glob("*.jpg"))]
    images = (Image.open(file).convert("RGB") for file, _ in files)
    return images, [n for _, n in files], [path.name.lower() for path in classes]


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("model")
    parser.add_argument("--fruits", type=Path, help="Fruits-360's Test folder")
    args = parser.parse_args()

    use_one_thread()
    model, preprocess = clip.load(args.model, device="cpu")
    sets = [("fruits", *fruits(args.fruits))] if args.fruits else held_out(args.work)
    for kind, images, labels, names in sets:
        if not labels:  # a small run may hold none of a kind
            continue
        image = encode_images(model, preprocess, images)
        print(f"{kind}: {figures(image, encode_texts(model, names), torch.tensor(labels), names)}")


if __name__ == "__main__":
    main()
