"""The runner and the command line, with tiny notebooks and then with the real ones."""

import json
import resource
import shutil

import nbformat
import pandas as pd
import pytest

from cliphelpers import runner
from cliphelpers.cli import main
from cliphelpers.evaluation import COLUMNS
from cliphelpers.runner import RunError, find_notebooks, parse_value

PARAMETERS = """\
data = ""
encoders = ["clip:RN50"]
splits = ["official"]
seeds = [0]
output = "out"
rate = 0.5
"""
SAVE = """\
from pathlib import Path
place = Path(output) / "results"
place.mkdir(parents=True, exist_ok=True)
(place / "{name}.txt").write_text(repr((data, encoders, rate)))
"""


def write_notebook(folder, name, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_markdown_cell("# Title")]
    book.cells += [nbformat.v4.new_code_cell(text) for text in (PARAMETERS, *cells)]
    book.cells[1].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Two good notebooks and a faulty one between them, in the runner's folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write_notebook(folder, "01_first", SAVE.format(name="first"), "half_a_gib = b'x' * 2**29")
    write_notebook(folder, "02_faulty", "x = 1", "# divide\nx / 0", SAVE.format(name="faulty"))
    write_notebook(folder, "03_third", SAVE.format(name="third"))
    (folder / "scratch.ipynb").write_text("no notebook of the series")
    monkeypatch.setattr(runner, "NOTEBOOKS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


# ------------------------------------------------------------------------------- before it runs


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], ["01_first", "02_faulty", "03_third"]),
        (["03", "01"], ["01_first", "03_third"]),
        (["02_faulty", "02"], ["02_faulty"]),
        (["notebooks/01_first.ipynb"], ["01_first"]),
    ],
)
def test_notebooks_are_found_by_their_beginning_in_order(notebooks, names, found):
    assert [path.stem for path in find_notebooks(names)] == found


@pytest.mark.parametrize(("name", "near"), [("01_frist", "01_first"), ("third", "03_third")])
def test_an_unknown_notebook_suggests_the_nearest(notebooks, name, near):
    with pytest.raises(RunError, match=f"There is no notebook '{name}': did you mean {near}?"):
        find_notebooks([name])


def test_an_ambiguous_beginning_is_refused(notebooks):
    with pytest.raises(RunError, match="There is no notebook '0': did you mean 0"):
        find_notebooks(["0"])


