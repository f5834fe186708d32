"""SRGAN, pictures of 100x100 four times larger: ours, plain fp32 PyTorch, and TensorFlow.

All three have the same weights, and enlarge one picture after another as the original package does.
TensorFlow lives in an environment of its own, since its packages clash with ours: `make bench`
makes it.
"""

import numpy as np

from timed.comparison import Comparison, Contrast, Disagreement, Prepared, Side
from timed.inputs import ROOT, WEIGHTS, some_pictures

TENSORFLOW = str(ROOT / "build" / "tensorflow" / "bin" / "python")
PICTURES, SIDE = 8, 100


def ours(file):
    """cliphelpers.srgan.upscale."""
    from cliphelpers.srgan import load_generator, upscale

    generator = load_generator(file)
    return lambda pictures: np.stack([upscale(generator, one) for one in pictures])


def plain_pytorch(file):
    """The generator as one writes it down, layers in a row, in PyTorch's default memory format."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    def conv(before, after, size=3):
        return nn.Conv2d(before, after, size, padding=size // 2)

    class Residual(nn.Module):
        def __init__(self, **layers):
            super().__init__()
            for name, layer in layers.items():
                self.add_module(name, layer)

        def forward(self, x):
            y = x
            for layer in self.children():
                y = layer(y)
            return x + y

    def block():
        return Residual(
            conv1=conv(64, 64), bn1=nn.BatchNorm2d(64), prelu=nn.PReLU(64),
            conv2=conv(64, 64), bn2=nn.BatchNorm2d(64),
        )  # fmt: skip

    def doubling():
        layers = nn.Sequential()
        layers.conv, layers.shuffle, layers.prelu = conv(64, 256), nn.PixelShuffle(2), nn.PReLU(64)
        return layers

    blocks = nn.Sequential(*[block() for _ in range(16)])
    network = nn.Sequential()
    network.conv_in, network.prelu_in = conv(3, 64, 9), nn.PReLU(64)
    network.body = Residual(blocks=blocks, conv_mid=conv(64, 64), bn_mid=nn.BatchNorm2d(64))
    network.up = nn.Sequential(doubling(), doubling())
    network.conv_out = conv(64, 3, 9)
    inner = ("blocks.", "conv_mid.", "bn_mid.")
    state = load_file(file).items()
    state = {f"body.{name}" if name.startswith(inner) else name: value for name, value in state}
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("num_batches" in key for key in missing.missing_keys)
    network.eval()

    def enlarge(picture):
        batch = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().float() / 255
        large = (network(batch)[0].tanh() + 1) / 2
        return (large * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def run(pictures):
        with torch.no_grad():
            return np.stack([enlarge(one) for one in pictures])

    return run


def same_pictures(ours, peer):
    """Rounding alone may differ: by one level of 255, in one number of a thousand."""
    if np.shape(ours) != np.shape(peer):
        raise Disagreement(f"pictures: shapes {np.shape(ours)} and {np.shape(peer)}")
    far = np.abs(ours.astype(int) - peer.astype(int))
    if far.max() > 1 or (far > 0).mean() > 1e-3:
        words = f"pictures differ by up to {far.max()} levels, in {(far > 0).mean():.2%}"
        raise Disagreement(f"{words} of the numbers")


def prepare(folder, small):
    """Pictures, 100x100, and the embedded weights."""
    from PIL import Image

    from cliphelpers.srgan import load_generator
    from timed.inputs import flops

    paths = some_pictures(1 if small else PICTURES)
    pictures = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in paths]
    pictures = np.stack([np.asarray(one) for one in pictures])
    file = str(WEIGHTS / "srgan-generator.safetensors")

    def job(number, place):
        return {"pictures": pictures[:1] if number < 0 else pictures}

    return Prepared({"file": file}, job, len(pictures), flops(load_generator(file), SIDE))


def _srgan():
    sides = {
        "ours": Side("enlarging:ours"),
        "plain PyTorch": Side("enlarging:plain_pytorch"),
        "TensorFlow": Side("enlarging_keras:keras_generator", TENSORFLOW),
    }
    work, bars = "SRGAN, 100x100 four times larger", {"plain PyTorch": 1.8, "TensorFlow": 1.5}
    contrasts = [Contrast(work, "ours", peer, bar, same_pictures) for peer, bar in bars.items()]
    return Comparison("srgan", "pictures/s", sides, contrasts, prepare)


COMPARISONS = [_srgan()]
