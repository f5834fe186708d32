import base64
import importlib.util
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliphelpers.index import group_of, index_images

ROOT = Path(__file__).parents[1]
COLUMNS = list(pd.read_csv(ROOT / "report" / "results" / "embedded" / "01_zero_shot.csv", nrows=0))


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "report" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tables = load("tables")


gallery = load("gallery")


# ------------------------------------------------------------------------------- README, RESULTS.md


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda path: path.stem)
def test_the_pages_hold_the_numbers_of_the_committed_runs(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- end -->") >= 8
    assert tables.fill(text) == text, "run: make report"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12_000
    results = (ROOT / "report" / "RESULTS.md").read_text(encoding="utf-8")
    for page, folder in ((text, ROOT), (results, ROOT / "report")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page):
            assert (folder / link).exists(), link


def test_a_changed_table_is_put_right():
    made = tables.fill("a\n<!-- minutes embedded photographs -->\n| 1 |\n<!-- end -->\nb")
    head = "| minutes | `make figures` | photographs, features kept |"
    assert made.startswith(f"a\n<!-- minutes embedded photographs -->\n{head}\n| --- |")
    assert "\n| 07_upsampling | " in made and made.count(" |  |\n") >= 3  # 05 to 07 of one run only
    assert made.endswith("<!-- end -->\nb") and "| 1 |" not in made


def test_a_changed_number_is_put_right_within_its_line():
    name = '<!-- accuracy photographs "10x10 raw pixels" by_group -->'
    rows = pd.read_csv(ROOT / "report/results/photographs/04_linear_probe_imagenet.csv")
    rows = rows[(rows.encoder == "10x10 raw pixels") & (rows.split == "by_group")]
    rows = rows[(rows.method == "logistic regression") & (rows.metric == "top-1")]
    (value,) = rows.value[rows.shots.isna()]
    made = tables.fill(f"a {name}99.9 %<!-- end --> b {name}<!-- end -->, c")
    right = f"{name}{100 * value:.1f} %<!-- end -->"
    assert made == f"a {right} b {right}, c"


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
        ("by_group", "CLIP new", "linear probe", 7, "top-1", 0.5, 0.4, 0.6),
        ("by_group", "CLIP new", "fine-tuned ML", 7, "top-1", 0.61234, 0.5, 0.7),
        ("by_group", "CLIP new", less, 7, change, 0.11234, 0.02, 0.2),
        ("by_group", "CLIP worse", less, 7, change, -0.3, -0.4, -0.2),
        ("by_group", "CLIP same", less, 7, change, 0.0, -0.1, 0.1),
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


# ------------------------------------------------------------------------------- make gallery

STEMS = ("01_one", "02_two")


def png(width=90, height=30, noise=False):
    """A figure in base64, of noise or of two colours."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[:, : width // 2] = 20
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return base64.b64encode(file.getvalue()).decode()


def written(tmp_path, executed=False, **outputs):
    """Write notebooks with four code cells each, as committed or as executed by papermill."""
    for stem in STEMS:
        sources = ['data = "../data/fruits-mini"', "x = 1\nprint(x)", "x + 1", "draw(x)"]
        cells = [nbformat.v4.new_code_cell(text, id=f"c{n}") for n, text in enumerate(sources)]
        cells[0].metadata["tags"] = ["parameters"]
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title", id="t")])
        if executed:
            data = str(tmp_path / "data" / "fruits-mini")
            injected = nbformat.v4.new_code_cell(f"data = {data!r}")
            injected.metadata["tags"] = ["injected-parameters"]
            cells.insert(1, injected)
            for number, cell in enumerate(cells, 1):
                cell.execution_count = number
                cell.metadata |= {"execution": {"iopub.execute_input": "2026-01-01T00:00:00"}}
                cell.metadata |= {"papermill": {"duration": 0.5}}
            book.metadata["papermill"] = {"parameters": {"data": data, "output": "/tmp/output"}}
            new = nbformat.v4.new_output
            shown = {"text/plain": "2", "text/html": "<b>2</b> of /clips/home"}
            cells[2].outputs = [new("stream", name="stdout", text="1\n")]
            cells[3].outputs = [new("execute_result", shown, execution_count=4)]
            cells[4].outputs = [new("display_data", {"image/png": png()})]
            cells[4].outputs += outputs.get(stem, [])
        book.cells += cells
        folder = tmp_path / "output" / "notebooks" if executed else tmp_path / "notebooks"
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, folder / f"{stem}.ipynb")


@pytest.fixture
def project(tmp_path):
    """A checkout with two notebooks, and a run of them in output/."""
    written(tmp_path)
    written(tmp_path, executed=True)
    for folder in ("data/fruits-mini", "pics", "report/results/embedded"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pics" / "one.jpg").write_text("old")
    for name in ("pics/one.jpg", "pics/two.jpg", "results/01_one.csv", "results/02_two.csv"):
        (tmp_path / "output" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "output" / name).write_text(f"new {name}")
    record = {"notebooks": dict.fromkeys(STEMS, {"seconds": 1})}
    (tmp_path / "output" / "run.json").write_text(json.dumps(record))
    return tmp_path


def files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and "output" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def change(project, stem, do, folder="output/notebooks"):
    path = project / folder / f"{stem}.ipynb"
    book = nbformat.read(path, as_version=4)
    do(book)
    nbformat.write(book, path)


def refused(project, match):
    """Nothing at all is written when the gallery refuses."""
    before = files(project)
    with pytest.raises(gallery.GalleryError, match=match):
        gallery.refresh(project / "output", project)
    assert files(project) == before


def test_the_gallery_brings_outputs_figures_and_tables(project):
    gallery.refresh(project / "output", project)
    book = nbformat.read(project / "notebooks" / "02_two.ipynb", as_version=4)
    nbformat.validate(book)
    first, *cells = book.cells
    assert first.source == "# Title" and [cell.id for cell in cells] == ["c0", "c1", "c2", "c3"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert [dict(cell.metadata) for cell in cells] == [{"tags": ["parameters"]}, {}, {}, {}]
    assert cells[0].outputs == [] and cells[1].outputs[0].text == "1\n"
    assert cells[2].outputs[0].data["text/plain"] == "2"
    assert cells[2].outputs[0].execution_count == 3
    assert cells[3].outputs[0].data["image/png"] == png()  # as it was drawn
    assert list(book.metadata) == ["cliphelpers"] and list(gallery.faults(book)) == []
    assert "/tmp" not in nbformat.writes(book)
    found = files(project)
    assert found["pics/one.jpg"] == b"new pics/one.jpg"
    assert found["report/results/embedded/01_one.csv"] == b"new results/01_one.csv"
    assert {"pics/two.jpg", "report/results/embedded/run.json"} <= set(found)
    gallery.refresh(project / "output", project)  # once more: the same
    assert files(project) == found


def test_the_gallery_is_a_command_with_one_line_for_what_is_wrong(tmp_path, capsys):
    assert gallery.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == f"gallery: There is no {tmp_path}/notebooks/01_zero_shot.ipynb: " \
                   "run make figures first\n"  # fmt: skip


@pytest.mark.parametrize("lacks", ["notebooks/01_one.ipynb", "results/02_two.csv", "run.json"])
def test_a_run_that_lacks_a_file_is_refused(project, lacks):
    (project / "output" / lacks).unlink()
    refused(project, f"There is no .*{lacks}: run make figures first")


def test_a_later_run_of_one_notebook_alone_is_refused(project):
    (project / "output" / "run.json").write_text('{"notebooks": {"02_two": {}}}')
    refused(project, "run.json is of a run without 01_one")


def test_a_run_of_other_code_pictures_or_parameters_is_refused(project):
    change(project, "02_two", lambda book: book.cells[3].update(source="x + 2"), "notebooks")
    refused(project, "^02_two: its code has changed since the run: run make figures again")
    written(project)
    parameters = {"data": "/elsewhere", "output": "/tmp/output"}
    change(project, "01_one", lambda book: book.metadata.papermill.update(parameters=parameters))
    refused(project, "^01_one was run on /elsewhere")
    parameters = {"seeds": [1, 2]}
    change(project, "01_one", lambda book: book.metadata.papermill.update(parameters=parameters))
    refused(project, "^01_one: it was run with its own seeds")


def test_changed_words_need_no_new_run(project):
    change(project, "02_two", lambda book: book.cells[0].update(source="# Other"), "notebooks")
    gallery.refresh(project / "output", project)
    book = nbformat.read(project / "notebooks" / "02_two.ipynb", as_version=4)
    assert book.cells[0].source == "# Other" and book.cells[3].outputs


def test_a_cell_that_was_not_executed_is_refused(project):
    change(project, "02_two", lambda book: book.cells[4].update(execution_count=None))
    refused(project, r"^02_two: code cell 3 \(x \+ 1\) was not executed")


@pytest.mark.parametrize(
    ("kind", "content", "match"),
    [
        ("stream", {"name": "stderr", "text": "Warning: old"}, "wrote to stderr: Warning: old"),
        ("error", {"ename": "E", "evalue": "no", "traceback": []}, "failed: E: no"),
        ("stream", {"name": "stdout", "text": "in /home/me/x.csv"}, "path: /home/me/x.csv"),
        ("display_data", {"data": {"text/html": "<a href='C:\\me'>"}}, r"path: C:\\me"),
        ("display_data", {"data": {"application/json": {"a": ["/tmp/x"]}}}, "path: /tmp/x"),
        (
            "display_data",
            {"data": {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}},
            "shows a widget",
        ),
        ("display_data", {"data": {"image/png": png(1021)}}, "1021 pixels' width, 1020 are"),
    ],
)
def test_outputs_that_cannot_be_committed_are_refused(project, kind, content, match):
    written(project, executed=True, **{"02_two": [nbformat.v4.new_output(kind, **content)]})
    refused(project, rf"^02_two: code cell 4 \(draw\(x\)\) .*{match}")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda book: book.cells[2].update(source="x = 3"), "the outputs are of other code"),
        (lambda book: book.metadata.pop("cliphelpers"), "the outputs are of other code"),
        (lambda book: book.metadata.update(widgets={}), "the state of widgets"),
        (lambda book: book.cells[2].update(execution_count=7), "not numbered"),
        (
            lambda book: [cell.update(outputs=[]) for cell in book.cells[1:]],
            "no cell has an output",
        ),
    ],
)
def test_a_spoilt_notebook_has_a_fault(project, spoil, match):
    gallery.refresh(project / "output", project)
    change(project, "02_two", spoil, "notebooks")
    book = nbformat.read(project / "notebooks" / "02_two.ipynb", as_version=4)
    (fault,) = gallery.faults(book)
    assert match in fault


def opened(project):
    book = nbformat.read(project / "notebooks" / "02_two.ipynb", as_version=4)
    return [gallery._open(output.data["image/png"]) for output in book.cells[4].outputs]


def large(*sizes, noise=True):
    new = nbformat.v4.new_output
    return [new("display_data", {"image/png": png(*size, noise)}) for size in sizes]


def test_a_large_notebook_s_figures_are_packed_without_loss_where_that_is_enough(project):
    figure = large((1000, 400), noise=False)  # 1.6 MB as it is
    written(project, executed=True, **{"02_two": figure})
    gallery.refresh(project / "output", project)
    assert (project / "notebooks" / "02_two.ipynb").stat().st_size < 50_000
    made, drawn = opened(project)[1], gallery._open(figure[0].data["image/png"])
    assert made.mode == "RGB" and np.array_equal(made, drawn)


def test_else_they_get_a_palette(project):
    figure = large((1000, 400))  # 1.6 MB; 1.2 MB of noise cannot be packed
    written(project, executed=True, **{"02_two": figure})
    gallery.refresh(project / "output", project)
    assert (project / "notebooks" / "02_two.ipynb").stat().st_size <= 900_000
    made, drawn = opened(project)[1], gallery._open(figure[0].data["image/png"])
    assert made.mode == "P" and made.size == (1000, 400)
    assert np.abs(np.asarray(made.convert("RGB"), float) - np.asarray(drawn)).mean() < 30


def test_a_notebook_that_stays_too_large_is_refused(project):
    written(project, executed=True, **{"02_two": large((1000, 1000))})
    refused(project, r"^02_two: it has 1\d\d\d kB, 900 are allowed; most .* cell 4 \(draw\(x\)\)")


# ------------------------------------------------------------------------------- its own tables


def test_the_facts_about_the_pictures_are_so():
    for row in pd.read_csv(ROOT / "report" / "data-sets.csv").itertuples():
        if not (ROOT / row.folder).exists():
            assert row.folder.startswith("../")  # what measuring needs beside the repository
            continue
        index = index_images(ROOT / row.folder)
        clips = index.groupby("label")["group"].nunique()
        counted = (clips.size, len(set(group_of(index))), clips.min(), clips.max())
        assert (row.classes, row.clips, row.fewest, row.most) == counted
