"""CLIP's own network in a small size, and how to run its towers at less than full size."""

import clip
import torch
from clip.model import CLIP
from common import JOINT
from torch.func import functional_call
from torch.nn.functional import interpolate

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
VISION = {"vit": {"image_resolution": 224, "vision_layers": 8, "vision_width": 192,
                  "vision_patch_size": 32},
          "rn": {"image_resolution": 160, "vision_layers": (1, 2, 2, 1), "vision_width": 24,
                 "vision_patch_size": None}}
TEXT = {"context_length": 77, "vocab_size": 49408, "transformer_width": 256,
        "transformer_heads": 4, "transformer_layers": 3}
POSITION = {"vit": "positional_embedding", "rn": "attnpool.positional_embedding"}
WIDTH = {"vit": 192, "rn": 768}


def build(kind):
    """A fresh CLIP with the given image tower, in single precision."""
    return CLIP(JOINT, **VISION[kind], **TEXT).float()


def resized(position, cells):
    """Positional embeddings, the first for the whole picture, on a grid of `cells` a side."""
    side = round((len(position) - 1) ** 0.5)
    if side == cells:
        return position
    grid = position[1:].T.reshape(1, -1, side, side)
    grid = interpolate(grid, (cells, cells), mode="bicubic", align_corners=False)
    return torch.cat([position[:1], grid.flatten(2)[0].T])


class ImageTower:
    """CLIP's image tower at any resolution that is a multiple of 32, with its inner features."""

    def __init__(self, kind, visual):
        self.kind, self.visual, self.inner = kind, visual, None
        inner = visual.ln_post if kind == "vit" else visual.layer4
        inner.register_forward_hook(self._keep)

    def _keep(self, _module, _inputs, output):
        self.inner = output if self.kind == "vit" else output.mean((2, 3))

    def __call__(self, pictures):
        """(joint embedding, features before the projection) of normalised pictures."""
        name = POSITION[self.kind]
        position = self.visual.get_parameter(name)
        changed = {name: resized(position, pictures.shape[-1] // 32)}
        return functional_call(self.visual, changed, (pictures,)), self.inner


def normalise(pictures, size):
    """uint8 pictures (N, H, W, 3) as CLIP's input of the given size."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    if x.shape[-1] != size:
        x = interpolate(x, (size, size), mode="bilinear", align_corners=False,
                        antialias=size < x.shape[-1])
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


def tokenize(texts):
    """CLIP's token numbers, (N, 77)."""
    return clip.tokenize(list(texts), truncate=True)


def encode_text(model, embedding, tokens, ends):
    """CLIP's encode_text on the first columns only: no token sees what comes after it.

    `embedding` holds a row for each number in `tokens`; `ends` is the column of the end token.
    """
    length = tokens.shape[1]
    x = (embedding[tokens] + model.positional_embedding[:length]).permute(1, 0, 2)
    for block in model.transformer.resblocks:
        full, block.attn_mask = block.attn_mask, block.attn_mask[:length, :length]
        x = block(x)
        block.attn_mask = full
    x = model.ln_final(x.permute(1, 0, 2)[torch.arange(len(tokens)), ends])
    return x @ model.text_projection