def test_without_a_checkout_there_are_no_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    with pytest.raises(RunError, match="There are no notebooks in .* from a checkout"):
        find_notebooks()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["04"], "There is no notebook '04': did you mean"),
        (["-p", "raet", "1"], " has 'raet': did you mean rate?"),
        (["-p", "seeds", "3"], "seeds must be a list such as [0], not 3"),
        (["-p", "rate", "fast"], "rate must be a float such as 0.5, not 'fast'"),
        (["-p", "data", "7"], "data must be a str such as '', not 7"),
        (["--data", "absent"], "There is no folder or CSV file absent, the data of 01_first"),
    ],
)
def test_faulty_arguments_are_refused_before_anything_runs(notebooks, capsys, arguments, message):
    before = sorted(notebooks.parent.rglob("*"))
    assert main(["run", *arguments, "--output", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cliphelpers: ") and message in error and error.count("\n") == 1
    assert sorted(notebooks.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-2", 0.01),
        ("[1, 2]", [1, 2]),
        ("['a b']", ["a b"]),
        ("'7'", "7"),
        ("clip:ViT-B/32", "clip:ViT-B/32"),
        ("two words", "two words"),
        ("", ""),
        ("__import__('os').mkdir('x')", "__import__('os').mkdir('x')"),
    ],
)
def test_values_are_literals_or_texts(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


# ------------------------------------------------------------------------------- a tiny run


def test_a_run_and_its_failure(notebooks, tmp_path, capsys):
    (tmp_path / "my data").mkdir()
    (tmp_path / "w.pt").touch()
    encoders = "['clip:w.pt', 'timm:x@w.pt', 'clip:RN50', 'module:w.pt', 'timm:x@gone.pt']"
    arguments = ["--data", "my data", "-p", "encoders", encoders, "-p", "rate", "1"]
    status = main(["run", *arguments, "--output", "out ü"])
    out, error = tmp_path / "out ü", capsys.readouterr().err

    assert status == 1
    assert "cliphelpers: 02_faulty failed in cell" in error
    assert "(# divide): ZeroDivisionError: division by zero" in error
    assert str(out / "notebooks" / "02_faulty.ipynb") in error

    names = ["notebooks/01_first.ipynb", "notebooks/02_faulty.ipynb", "results/first.txt"]
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert made == [*names, "run.json"]  # the third did not run, the first is kept
    executed = nbformat.read(out / "notebooks" / "02_faulty.ipynb", 4)
    assert any(o.get("ename") == "ZeroDivisionError" for c in executed.cells
               for o in c.get("outputs", []))  # fmt: skip

    w = tmp_path / "w.pt"  # what exists from here is absolute, the rest as it was
    absolute = [f"clip:{w}", f"timm:x@{w}", "clip:RN50", f"module:{w}", "timm:x@gone.pt"]
    seen = (out / "results" / "first.txt").read_text()
    assert seen == repr((str(tmp_path / "my data"), absolute, 1))

    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert list(record["notebooks"]) == ["01_first"]
    parameters = record["notebooks"]["01_first"]["parameters"]
    assert (parameters["data"], parameters["seeds"]) == ("my data", [0])
    assert record["notebooks"]["01_first"]["seconds"] > 0
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert own + 0.5 < record["peak_memory_gib"] < own + 30
    assert {"commit", "python", "versions", "hardware", "started"} <= set(record)


# ------------------------------------------------------------------------------- the real run

FIGURES = {
    "01_zero_shot": [
        "zero-shot-accuracy", "zero-shot-confusions", "zero-shot-prompts",
        "zero-shot-visualization",
    ],
    "02_k_shot": ["k-shot-plot"],
    "03_linear_probe_clip": ["confusions-clip", "linear-probing-clip", "training-size-clip"],
    "04_linear_probe_imagenet": [
        "confusions-imagenet", "linear-probing-imagenet", "training-size-imagenet",
    ],
}  # fmt: skip
SMALLER = {"shots": [1, 4], "seeds": [0, 1], "strengths": [0.1, 0.01]}


def command(data, encoders, output, *names, **parameters):
    given = {"encoders": encoders} | SMALLER | parameters
    pairs = [part for name, value in given.items() for part in ("-p", name, repr(value))]
    names = names or list(FIGURES)
    return main(["run", *names, "--data", str(data), *pairs, "--output", str(output)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to run in, with a cache of its own and one thread, which is enough."""
    folder = tmp_path_factory.mktemp("real run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLIPHELPERS_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def encoders(clip_vit, clip_rn, timm_spec):
    return [f"clip:{clip_vit}", f"clip:{clip_rn}", timm_spec]


@pytest.fixture(scope="module")
def output(place, fruits, encoders):
    """What a run of the four notebooks on the tiny pictures makes."""
    assert command(fruits, encoders, place / "first") == 0
    return place / "first"


@pytest.mark.parametrize("name", FIGURES)
def test_real_notebooks_write_tidy_tables(output, fruits, name):
    table = pd.read_csv(output / "results" / f"{name}.csv")
    assert list(table.columns) == COLUMNS
    assert set(table.experiment) == {name} and set(table.dataset) == {fruits.name}
    assert set(table.split) == {"official", "by_clip"}
    accuracies = table[table.metric != "top-1 difference"]
    assert accuracies.value.between(0, 1).all()
    assert (table.low <= table.value + 1e-6).all() and (table.value <= table.high + 1e-6).all()
    tested = table[table.metric != "top-1 on training"].groupby("split").n.unique()
    assert tested["official"].tolist() == [24] and tested["by_clip"].tolist() == [72]
    assert (
        not table[["encoder", "method", "metric", "value", "low", "high", "n"]]
        .isna()
        .any(axis=None)
    )
    columns = ["split", "encoder", "features", "method", "shots", "seed", "metric"]
    assert not table.duplicated(columns).any()


def test_real_notebooks_write_their_figures(output):
    expected = sorted(f"{figure}.jpg" for figures in FIGURES.values() for figure in figures)
    assert sorted(path.name for path in (output / "pics").iterdir()) == expected
    assert min(path.stat().st_size for path in (output / "pics").iterdir()) > 5_000
    assert {path.stem for path in (output / "notebooks").iterdir()} == set(FIGURES)


def test_real_notebooks_compare_what_they_say(output):
    zero, few, clips, imagenet = (pd.read_csv(output / "results" / f"{n}.csv") for n in FIGURES)
    both = {"CLIP tiny-vit", "CLIP tiny-rn"}
    assert set(zero.encoder) == set(few.encoder) == both
    assert set(zero[zero.method == "zero-shot"].metric) == {"top-1", "top-5", "top-1 by name"}
    assert set(few.shots.dropna()) == {1, 4} and set(few.seed.dropna()) == {0, 1}
    assert few.method.nunique() == 6  # four ways to learn between two ends
    for table in (clips, imagenet):
        tops = table[(table.metric == "top-1") & table.shots.isna()]
        assert "10x10 raw pixels" in set(tops.encoder)
        assert tops.encoder.str.contains("random weights").any()
        assert set(tops.method) == {"logistic regression", "ridge"}
        assert (table.metric == "top-1 difference").any()
    assert "test_vit" in set(imagenet.encoder)


def test_coloured_shapes_are_told_apart_by_their_pixels(output):
    """Of four classes, each of its own colour: far above chance, which is a quarter."""
    table = pd.read_csv(output / "results" / "03_linear_probe_clip.csv")
    pixels = table[(table.encoder == "10x10 raw pixels") & (table.metric == "top-1")]
    assert len(pixels) == 4 and pixels.low.min() > 0.5


def test_run_json_of_the_real_run(output):
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert list(record["notebooks"]) == list(FIGURES)
    for one in record["notebooks"].values():
        assert one["parameters"]["seeds"] == [0, 1] and one["seconds"] > 0


def test_a_second_run_computes_nothing_again_and_writes_the_same_bytes(
    output, place, fruits, encoders
):
    def kept():
        files = (place / "cache").rglob("*.npz")
        return {path: path.stat().st_mtime_ns for path in files}

    before = kept()
    features = [path for path in before if path.parts[-3] == "features"]
    assert len(features) == 5  # three encoders, the random twin that 03 and 04 share, pixels
    assert {path.parent.name for path in before} > {"scores", "few-shot"}
    assert command(fruits, encoders, place / "second") == 0
    assert kept() == before
    for name in FIGURES:
        first, second = (
            folder / "results" / f"{name}.csv" for folder in (output, place / "second")
        )
        assert first.read_bytes() == second.read_bytes()


def test_a_plain_class_folder_without_clips_or_test_part(place, fruits, encoders):
    for number, path in enumerate(sorted((fruits / "Training").glob("*/*.jpg"))):
        target = place / "plain 🍎" / path.parent.name / f"photo {number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    status = command(place / "plain 🍎", encoders[:1], "plain", "03")
    table = pd.read_csv(place / "plain" / "results" / "03_linear_probe_clip.csv")
    assert status == 0 and set(table.split) == {"random"} and set(table.dataset) == {"plain 🍎"}
    assert set(table.n) == {12}  # a quarter of 12 pictures of each of 4 classes


def test_check_and_its_exit_status(fruits, tmp_path, capsys):
    assert main(["check", str(fruits)]) == 0
    assert "72 pictures, 0 with problems" in capsys.readouterr().out
    (tmp_path / "Fig").mkdir()
    (tmp_path / "Fig" / "a.jpg").write_text("no picture")
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / 'Fig' / 'a.jpg'}: the file is no picture" in out
    assert "1 pictures, 1 with problems" in out
