import base64
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliphelpers.index import index_images
from cliphelpers.looks import group_of
from cliphelpers.study import COLUMNS

ROOT = Path(__file__).parents[1]


def load(name, folder="report"):
    specification = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tables = load("tables")
gallery = load("gallery")


def result(split, encoder, method, value, metric="top-1", **others):
    """A row of results whose interval reaches 0.1 to both sides, unless said otherwise."""
    row = {"dataset": "some", "n": 123, "features": "joint, bicubic", "value": value}
    row |= {"low": value - 0.1, "high": value + 0.1, "low_classes": 0.01, "high_classes": 0.99}
    return row | {"split": split, "encoder": encoder, "method": method, "metric": metric} | others


def write(folder, experiment, *rows):
    """Write a table of results as a study does."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).assign(experiment=experiment).reindex(columns=COLUMNS)
    table = table.astype({"shots": "Int64", "seed": "Int64"})
    table.to_csv(folder / f"{experiment}.csv", index=False, float_format="%.6f")


LESS = {"metric": "top-1 difference", "shots": 2}


def tuned():
    """Rows of fine-tuning, with two seeds and with their mean."""
    for seed, value, epoch in ((0, 0.5, 0), (1, 0.7, 2)):
        at = {"shots": 2, "seed": seed}
        yield result("by_group", "new", "linear probe", value - 0.1, **at)
        yield result("by_group", "new", "fine-tuned ML", value, chosen=f"epoch {epoch}", **at)
        yield result("by_group", "kept", "fine-tuned ML", value, chosen="epoch 0", **at)
    mean = {"shots": 2, "low": 0.33, "high": 0.88}  # no mean of the others'
    yield result("by_group", "new", "linear probe", 0.5, **mean)
    yield result("by_group", "new", "fine-tuned ML", 0.6, chosen="epoch 2", **mean)
    yield result("by_group", "kept", "fine-tuned ML", 0.6, chosen="epoch 0", **mean)
    words = {"new": "better", "worse": "worse", "kept": "not decided", "same": "not decided"}
    for encoder, value in (("new", 0.2), ("worse", -0.3), ("kept", 0.25), ("same", 0.05)):
        at = LESS | {"verdict": words[encoder]}
        yield result("by_group", encoder, "fine-tuned ML − linear probe", value, **at)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A committed run: its name."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    write(tmp_path / "one", "06_fine_tune_imagenet", *tuned())
    return "one"


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
    made = tables.fill("a\n<!-- minutes embedded grocery -->\n| 1 |\n<!-- end -->\nb")
    head = "| minutes | `make figures` | groceries |"
    assert made.startswith(f"a\n<!-- minutes embedded grocery -->\n{head}\n| --- |")
    assert re.search(r"\n\| 05_fine_tune_clip \| [\d.]+ \| [\d.]+ \|\n", made)  # ran apart
    assert re.search(r"\n\| 07_upsampling \| [\d.]+ \|  \|\n", made)  # of one run only
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


def test_of_several_seeds_the_row_of_their_mean_stands_for_them(run):
    lines = tables.finetuning(run).splitlines()[2:]
    new = "60.0 % (33.0 to 88.0) [1.0 to 99.0]"
    assert lines[0] == f"| new | linear probe | {new.replace('60.0 %', '50.0 %')} |"
    assert lines[1] == f"| new | fine-tuned ML | {new} (†) |"  # validation kept one seed's start
    assert lines[2] == f"| kept | fine-tuned ML | {new} † |"


def test_differences_are_judged_by_the_table(run):
    said = "better in 1, worse in 1 and not decided in 2 of 4 comparisons"
    assert tables.verdicts(run, "05 06") == said + " (by Holm's correction for all of a notebook)"
    assert "these classes and other groups" in tables.brackets()
    assert "25.0 % (15.0 to 35.0), not decided" in tables.finetuning(run, "top-1 difference")


def test_what_moving_the_weights_gains_has_a_column_for_each_k(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for k, epoch, p in ((4, 0, 0.03), (8, 2, 0.01), (16, 1, 0.03)):
        at, less = {"shots": k, "seed": 0}, LESS | {"shots": k, "verdict": "better", "p": p}
        rows = [result("official", "one", "fine-tuned ML", 0.5, chosen=f"epoch {epoch}", **at)]
        rows += [result("official", "one", "fine-tuned ML − linear probe", k / 100, **less)]
        write(tmp_path / str(k), "05_fine_tune_clip", *rows)
    head, _, line = tables.gains("fine-tuned ML − linear probe", "4", "8", "16").splitlines()
    assert head == "| encoder | split | k = 4 | k = 8 | k = 16 |"
    one, two, three = "4.0 % (-6.0 to 14.0)", "8.0 % (-2.0 to 18.0)", "16.0 % (6.0 to 26.0)"
    # each alone is better, as its run says; of three together 0.03 is too much by Holm's correction
    cells = f"{one}, not decided † | {two}, better | {three}, not decided"
    assert line == f"| one | official | {cells} |"


def test_what_hangs_on_the_seed_has_a_column_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [result("official", "one", "zero-shot", 0.1, shots=4, seed=0)]
    for seed, value in ((0, 0.5), (1, 0.7), (None, 0.6)):  # the last is their mean
        rows.append(result("official", "one", "fine-tuned ML", value, shots=4, seed=seed))
    write(tmp_path / "two", "05_fine_tune_clip", *rows)
    head, _, line = tables.seeds("two").splitlines()
    assert head == "| encoder | split | method | seed 0 | seed 1 |"
    assert line == "| one | official | fine-tuned ML | 50.0 | 70.0 |"


def test_of_three_seeds_all_verdicts_are_those_of_one_as_the_text_says():
    verdicts = []
    for run in ("photographs", "photographs_seeds"):
        rows = pd.read_csv(ROOT / "report/results" / run / "05_fine_tune_clip.csv")
        mine = (rows.metric == "top-1 difference") & (rows.encoder == "CLIP clip-mini-vit")
        verdicts.append(rows[mine].set_index(["split", "method"]).verdict.to_dict())
    assert len(verdicts[0]) == 8 and verdicts[0] == verdicts[1]


def test_with_the_whole_training_part_ml_beats_both_probes_as_the_text_says():
    rows = pd.read_csv(ROOT / "report/results/photographs_whole/05_fine_tune_clip.csv")
    rows = rows[rows.metric == "top-1 difference"]
    ml = rows[rows.method.str.startswith("fine-tuned ML")]
    assert rows.shots.isna().all() and len(ml) == 8 and set(ml.verdict) == {"better"}
    cs = rows[rows.method.str.startswith("fine-tuned CS") & (rows.verdict == "better")]
    assert cs.method.str.contains("class means").all()
    assert list(zip(cs.encoder, cs.split, strict=True)) == [("CLIP clip-mini-rn", "by_group")]


def test_from_so_many_labels_on_fine_tuning_pays_as_the_text_says():
    runs = ["photographs", *(f"photographs_{k}" for k in ("1", "4", "8", "16", "16_rn", "whole"))]
    head, _, *lines = tables.gains("fine-tuned ML − linear probe", *runs).splitlines()
    ks, found = head.split(" | ")[2:], {}
    for line in lines:
        encoder, split, *cells = line.strip("| ").split(" | ")
        better = [k for k, cell in zip(ks, cells, strict=True) if "better" in cell]
        found[encoder.removeprefix("CLIP clip-mini-"), split] = " ".join(better).strip("| ")
    assert found == {
        ("rn", "by_group"): "k = 16 k = 32 all", ("rn", "official"): "all",
        ("vit", "by_group"): "all", ("vit", "official"): "",
    }  # fmt: skip


def test_choices_at_the_edge_of_their_grid_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [
        result("official", "one", "ridge", 0.5, shots=k, at_edge=0.5 * (k > 2)) for k in (1, 2, 3)
    ]
    write(tmp_path / "one", "03_linear_probe_clip", *rows, result("official", "one", "given", 0.5))
    assert tables.edges("one", "03") == "1 of 3"
    assert tables.edges("one", "02") == "not recorded"


def test_what_a_split_promises_has_a_column_for_each_split(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    values = {"random": 0.9, "official": 0.8, "by_group": 0.2, "by_look": 0.3}
    rows = [result(split, "one", "ridge", value) for split, value in values.items()]
    write(tmp_path / "one", "03_linear_probe_clip", *rows)
    head, _, line = tables.promises("one").splitlines()
    assert head == "| encoder | official | by_group | by_look | random |"
    assert re.findall(r"(\d+)\.0 % \(", line) == ["80", "20", "30", "90"]


def test_the_numbers_of_the_benchmarks_are_those_of_their_tables():
    simulated = pd.read_csv(ROOT / "benchmarks" / "intervals.csv")
    kinds = simulated.drop(columns=["target", "way", "held", "width"]).drop_duplicates()
    assert tables.cells() == str(len(kinds))
    held = simulated.query("target == 'difference' and way == 'interval'").held
    assert tables.coverage("difference") == f"{100 * held.min():.0f} to {100 * held.max():.0f} %"
    looks = pd.read_csv(ROOT / "benchmarks" / "looks.csv")
    off = [100 * (row["5 looks a class"] - row.truth) for _, row in looks.iterrows()]
    raw = [x for x, name in zip(off, looks.encoder, strict=True) if name == "10x10 raw pixels"]
    said = tables.promised("5 looks a class", "pixels").replace("−", "-")
    assert said == f"{min(raw):.0f} to {max(raw):.0f}"
    least = min(x for x in off if x not in raw)
    assert tables.promised("5 looks a class").replace("−", "-").startswith(f"{least:.0f} to ")


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
    same = made == committed  # pytest would compare them for hours
    assert same, "run: make report"


@pytest.mark.parametrize("run", ["embedded", "photographs"])
def test_the_report_holds_the_accuracies_of_the_probes(build, run):
    rows = tables.read(run)
    rows = rows[rows.experiment.str.startswith("04") & (rows.metric == "top-1")]
    compiler = build.compiler()
    (table,) = said(compiler, f"<{run}-probes>")
    assert "by_group" not in compiler.query("math.equation")  # a name of its own hides a symbol
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


def test_the_report_takes_new_tables_and_judges_by_what_they_say(build, checkout):
    folder = checkout / "report" / "results" / "photographs"
    write(folder, "06_fine_tune_imagenet", *tuned())
    compiler = build.compiler(checkout)
    assert "report/results/photographs/06_fine_tune_imagenet.csv" not in missing(compiler)
    (table,) = said(compiler, "<photographs-tuned>")
    (differences,) = said(compiler, "<photographs-tuned-differences>")
    text = " ".join(said(compiler, "par"))
    assert "newlinearprobe50.0(33.0to88.0)" in table
    assert "fine-tunedML60.0(33.0to88.0)(†)" in table and "(33.0to88.0)†" in table
    assert "keptfine-tunedML−linearprobe+25.0(+15.0to+35.0)notdecided" in differences
    assert "new+20.0points(+10.0to+30.0),better" in text
    assert "worse−30.0points(−40.0to−20.0),worse" in text
    assert "betterin1,worsein1andnotdecidedin2of4comparisons" in text


def test_who_is_first_is_said_with_the_paired_difference(build, checkout):
    folder = checkout / "report" / "results" / "photographs"
    logistic = [("official", "first", 0.8), ("by_group", "first", 0.7), ("by_group", "second", 0.6)]
    rows = [result(*two, "logistic regression", value) for *two, value in logistic]
    rows += [result("by_group", "first (random weights)", "logistic regression", 0.55)]
    rows += [result("official", "second", "logistic regression", 0.8)]
    pair = {"metric": "top-1 difference", "features": None, "verdict": "worse"}
    rows += [result("by_group", "second − first", "logistic regression", -0.1345, **pair)]
    write(folder, "04_linear_probe_imagenet", *rows)
    text = " ".join(said(build.compiler(checkout), "par"))
    assert "first,70.0%(60.0to80.0%),thenextthatonsecond,60.0%" in text
    assert text.count("theirpaireddifferenceis+13.5points(+3.5to+23.5),better") >= 2
    assert "55.0%(45.0to65.0%)and70.0%(60.0to80.0%)offirst" in text
    assert "Theintervalsoffirstandofthesamewithrandomweightsoverlap" in text


def test_what_splits_and_intervals_promise_is_read_from_the_benchmarks(build, checkout):
    head = "dataset,encoder,truth,random,3 looks a class,5 looks a class,8 looks a class"
    lines = [
        "one,10x10 raw pixels,.1,.9,.1,.1,.1",
        "one,good,.5,.7,.2,.45,.6",
        "grocery,good,.5,.6,.2,.51,.6",
    ]
    (checkout / "benchmarks" / "looks.csv").write_text("\n".join([head, *lines]) + "\n")
    path = checkout / "benchmarks" / "intervals.csv"
    simulated = pd.read_csv(path)
    one = (simulated.target == "difference") & (simulated.way == "interval")
    simulated.loc[one, "held"] = np.linspace(0.4, 0.9, one.sum())
    simulated.to_csv(path, index=False)
    compiler = build.compiler(checkout)
    (looks,) = said(compiler, "<looks-table>")
    assert "onegood" not in looks and "good50.070.020.045.060.0−5.0" in looks
    (coverage,) = said(compiler, "<coverage>")
    assert "apaireddifferenceours40.065.090.0" in coverage  # least, median, highest
    text = " ".join(said(compiler, "par"))
    assert "therandomsplitpromises10.0to20.0pointsmorethancomestrue" in text
    assert "forrawpixels80.0to80.0pointsmore" in text
    assert "within3.0pointsofthetruthinhalfofthe2cases" in text
    assert "tootstrictin1" not in text and "toostrictin1casesandtookindin1" in text
    assert "thoseofadifferencein40to90%" in text


# ------------------------------------------------------------------------------- figures.py


@pytest.fixture
def figures(run, monkeypatch):
    """report/figures.py on a run."""
    monkeypatch.syspath_prepend(ROOT / "report")
    monkeypatch.setitem(sys.modules, "tables", tables)
    module = load("figures")
    monkeypatch.setattr(module, "RESULTS", tables.RESULTS)
    return module


def test_figures_of_the_photographs_show_means_over_seeds(figures, run):
    drawn = figures.tuned(run, "06", "title", "encoder", "method")
    bars = [bar for axis in drawn.axes for bar in axis.containers]
    found = {float(x): bar for bar in bars for x in bar.lines[0].get_xdata()}
    assert sorted(found) == pytest.approx([0.5, 0.6])
    (ends,) = {tuple(np.round(part[:, 0], 6)) for part in found[0.6].lines[2][0].get_segments()}
    assert ends == (0.33, 0.88)


def test_curves_of_the_trainings_are_drawn_where_they_are_there(figures, run):
    rows = [
        {
            "split": "by_group",
            "encoder": "new",
            "features": "joint, srgan",
            "method": "fine-tuned ML",
        }
        | {"epoch": epoch, "part": part, "accuracy": 0.25 * epoch, "shots": 2}
        for part in ("train", "validation")
        for epoch in (0, 1, 2)
    ]
    path = tables.RESULTS / run / "06_fine_tune_imagenet_curves.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    (axis,) = figures.epochs(path).axes
    titles = [
        axis.get_title(place) for place in ("left", "center")
    ]  # as the style of the day has it
    assert "".join(titles).startswith("new, srgan")
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 0.25, 0.5]] * 2
    assert "fine-tuned ML − linear probe" in set(tables.read(run).method)  # and no curves in it


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
    tables_and_curves = [f"results/{name}.csv" for name in (*STEMS, f"{STEMS[1]}_curves")]
    for name in ("pics/one.jpg", "pics/two.jpg", *tables_and_curves):
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
    curves = found["report/results/embedded/02_two_curves.csv"]
    assert curves == b"new results/02_two_curves.csv"
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


def test_the_facts_about_the_pictures_are_so(tmp_path):
    for row in pd.read_csv(ROOT / "report" / "data-sets.csv").itertuples():
        if not (ROOT / row.folder).exists():
            assert row.folder.startswith("../")  # what measuring needs beside the repository
            continue
        folder = ROOT / row.folder
        if row.run == "grocery":
            grocery = load("grocery", "benchmarks")
            rows = pd.DataFrame(grocery.rows(), columns=["path", "label", "split"])
            rows.to_csv(folder := tmp_path / "grocery.csv", index=False)
        index = index_images(folder)
        groups = index.group.where(index.group != "").groupby(index.label).nunique()
        named = len(set(group_of(index))) if groups.any() else 0
        counted = (groups.size, named, groups.min(), groups.max())
        assert (row.classes, row.groups, row.fewest, row.most) == counted
