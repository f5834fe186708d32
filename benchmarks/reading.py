"""How far are features from the peers' where files are read differently?

    python benchmarks/reading.py          # writes benchmarks/reading.csv

Twenty pictures of data/fruits-mini are saved as people's files come, and read by read_image and by
the preprocessing of clip and of open_clip; for timm with its crop of 0.9 for CLIP's towers. Of the
features of one encoder the mean and the largest 1 - cosine are written: 0 is the same.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import clip
import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from PIL.ExifTags import Base

import cliphelpers as ch
from cliphelpers.encoders.encoder import encode_batch, normalize

DATA = Path(__file__).parents[1] / "data"
TURNED = Image.Exif()
TURNED[Base.Orientation] = 6  # by a quarter


def cut_out(picture):
    """The thing alone: its white background transparent, and black beneath."""
    thing = np.min(picture, 2, keepdims=True) < 235
    return Image.fromarray(np.dstack([picture * thing, 255 * thing]).astype(np.uint8))


CASES = {
    "plain": lambda picture: picture,
    "EXIF rotation": lambda picture: picture,
    "transparency": cut_out,
    "palette with transparency": lambda picture: cut_out(picture).quantize(),
    "16-bit grey": lambda picture: Image.fromarray(np.uint16(picture.convert("L")) * 257),
    "8-bit grey": lambda picture: picture.convert("L"),
    "CMYK": lambda picture: picture.convert("CMYK"),
}


def measure(encoder, pictures, folder):
    """Yield the rows of the table."""
    look = encoder.preprocess
    way = {"is_train": False, "mean": look.mean, "std": look.std}
    peers = {"clip": clip.clip._transform(look.size)}
    peers["open_clip"] = open_clip.image_transform(look.size, **way)

    def ours(look):
        return encode_batch(encoder, np.stack([look(ch.read_image(path)) for path in paths]))

    def row(case, peer, A, B):
        less = (1 - (normalize(A) * normalize(B)).sum(1)).clip(0)
        return {"file": case, "peer": peer, "mean": less.mean(), "largest": less.max()}

    for case, change in CASES.items():
        ending = "tif" if case == "CMYK" else "png"
        paths = [f"{folder}/{number}.{ending}" for number in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            change(picture).save(path, **({"exif": TURNED} if case == "EXIF rotation" else {}))
        for peer, transform in peers.items():
            batch = torch.stack([transform(Image.open(path)) for path in paths])
            yield row(case, peer, ours(look), encoder.module(batch).numpy())
        if case == "plain":
            larger = replace(look, resize=int(look.size / 0.9))
            yield row(case, "timm", ours(look), ours(larger))


if __name__ == "__main__":
    index = ch.index_images(DATA / "fruits-mini")
    some = index.path.iloc[np.linspace(0, len(index) - 1, 20).astype(int)]
    spec = f"clip:{DATA / 'weights' / 'clip-mini-vit.pt'}"
    encoder = replace(ch.load_encoders([spec])[0], device="cpu")
    with TemporaryDirectory() as folder, torch.inference_mode():
        table = pd.DataFrame(measure(encoder, [ch.read_image(path) for path in some], folder))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4f")
