"""Step 7: write a trained model in CLIP's file format, in half precision.

    python data/recipes/clip_mini/export.py vit|rn [--labels] [--work FOLDER] [--out FILE]

Takes the moving averages of the checkpoints, finished or not. clip.load(FILE, device="cpu") reads
the result. Tokens that no training text holds get rows of zeros, and the archive is compressed,
which makes it about half as large. With --labels it writes an ImageNet twin instead: CLIP's image
tower (keys as in CLIP, without `visual.`) and its 1000-way `head`, as safetensors.
"""

import argparse
import io
import os
import zipfile
from pathlib import Path

import torch
from common import WEIGHTS, add_work
from safetensors.torch import save_file
from torch import nn
from towers import VISION, build

SCALE = 20.0


def part(state, prefix):
    """The entries below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def load_text(model, checkpoint, text_map):
    """Put the text tower into the model, its projection led on into the joint space."""
    state = part(checkpoint["mean"], "model.")
    table = torch.zeros_like(model.token_embedding.weight)
    table[checkpoint["vocabulary"]] = state["token_embedding.weight"]
    state["token_embedding.weight"] = table
    state["text_projection"] = state["text_projection"] @ text_map["weight"].T
    shift = torch.linalg.lstsq(state["text_projection"].T, text_map["bias"][:, None]).solution
    state["ln_final.bias"] = state["ln_final.bias"] + shift[:, 0]
    error = (shift[:, 0] @ state["text_projection"] - text_map["bias"]).abs().max().item()
    if error > 1e-3:
        raise ValueError(f"the shift of the texts does not fit into ln_final ({error:.4f})")
    missing = model.load_state_dict(state, strict=False).missing_keys
    if any(not name.startswith("visual.") for name in missing):
        raise ValueError(f"missing in the text checkpoint: {missing}")


def halve(model):
    """The state dict with half-precision weights; norms stay in single precision, as in CLIP."""
    norms = {f"{name}.{key}" for name, module in model.named_modules()
             if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))
             for key in module.state_dict()}
    return {name: value if name in norms or not value.is_floating_point() else value.half()
            for name, value in model.state_dict().items()}


def save_compressed(path, state):
    """torch.save with a compressed archive, which torch.load reads as well."""
    plain = io.BytesIO()
    torch.save({k: v.contiguous().clone() for k, v in state.items()}, plain)
    partial = Path(f"{path}.partial")
    with (zipfile.ZipFile(plain) as source,
          zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    os.replace(partial, path)


def main():
    """Export one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("tower", choices=list(VISION))
    parser.add_argument("--labels", action="store_true", help="export the ImageNet twin")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    name = f"{args.tower}-labels" if args.labels else args.tower
    checkpoint = torch.load(args.work / f"{name}.pt")
    model = build(args.tower)
    model.visual.load_state_dict(part(checkpoint["mean"], "model."))
    suffix = "safetensors" if args.labels else "pt"
    out = args.out or WEIGHTS / f"clip-mini-{name}.{suffix}"
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.labels:
        state = halve(model.visual)
        head = part(checkpoint["mean"], "to_labels.")
        state |= {f"head.{key}": value.half() for key, value in head.items()}
        save_file({k: v.contiguous() for k, v in state.items()}, out)
    else:
        teacher = torch.load(args.work / "teacher.pt")
        load_text(model, torch.load(args.work / "text.pt"), teacher["text"])
        model.logit_scale.data.fill_(SCALE).log_()
        save_compressed(out, halve(model))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {checkpoint['step']} steps "
          f"({checkpoint['seconds'] / 60:.0f} min)")


if __name__ == "__main__":
    main()
