import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from cliphelpers.data import clip_of, index_images
from cliphelpers.evaluation import COLUMNS

ROOT = Path(__file__).parents[1]


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "report" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tables = load("tables")


def test_the_readme_holds_the_numbers_of_the_committed_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- end -->") >= 4
    assert tables.fill(text) == text, "run: python report/tables.py"


def test_a_changed_number_is_put_right():
    made = tables.fill("a\n<!-- minutes embedded photographs -->\n| 1 |\n<!-- end -->\nb")
    head = "| minutes | `make figures` | photographs, features kept |"
    assert made.startswith(f"a\n<!-- minutes embedded photographs -->\n{head}\n| --- |")
    assert "\n| 07_upsampling | " in made and made.count(" |  |\n") >= 3  # 05 to 07 of one run only
    assert made.endswith("<!-- end -->\nb") and "| 1 |" not in made


# ------------------------------------------------------------------------------- report.pdf


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("typst")
    return load("build")


@pytest.fixture
def checkout(tmp_path):
    """The report's sources without any results and figures."""
    for path in ("report", "cliphelpers", "benchmarks", "data/recipes/clip_mini"):
        ignored = shutil.ignore_patterns("results", "__pycache__")
        shutil.copytree(ROOT / path, tmp_path / path, ignore=ignored)
    return tmp_path


def said(compiler, selector):
    """The texts of all elements that a selector finds, spaces and invisible breaks removed."""

    def texts(node):
        if isinstance(node, list):
            return "".join(map(texts, node))
        if not isinstance(node, dict):
            return ""
        if node["func"] == "text":
            return node["text"]
        return "".join(texts(node.get(part)) for part in ("body", "child", "children", "caption"))

    found = json.loads(compiler.query(selector))
    return [re.sub(r"[\s\u200b]", "", texts(one)) for one in found]


def missing(compiler):
    return json.loads(compiler.query("<missing>", field="value"))


def test_the_committed_report_is_of_the_committed_tables_and_figures(build):
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "pics"]
    if subprocess.run(status, capture_output=True, text=True).stdout:
        pytest.skip("pics/ holds figures that are not committed: make report, then commit both")
    made, committed = build.compiler().compile(), (ROOT / "report.pdf").read_bytes()
    version = re.compile(rb"/Creator \(?(Typst [\d.]+)|/Creator\((Typst [\d.]+)")
    if version.search(made).group() != version.search(committed).group():
        pytest.skip("report.pdf was made by another version of Typst")
    assert made == committed, "run: make report"


@pytest.mark.parametrize("run", ["embedded", "photographs"])
def test_the_report_holds_the_accuracies_of_the_probes(build, run):
    rows = tables.read(run)
    rows = rows[rows.experiment.str.startswith("04") & (rows.metric == "top-1")]
    (table,) = said(build.compiler(), f"<{run}-probes>")
    for row in rows[rows.shots.isna()].itertuples():
        assert row.encoder.replace(" ", "") in table
        # halves may be rounded up or down
        near = [tables.interval(row._replace(value=row.value + tiny)) for tiny in (-1e-9, 1e-9)]
        assert any(re.sub(r"[ %]", "", one) in table for one in near), row


def test_a_report_without_results_says_what_is_missing(build, checkout):
    compiler = build.compiler(checkout)
    assert compiler.compile().startswith(b"%PDF")
    names = {Path(path).name[:2] for path in missing(compiler)}
    assert names == {"01", "02", "04", "05", "06", "07"}


def test_the_report_takes_new_tables_and_judges_by_their_intervals(build, checkout):
    same = {"dataset": "some", "seed": 0, "n": 123, "features": "joint, bicubic"}

    def write(experiment, *rows):
        folder = checkout / "report" / "results" / "photographs"
        folder.mkdir(parents=True, exist_ok=True)
        keys = ["split", "encoder", "method", "shots", "metric", "value", "low", "high"]
        table = pd.DataFrame([dict(zip(keys, row, strict=True)) | same for row in rows])
        table = table.assign(experiment=experiment).reindex(columns=COLUMNS)
        table.to_csv(folder / f"{experiment}.csv", index=False)

    less, change = "fine-tuned ML − linear probe", "top-1 difference"
    write(
        "05_fine_tune_clip",
        ("by_clip", "CLIP new", "linear probe", 7, "top-1", 0.5, 0.4, 0.6),
        ("by_clip", "CLIP new", "fine-tuned ML", 7, "top-1", 0.61234, 0.5, 0.7),
        ("by_clip", "CLIP new", less, 7, change, 0.11234, 0.02, 0.2),
        ("by_clip", "CLIP worse", less, 7, change, -0.3, -0.4, -0.2),
        ("by_clip", "CLIP same", less, 7, change, 0.0, -0.1, 0.1),
    )
    compiler = build.compiler(checkout)
    assert "report/results/photographs/05_fine_tune_clip.csv" not in missing(compiler)
    (table,) = said(compiler, "<photographs-tuned>")
    assert "fine-tunedML61.2(50.0to70.0)" in table
    (differences,) = said(compiler, "<photographs-tuned-differences>")
    assert "CLIPworsefine-tunedML−30.0(−40.0to−20.0)" in differences
    text = " ".join(said(compiler, "par"))
    assert "CLIPnew+11.2points(+2.0to+20.0),higher" in text
    assert "CLIPworse−30.0points(−40.0to−20.0),lower" in text
    assert "CLIPsame0.0points(−10.0to+10.0),notdecided" in text
    assert "higherin1,lowerin1andnotdecidedin1of3comparisons" in text


# ------------------------------------------------------------------------------- its own tables


def test_the_facts_about_the_pictures_are_so():
    for row in pd.read_csv(ROOT / "report" / "data-sets.csv").itertuples():
        if not (ROOT / row.folder).exists():
            assert row.folder.startswith("../")  # what measuring needs beside the repository
            continue
        index = index_images(ROOT / row.folder)
        clips = index.groupby("label")["clip"].nunique()
        counted = (clips.size, len(set(clip_of(index))), clips.min(), clips.max())
        assert (row.classes, row.clips, row.fewest, row.most) == counted
