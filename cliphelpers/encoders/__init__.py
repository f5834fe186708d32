"""Image encoders: CLIP, torchvision, timm or a module of one's own, told from a short text."""

from cliphelpers.encoders.encoder import Encoder, EncoderError, joint, random_twin, raw_pixels
from cliphelpers.encoders.load import load_clips, load_encoder
from cliphelpers.encoders.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
)
from cliphelpers.encoders.weights import read_state

__all__ = [
    "CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "Encoder", "EncoderError",
    "Preprocess", "joint", "load_clips", "load_encoder", "random_twin", "raw_pixels", "read_state",
]  # fmt: skip
