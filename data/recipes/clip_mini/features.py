"""Step 3: EfficientNet-Lite0's features and ImageNet logits of every view.

    python data/recipes/clip_mini/features.py [--work FOLDER] [--part 0/2]

Run one process a part, side by side. Goes on where it was stopped. Writes features-I-of-N.npy
and logits-I-of-N.npy, half precision, one row a view (views I, I + N, I + 2N, ...).
"""

import argparse
import time

import numpy as np
import timm
import torch
from common import WEIGHTS, add_work, use_one_thread
from torch.nn.functional import interpolate

BATCH, INPUT = 64, 192


def open_rows(path, rows, columns):
    """A half-precision array on disk, kept if it is there already; unwritten rows are zero."""
    if path.exists():
        return np.lib.format.open_memmap(path, "r+")
    return np.lib.format.open_memmap(path, "w+", np.float16, (rows, columns))


@torch.inference_mode()
def encode(model, batch):
    """Pooled features and logits of uint8 pictures (N, H, W, 3)."""
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
    x = interpolate(x, (INPUT, INPUT), mode="bilinear", align_corners=False)
    x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    return pooled.half().numpy(), model.get_classifier()(pooled).half().numpy()


def main():
    """Encode one part of the views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("--part", default="0/1", help="which part of how many, e.g. 0/2")
    parser.add_argument("--weights", default=WEIGHTS / "tf_efficientnet_lite0.safetensors")
    args = parser.parse_args()

    use_one_thread()
    part, parts = map(int, args.part.split("/"))
    views = np.load(args.work / "views.npy", mmap_mode="r")[part::parts]
    name = f"{part}-of-{parts}.npy"
    features = open_rows(args.work / f"features-{name}", len(views), 1280)
    logits = open_rows(args.work / f"logits-{name}", len(views), 1000)
    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(args.weights)).eval()
    model = model.to(memory_format=torch.channels_last)
    start, done = time.time(), int((features[:, :64] != 0).any(1).sum())
    for first in range(done - done % BATCH, len(views), BATCH):
        rows = slice(first, first + BATCH)
        features[rows], logits[rows] = encode(model, views[rows])
        if first % (50 * BATCH) == 0:
            print(f"{first} of {len(views)} after {time.time() - start:.0f} s", flush=True)
    features.flush()
    logits.flush()
    print(f"{len(views)} views in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
