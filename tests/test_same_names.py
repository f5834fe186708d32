"""Two encoders of one name: every notebook has rows of both, each of its own weights."""

import json
from pathlib import Path
from unittest.mock import MagicMock

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

import cliphelpers as ch

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
PIXELS = "10x10 raw pixels"
SMALL = {
    "splits": ["official"], "seeds": [0], "shots": [1], "strengths": [0.1], "wise_alphas": [0.5],
    "ridge_strengths": [0.1], "alphas": [1.0], "betas": [1.0], "templates": ["{}", "a {}."],
    "tested": 2, "epochs": 1, "compared": 4, "rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a cache of its own, for all notebooks."""
    folder = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch, plt.rc_context():
        patch.setenv("CLIPHELPERS_CACHE", str(folder / "cache"))
        patch.chdir(NOTEBOOKS[0].parent)
        for draws in (
            "dots",
            "curves",
            "confusion_matrix",
            "feature_map",
            "picture_grid",
            "save_fig",
        ):
            patch.setattr(ch, draws, MagicMock())  # figures are not looked at
        yield folder


@pytest.fixture(scope="module")
def specs(place, clip_vit, timm_spec):
    """Texts of two encoders of one name and other weights, of each kind: "clip" and "timm"."""
    made, (timm, _, file) = {}, timm_spec.partition("@")
    for kind, start, path in (("clip", "clip:", clip_vit), ("timm", f"{timm}@", file)):
        state, made[kind] = torch.load(path), []
        for run in ("runA", "runB"):
            (place / kind / run).mkdir(parents=True)
            torch.save(state, place / kind / run / "model.pt")
            made[kind].append(f"{start}{place / kind / run / 'model.pt'}")
            noise = torch.Generator().manual_seed(0)
            state = {name: value + torch.randn(value.shape, generator=noise).to(value.dtype)
                     if value.ndim > 1 else value for name, value in state.items()}  # fmt: skip
    return made


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_of_two_encoders_of_one_name_are_told_apart(path, place, specs, fruits):
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    parameters = {}
    exec(cells[0], {}, parameters)
    kind = "timm" if path.stem[:2] in ("04", "06", "07") else "clip"
    given = {"data": str(fruits), "encoders": specs[kind], "output": str(place)} | SMALL
    if path.stem[:2] == "07":
        given |= {"interpolations": ["bicubic", "lanczos"], "strengths": [0.1, 0.01]}
    names = dict(parameters) | {name: given[name] for name in given.keys() & parameters.keys()}
    for cell in cells[1:]:
        exec(cell, names)
    results, label = place / "results", "CLIP model" if kind == "clip" else "test_vit"
    mine = [f"{label} ({run})" for run in ("runA", "runB")]
    table = pd.read_csv(results / f"{path.stem}.csv")
    twins = [f"{name} (random weights)" for name in mine]
    assert set(mine) <= set(table.encoder.dropna()) <= {*mine, *twins, " − ".join(mine), PIXELS}
    value = "value"
    if path.stem[:2] == "06":  # where both tell all pictures right
        table, value = pd.read_csv(results / f"{path.stem}_curves.csv"), "loss"
    first, second = (sorted(table[value][table.encoder == name]) for name in mine)
    assert len(first) == len(second) > 0 and first != second
