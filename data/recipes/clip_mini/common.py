"""What the steps of the recipe share: folders, the table of pictures and atomic files."""

import csv
import os
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[3]
WORK = REPOSITORY / ".cache" / "clip_mini"
WEIGHTS = REPOSITORY / "data" / "weights"
SIDE = 160
JOINT = 256
TEMPLATES = ("{}", "a photo of a {}.", "a photo of a {}, a type of fruit.",
             "a photo of one {} on a white background.", "a close-up photo of a {}.",
             "a picture of a {}.")


def add_work(parser):
    """Every step takes --work, the folder for packages, pictures, caches and checkpoints."""
    parser.add_argument("--work", type=Path, default=WORK, help="folder of all work files")


def read_table(path):
    """The rows of a tab-separated table as dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_table(path, rows):
    """Write dictionaries of equal keys as a tab-separated table."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def save(path, value):
    """torch.save that never leaves half a file."""
    partial = Path(f"{path}.partial")
    torch.save(value, partial)
    os.replace(partial, path)


def save_array(path, array):
    """np.save that never leaves half a file."""
    partial = Path(f"{path}.partial")
    with open(partial, "wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def unit(x):
    """Rows of length one."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def use_one_thread():
    """One thread a process: the steps run side by side."""
    torch.set_num_threads(1)
