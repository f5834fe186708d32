"""The image towers of `--labels` as encoders: clip-mini's twins that learned labels, not captions.

module:data/weights/label_twin.py@data/weights/clip-mini-vit-labels.safetensors
"""

from pathlib import Path

from clip.model import ModifiedResNet, VisionTransformer

from cliphelpers import Encoder, Preprocess, read_state
from cliphelpers.encoders.preprocess import CLIP_MEAN, CLIP_STD
from cliphelpers.encoders.pretrained import before_projection

JOINT = 256


def encoder(file):
    """The tower of a file that export.py wrote; features before the projection, as of CLIP."""
    state = {k: v.float() for k, v in read_state(file).items() if not k.startswith("head.")}
    if "proj" in state:
        size, visual = 224, VisionTransformer(224, 32, 192, 8, 3, JOINT)
    else:
        size, visual = 160, ModifiedResNet((1, 2, 2, 1), JOINT, 24 * 32 // 64, 160, 24)
    visual.load_state_dict(state)
    module, _ = before_projection(visual)
    preprocess = Preprocess(size, size, "bicubic", CLIP_MEAN, CLIP_STD)
    return Encoder(Path(file).stem, module, preprocess, features="pre-projection")
