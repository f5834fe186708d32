"""The command and the check of parameters: with tiny notebooks, then with the real ones."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import SHAPES
from matplotlib import pyplot as plt
from PIL import Image

from cliphelpers.command import check, main
from cliphelpers.command import run as runner
from cliphelpers.command.check import near_copies
from cliphelpers.command.run import RunError, find_notebooks, parse_value
from cliphelpers.encoders.load import LOADERS
from cliphelpers.parameters import ParameterError, begin, check_parameters
from cliphelpers.plots import set_style

REAL = find_notebooks()

PARAMETERS = """\
data = "."
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


def write_notebook(folder, name, *cells, parameters=PARAMETERS):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_markdown_cell("# Title")]
    book.cells += [nbformat.v4.new_code_cell(text) for text in (parameters, *cells)]
    book.cells[1].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path, monkeypatch, same_process):
    """Two good notebooks and a faulty one between them, in the runner's folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write_notebook(folder, "01_first", SAVE.format(name="first"), "half_a_gib = b'x' * 2**29")
    write_notebook(folder, "02_faulty", "x = 1", "# divide\nx / 0", SAVE.format(name="faulty"))
    write_notebook(folder, "03_third", SAVE.format(name="third"))
    (folder / "words.csv").write_text("label,name\nApple Red 1,apple red\n")
    (folder / "scratch.ipynb").write_text("no notebook of the series")
    monkeypatch.setattr(runner, "NOTEBOOKS", folder)
    page = "cliphelpers.command.report.report"  # these leave no tables: see test_run_page.py
    monkeypatch.setattr(page, lambda output: Path(output, "index.html"))
    monkeypatch.chdir(tmp_path)
    return folder


RAN = ["01_first", "03_third"]  # those that are not faulty


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
        (["-p", "seeds", "3"], "seeds must be a list, each a whole number from 0 on, not 3"),
        (["-p", "rate", "fast"], "rate must be a number above 0: 'fast' is none"),
        (["-p", "output", "x"], "Say where the output goes by --output, not as a parameter"),
        (["-p", "seeds", "{[1]}"], "seeds must be a list, each a whole number from 0 on, not '{[1"),
        (["--data", "."], "as if it were pictures: choose another output"),
        (["-p", "data", "7"], "data must be a folder or CSV file that exists: 7 is none"),
        (["--data", "absent"], "data must be a folder or CSV file that exists: 'absent' is none"),
        (["-p", "data", ""], "data must be a folder or CSV file that exists: '' is none"),
        (["-p", "data", "words.csv"], "or CSV file that exists: 'words.csv' is none"),
    ],
)
def test_faulty_arguments_are_refused_before_anything_runs(notebooks, capsys, arguments, message):
    before = sorted(notebooks.parent.rglob("*"))
    assert main(["run", *arguments, "--output", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cliphelpers: ") and message in error and error.count("\n") == 1
    assert sorted(notebooks.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run", "--date", "x"], "No such option"),
        (["run", "-p", "seeds"], "Option '-p' requires 2 arguments"),
        (["compare"], "Missing argument 'RUNS...'"),
        (["download", "fruits"], "'fruits' is not 'fruits-360'"),
    ],
)
def test_arguments_that_the_command_does_not_have(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_who_stops_it_is_shown_no_traceback(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", stop)
    assert main(["run", "01"]) == 1
    assert capsys.readouterr().err.strip() == "cliphelpers: stopped"


@pytest.mark.parametrize("command", ["run", "compare", "check", "download"])
def test_help_says_what_each_command_does(capsys, command):
    assert main(["--help"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if f"  {command}  " in line]
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert line.partition(f"  {command}  ")[2].strip().rstrip(".") in text


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


def test_a_run_and_its_failure(notebooks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cliphelpers.encoders.load.load_encoders", lambda *_, **__: [])
    (tmp_path / "my data").mkdir()
    (tmp_path / "RN50").mkdir()  # such as an earlier --output
    for name in ("w.pt", "e.py"):
        (tmp_path / name).touch()
    encoders = "['clip:w.pt', 'timm:x@w.pt', 'clip:RN50', 'module:e.py@w.pt', 'timm:x@gone.pt',"
    encoders += "'openclip:local-dir:my data']"
    arguments = ["--data", "my data", "-p", "encoders", encoders, "-p", "rate", "1"]
    status = main(["run", *arguments, "--output", "out ü"])
    out, error = tmp_path / "out ü", capsys.readouterr().err

    assert status == 1
    assert "01_first: 100%" in error and "02_faulty:" in error and "03_third" not in error
    assert "cliphelpers: 02_faulty failed in cell" in error
    assert "(# divide): ZeroDivisionError: division by zero" in error
    assert str(out / "notebooks" / "02_faulty.ipynb") in error
    assert f"A page of what was done before it: cliphelpers report {out}" in error

    names = ["notebooks/01_first.ipynb", "notebooks/02_faulty.ipynb", "results/first.txt"]
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert made == [*names, "run.json"]  # the third did not run, the first is kept
    executed = nbformat.read(out / "notebooks" / "02_faulty.ipynb", 4)
    assert any(o.get("ename") == "ZeroDivisionError" for c in executed.cells
               for o in c.get("outputs", []))  # fmt: skip

    w = tmp_path / "w.pt"  # files that exist from here are absolute, the rest as it was
    absolute = [f"clip:{w}", f"timm:x@{w}", "clip:RN50", f"module:{tmp_path / 'e.py'}@{w}"]
    absolute += ["timm:x@gone.pt", f"openclip:local-dir:{tmp_path / 'my data'}"]
    seen = (out / "results" / "first.txt").read_text()
    assert seen == repr((str(tmp_path / "my data"), absolute, 1))

    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert list(record["notebooks"]) == ["01_first"]
    parameters = record["notebooks"]["01_first"]["parameters"]
    assert (parameters["data"], parameters["seeds"]) == ("my data", [0])
    assert record["notebooks"]["01_first"]["pictures"] == str(tmp_path / "my data")
    assert 0 < record["notebooks"]["01_first"]["seconds"] < 60
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert own + 0.5 < record["peak_memory_gib"] < own + 30
    assert {"commit", "python", "versions", "hardware", "started"} <= set(record)


ALONE = """\
import sys
from pathlib import Path
from cliphelpers.command import run as runner
runner.NOTEBOOKS = Path("notebooks").resolve()
runner.run(["01"], {"rate": float(sys.argv[1])})
"""


def test_places_in_the_environment_count_from_the_current_folder(notebooks, monkeypatch):
    told = "import os; from pathlib import Path; place = Path(output) / 'told.txt'"
    names = "('CLIPHELPERS_CACHE', 'CLIPHELPERS_FEATURES')"
    told += f"; place.write_text(' '.join(os.environ[name] for name in {names}))"
    write_notebook(notebooks, "03_third", told)
    monkeypatch.setenv("CLIPHELPERS_CACHE", "kept")
    for given, meant in (("some/features", Path("some/features").resolve()), 2 * ("s3://a/b",)):
        monkeypatch.setenv("CLIPHELPERS_FEATURES", given)
        assert main(["run", "03", "--output", "out"]) == 0
        assert Path("out/told.txt").read_text() == f"{Path('kept').resolve()} {meant}"


@pytest.mark.parametrize(
    ("name", "encoders", "words"),
    [
        ("01_first", ["timm:x"], "01_first needs a CLIP (clip: or openclip:) among the encoders"),
        ("06_sixth", ["clip:RN50"], "06_sixth needs an encoder that is no CLIP among the encoders"),
    ],
)
def test_a_notebook_without_an_encoder_for_it_is_named_at_once(
    notebooks, capsys, name, encoders, words
):
    write_notebook(notebooks, name)
    assert main(["run", name[:2], "-p", "encoders", repr(encoders), "--output", "out"]) == 1
    error = capsys.readouterr().err
    assert words in error and "name the other notebooks" in error and not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("encoders", ["clip:CLIP", "timm:resnet18@gone.pt"], "There is no file gone.pt"),
        ("encoders", ["clip:w.pt"], "w.pt holds no state dict, or is damaged"),
        ("encoders", ["clip:CLIP", "timm:resnet999"], "timm has no model 'resnet999'"),
        ("encoders", ["clip:CLIP", "module:e.py"], "e.py needs a function encoder()"),
        ("encoders", 2 * ["clip:CLIP"], "twice: give it once"),
        ("encoders", ["clip:CLIP", "clip:/CLIP"], "The same encoder twice"),
        ("interpolations", ["bicubic", "srgan@gone.pt"], "There is no file gone.pt"),
        ("interpolations", ["srgan@w.pt"], "w.pt holds no state dict, or is damaged"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_runs(
    notebooks, tmp_path, capsys, clip_vit, name, values, words
):
    more = f"{PARAMETERS}interpolations = ['bicubic']\n"
    write_notebook(notebooks, "04_fourth", SAVE.format(name="fourth"), parameters=more)
    for file in ("w.pt", "e.py"):
        (tmp_path / file).touch()
    given = repr(values).replace("CLIP", str(clip_vit))
    assert main(["run", "01", "04", "-p", name, given, "--output", "out"]) == 1
    assert words in capsys.readouterr().err and not Path("out").exists()


def test_a_word_that_is_also_a_folder_here_stays_a_word(notebooks):
    told = "from pathlib import Path; Path(output, 'told.txt').write_text(augmentation)"
    parameters = PARAMETERS + "augmentation = 'auto'\n"
    write_notebook(notebooks, "03_third", told, parameters=parameters)
    Path("photo").mkdir()
    assert main(["run", "03", "-p", "augmentation", "photo", "--output", "out"]) == 0
    assert Path("out/told.txt").read_text() == "photo"


FAULTS = """\
import resource
from pathlib import Path
import torch
from cliphelpers.parallel import in_parallel
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def layer(_): return faults() if torch.ones(20_000_000).sum() else 0
Path(output).mkdir(exist_ok=True)
told = in_parallel(layer, range(60))  # of the first ones a heap takes what it needs
(Path(output) / "faults.txt").write_text(str(told[-1] - told[-21]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
def test_what_a_notebook_frees_stays_for_its_next_layer(notebooks, tmp_path, monkeypatch):
    """A kernel has threads before it imports anything of ours, and a heap for each of them."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    write_notebook(notebooks, "01_first", FAULTS)
    assert main(["run", "01", "--output", "out"]) == 0
    layer = 80_000_000 / resource.getpagesize()
    assert int((tmp_path / "out" / "faults.txt").read_text()) < 3 * layer  # of the last 20


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped is asked of /proc")
def test_the_command_leaves_torch_s_memory_to_the_notebooks(notebooks, tmp_path):
    looks = "import os\nmaps = open(f'/proc/{os.getppid()}/maps').read()\n"
    write_notebook(notebooks, "01_first", looks + "assert 'libzmq' in maps and 'torch' not in maps")
    for rate, error in (("0.5", ""), ("-1", "ParameterError: The parameter rate must be a number")):
        given = {"cwd": tmp_path, "capture_output": True, "text": True}
        said = subprocess.run([sys.executable, "-c", ALONE, rate], **given).stderr
        assert error in said and bool(error) == ("Traceback" in said), said


def commit(folder):
    """A new commit in a folder's repository: its hash."""
    git = ["git", "-C", folder, "-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_a_second_run_keeps_the_record_of_what_did_not_run_again(
    notebooks, tmp_path, fruits, monkeypatch
):
    """The first was of an older version, which told when and by which commit of all at once."""
    parameters = PARAMETERS + 'names = "words.csv"\ntemplates = ["{}"]\nprecision = "auto"\n'
    monkeypatch.setattr("cliphelpers.encoders.encoder.auto_precision", lambda device: "bf16")
    write_notebook(notebooks, "04_ratio", "1 / (rate - 0.25)", parameters=parameters)
    old = {"started": "2026-01-02", "commit": "abc", "python": "3.0", "peak_memory_gib": 1}
    old |= {"versions": {"torch": "1.0"}, "hardware": {"cores": 99}}
    one = {"parameters": {"seeds": [7]}, "seconds": 1.5}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps(old | {"notebooks": {"01_first": one}}))

    def record(rate, status):
        assert (
            main(["run", "04", "--data", str(fruits), "-p", "rate", rate, "--output", "out"])
            == status
        )
        return json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))

    first, kept = commit(notebooks), old | one
    made = record("0.5", 0)
    assert list(made["notebooks"]) == ["01_first", "04_ratio"]
    assert made["notebooks"]["01_first"] == kept
    ratio = made["notebooks"]["04_ratio"]
    assert ratio["commit"] == made["commit"] == first and ratio["parameters"]["rate"] == 0.5
    times = [pd.Timestamp(text) for text in (made["started"], ratio["started"])]
    assert pd.Timedelta(0) <= times[1] - times[0] < pd.Timedelta("1min")
    assert made["python"] == ratio["python"] != "3.0"
    for part in ("versions", "hardware"):
        assert ratio[part] == made[part]
    assert 0 < ratio["peak_memory_gib"] <= made["peak_memory_gib"]
    assert (ratio["parameters"]["precision"], ratio["precision"]) == ("auto", "bf16")

    second = commit(notebooks)
    made = record("0.25", 1)  # it fails, so what it said the first time is no more true
    assert made["notebooks"] == {"01_first": kept} and made["commit"] == second != first


def test_an_output_with_results_of_other_pictures_is_refused(notebooks, fruits, capsys):
    """Not of notebooks that run again."""
    Path("others").mkdir()
    run = ["run", "01", "03", "--output", "out", "--data"]
    assert main([*run, str(fruits)]) == main([*run, "others"]) == 0
    assert main(["run", "01", "--output", "out", "--data", str(fruits)]) == 1
    error = capsys.readouterr().err
    assert "out holds results of " in error and "others, by 03_third: choose another --ou" in error
    assert list(json.loads(Path("out/run.json").read_text())["notebooks"]) == RAN


def test_two_runs_at_once_into_one_output_keep_each_other_s_record(notebooks, fruits, monkeypatch):
    def execute_both(path, *arguments):
        if path.stem == "01_first":
            main(["run", "03", "--data", str(fruits), "--output", "out"])
        return execute(path, *arguments)

    execute = runner._execute
    monkeypatch.setattr(runner, "_execute", execute_both)
    assert main(["run", "01", "--data", str(fruits), "--output", "out"]) == 0
    assert sorted(json.loads(Path("out/run.json").read_text())["notebooks"]) == RAN


@pytest.mark.parametrize("option", [["--data"], ["-p", "data"]])
def test_no_pictures_are_not_the_notebooks_own(notebooks, option, capsys):
    """As of a shell's variable that is not set."""
    assert main(["run", "01", "--output", "out", *option, ""]) == 1
    assert "data must be a folder or CSV file that exists" in capsys.readouterr().err


def test_warnings_are_told_once_in_words_and_kept(notebooks, tmp_path, capsys):
    noisy = """\
import warnings
from threading import Thread
from cliphelpers.progress import say_warnings
say_warnings()
warnings.warn("Without the split official.\\n  It is    not there")
warnings.warn("It will change", FutureWarning)
thread = Thread(target=warnings.warn, args=["From a thread: 中文"])
thread.start(), thread.join()
import sys
print("no warning", file=sys.stderr)"""
    words = ["Without the split official. It is not there", "It will change"]
    again = "import sys\nprint('Warning: It will change\\nWarning: new', file=sys.stderr)"
    write_notebook(notebooks, "01_first", noisy)
    write_notebook(notebooks, "02_faulty", again)
    Path("pictures").mkdir()
    assert main(["run", "01", "02", "-p", "data", "pictures", "--output", "out"]) == 0
    error = capsys.readouterr().err
    for line in [*words, "From a thread: 中文", "new"]:
        assert error.count(f"Warning: {line}\n") == 1
    assert "no warning" not in error and "UserWarning" not in error and ".py" not in error

    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    kept = {name: one["warnings"] for name, one in record["notebooks"].items()}
    assert kept == {
        "01_first": [*words, "From a thread: 中文"],
        "02_faulty": ["It will change", "new"],
    }
    executed = nbformat.read(tmp_path / "out" / "notebooks" / "01_first.ipynb", 4)
    said = "".join(o.text for c in executed.cells for o in c.get("outputs", []) if "text" in o)
    lines = [f"Warning: {line}" for line in kept["01_first"]]
    assert said.splitlines() == [*lines, "no warning"]


FAULTY = ["", "[]", '{"started": "2026"}', '{"started": "", "commit": "", "notebooks": []}']


@pytest.mark.parametrize("text", FAULTY)
def test_a_faulty_run_json_is_refused_before_anything_runs(notebooks, tmp_path, capsys, text):
    (tmp_path / "run.json").write_text(text)
    assert main(["run", "01", "--output", "."]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'run.json'} is no record of a run: move it" in error
    assert error.count("\n") == 1 and not (tmp_path / "results").exists()


# ------------------------------------------------------------------------------- parameters


MORE = """\
names = "words.csv"
templates = ["a photo of a {}."]
shots = [1, 2]
sides = [56]
strengths = [0.1]
alphas = [1.0]
betas = [1.0]
interpolations = ["bicubic"]
wise_alphas = [0.0, 1.0]
train_shots = 2
augmentation = "auto"
precision = "fp32"
epochs = 2
tested = 3
batch = 16
rate = 1e-3
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shots", [1, 0], "shots must be a list, each a whole number from 1 on: 0 is none"),
        ("shots", [1.5], "shots must be a list, each a whole number from 1 on: 1.5 is none"),
        ("shots", [1, 2, 1], "shots has 1 twice: give it once"),
        ("interpolations", ["bicubic", "bicubic"], "interpolations has 'bicubic' twice: give it"),
        ("shots", [], "shots must be a list, each a whole number from 1 on, not []"),
        ("seeds", [-1], "seeds must be a list, each a whole number from 0 on: -1 is none"),
        ("seeds", [False], "seeds must be a list, each a whole number from 0 on: False is n"),
        ("seeds", ["a"], "seeds must be a list, each a whole number from 0 on: 'a' is none"),
        ("strengths", [0.1, -0.1], "strengths must be a list, each a number above 0: -0.1 is"),
        ("strengths", [0], "strengths must be a list, each a number above 0: 0 is none"),
        ("strengths", ["strong"], "strengths must be a list, each a number above 0: 'strong' is"),
        ("alphas", [True], "alphas must be a list, each a number from 0 on: True is none"),
        ("betas", [-3], "betas must be a list, each a number from 0 on: -3 is none"),
        ("wise_alphas", [0.5, 1.5], "wise_alphas must be a list, each a number from 0 to 1: 1.5 "),
        ("sides", [0], "sides must be a list, each a whole number from 1 on: 0 is none"),
        ("interpolations", [2], "interpolations must be a list, each one of bilinear, bicubic, la"),
        ("interpolations", ["cubic"], "lanczos, srgan or srgan@FILE: 'cubic' is none"),
        ("epochs", 0, "epochs must be a whole number from 1 on: 0 is none"),
        ("tested", True, "tested must be a whole number from 1 on: True is none"),
        ("batch", 1, "batch must be a whole number from 2 on: 1 is none"),
        ("rate", 0, "rate must be a number above 0: 0 is none"),
        ("train_shots", 0, "train_shots must be a whole number from 1 on: 0 is none"),
        ("augmentation", "turn", "augmentation must be one of auto, photo, turntable, none: 'turn"),
        ("precision", "fp16", "precision must not be fp16, in which small gradients vanish"),
        ("precision", 16, "precision must be one of auto, fp32, bf16, fp16: 16 is none"),
        ("templates", [""], "each a text with one {} where the class name goes: '' is none"),
        ("templates", ["a photo."], "a text with one {} where the class name goes: 'a photo.' is"),
        ("templates", ["{} {}"], "a text with one {} where the class name goes: '{} {}' is none"),
        ("templates", [], "templates must be a list, each a text with one {} where the class nam"),
        ("templates", ["long " * 76 + "{}"], "templates does not go with clip:RN50. This text has "
         "more than 77 tokens: 'long long"),
        ("splits", ["clips"], "splits must be a list, each one of official, by_group, by_look"),
        ("encoders", [], "encoders must be a list, each a text that begins with clip, openclip"),
        ("encoders", ["RN50"], "begins with clip, openclip, timm, torchvision, module and a colon"),
        ("shots", 3, "shots must be a list, each a whole number from 1 on, not 3"),
        ("shotz", [3], "None of 04_many has 'shotz': did you mean shots?"),
        ("names", 7, "names must be a CSV file that exists: 7"),
        ("names", "gone.csv", "names must be a CSV file that exists: 'gone.csv'"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_anything_runs(
    notebooks, fruits, capsys, name, value, message
):
    write_notebook(notebooks, "04_many", parameters=PARAMETERS + MORE)
    before = sorted(notebooks.parent.rglob("*"))
    assert main(["run", "04", "--data", str(fruits), "-p", name, repr(value)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(notebooks.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", LOADERS)
def test_every_kind_of_encoder_is_allowed(kind):
    check_parameters({"encoders": [f"{kind}:x"]})


@pytest.mark.parametrize(
    ("spec", "tokens"),
    [("clip:RN50", 77), ("openclip:RN50/yfcc15m", 77), ("openclip:PE-Core-B-16", 32)],
)
def test_the_longest_prompt_has_as_many_tokens_as_its_encoder_reads(fruits, spec, tokens):
    """A word is a token here; CLIP adds one at the start and one at the end."""
    others = {"data": fruits, "names": None, "encoders": ["timm:x", spec]}
    most = "long " * (tokens - 4) + "{}"  # two words
    check_parameters(others | {"templates": [most]})
    with pytest.raises(ParameterError, match=f"{spec}.* {tokens} tokens: 'long .*long apple red'"):
        check_parameters(others | {"templates": ["long " + most]})


def test_begin_checks_and_then_sets_the_style():
    with plt.rc_context():
        set_style()
        expected = dict(plt.rcParams)
        plt.rcdefaults()
        before = dict(plt.rcParams)
        with pytest.raises(ParameterError, match="The parameter seeds must be"):
            begin({"seeds": []})
        assert dict(plt.rcParams) == before != expected
        begin({"seeds": [0], "anything": None})
        assert dict(plt.rcParams) == expected
    words = warnings.formatwarning("Two\nlines", UserWarning, "place.py", 3)
    assert words == "Warning: Two lines\n"
    table = pd.DataFrame({"label": ["$a$"]})
    assert "tex2jax_ignore" in table._repr_html_() and "tex2jax_ignore" in table.style.to_html()


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_notebooks_refuse_it_too_when_they_are_run_by_hand(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    given = {}
    exec(cells[0], {}, given)
    check_parameters(given)  # the defaults are allowed
    with plt.rc_context():
        exec(cells[1], dict(given))
        for name in given:  # no parameter is without a rule
            with pytest.raises(ParameterError, match=f"The parameter {name} must be"):
                exec(cells[1], given | {name: [None]})


def test_an_output_behind_a_folder_that_is_not_there_is_one_for_run_and_page(notebooks, capsys):
    assert main(["run", "01", "--output", "new/../out"]) == 0
    assert (notebooks.parent / "out" / "run.json").exists()
    assert f" is {notebooks.parent.resolve() / 'out' / 'index.html'}" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["", "results", "../pictures/a/../out"])
def test_an_output_among_the_pictures_is_refused_whoever_runs_it(tmp_path, output):
    """Else its figures are a class of their own at the next run."""
    data = tmp_path / "pictures"
    (data / "a").mkdir(parents=True)
    with pytest.raises(ParameterError, match="lies in .*pictures, as if it were pictures"):
        check_parameters({"data": str(data), "output": str(data / output)})
    check_parameters({"data": str(data), "output": f"{data}-results"})
    with pytest.raises(ParameterError, match="names must be a CSV file that exists"):
        check_parameters({"names": str(data)})


# ------------------------------------------------------------------------------- compare


def write_run(folder, rows, dataset="d"):
    """A run's tables: rows of (encoder, method, shots, seed, value)."""
    columns = ["encoder", "method", "shots", "seed", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(
        experiment="02_k_shot", dataset=dataset, split="official", features="joint", metric="top-1"
    )
    (folder / "results").mkdir(parents=True)
    table.to_csv(folder / "results" / "02_k_shot.csv", index=False)
    record = {"started": "2026-01-02", "commit": "abcdef0123456", "notebooks": {}}
    record["notebooks"]["02_k_shot"] = {"parameters": {"data": dataset}}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        ("A <b>", "head", 1, 0, 0.5),
        ("A <b>", "head", 1, 1, 0.7),
        ("A <b>", "zero", "", "", 0.2),
    ]
    write_run(tmp_path / "one", rows)
    write_run(tmp_path / "other", [("A <b>", "head", 1, 0, 0.9), ("B", "head", 2, 0, 0.25)])
    return ["one", "other"]


def test_compare_shows_runs_side_by_side(two_runs, capsys):
    assert main(["compare", *two_runs, "--html", "page.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one: 2026-01-02, commit abcdef0123, data d"
    tails = [line.split()[-4:] for line in lines[lines.index("What came out:") :]]
    assert ["top-1", "0.600", "0.900", "0.300"] in tails  # the mean of two seeds
    assert ["top-1", "0.200", "–", "–"] in tails and ["top-1", "–", "0.250", "–"] in tails
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "A &lt;b&gt;" in page and "one: 2026-01-02" in page
    assert all(f">{cell}</td>" in page for cell in ("0.600", "0.900", "0.300", "–"))
    black = page.rfind("background-color: #000000")  # of a spread that is none, until undone
    assert black < page.index("background-color: transparent")


def test_compare_says_first_in_what_the_runs_differ(two_runs, capsys):
    for run, rate, torch in (("one", 0.1, "2.6"), ("other", 0.2, "2.7")):
        record = json.loads(Path(run, "run.json").read_text())
        book = record["notebooks"]["02_k_shot"]
        book |= {"versions": {"torch": torch, "numpy": "2.0"}, "hardware": {"cores": 2}}
        book["parameters"] |= {"rate": rate, "seeds": [0], "output": run}
        Path(run, "run.json").write_text(json.dumps(record))
    assert main(["compare", *two_runs, "--html", "page.html"]) == 0
    differing = capsys.readouterr().out.partition("In what they differ:")[2]
    differing = [line.split() for line in differing.partition("What came out:")[0].splitlines()]
    assert ["02_k_shot", "parameters", "rate", "0.1", "0.2"] in differing
    assert ["02_k_shot", "versions", "torch", "2.6", "2.7"] in differing
    assert not {"numpy", "cores", "seeds", "output", "commit"} & {
        w for row in differing for w in row
    }
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.index("parameters rate") < page.index("0.600")


def test_compare_s_page_is_there_though_the_reader_of_its_text_left(two_runs, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Closed())
        assert main(["compare", *two_runs, "--html", "page.html"]) == 1
    assert Path("page.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_compare_speaks_where_the_terminal_lacks_letters(two_runs, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    for run in two_runs:
        file = Path(run, "results", "02_k_shot.csv")
        file.write_text(
            file.read_text(encoding="utf-8").replace("zero", "ML − 零"), encoding="utf-8"
        )
    assert main(["compare", *two_runs]) == 0
    sys.stdout.flush()
    assert b"ML \\u2212 \\u96f6" in written.getvalue()


def test_compare_takes_one_folder_named_in_two_ways_as_one(two_runs, capsys):
    for run, name in zip(two_runs, ("fruit", "./fruit"), strict=True):
        file = Path(run, "run.json")
        record = json.loads(file.read_text())
        for one in record["notebooks"].values():
            one["parameters"]["data"], one["pictures"] = name, "/home/me/fruit"
        file.write_text(json.dumps(record))
    assert main(["compare", *two_runs]) == 0
    assert "parameters data" not in capsys.readouterr().out


def test_compare_names_what_is_no_run(two_runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    os.remove("other/run.json")
    for folder in ("empty", "gone", "other"):
        assert main(["compare", "one", folder]) == 1
        assert f"{folder} is no run: it has no run.json. Give the" in capsys.readouterr().err
    Path("one/results/predictions.csv").write_text("a,b\n1,2\n")  # no table of results
    assert main(["compare", "one"]) == 0
    Path("one/results/02_k_shot.csv").write_text("a,b\n1,2\n")
    assert main(["compare", "one"]) == 1
    error = capsys.readouterr().err
    assert "one/results/02_k_shot.csv is no table of results: it has no column" in error
    for again in ("one", "./one", "other/../one"):
        assert main(["compare", "one", again]) == 1
        assert "A run is given twice" in capsys.readouterr().err


def test_compare_shows_no_table_of_a_notebook_that_was_begun_again(two_runs, capsys):
    """run.json has no word of it until it ends: what stands there is of other parameters."""
    shutil.copy("one/results/02_k_shot.csv", "one/results/01_zero_shot.csv")
    assert main(["compare", "one"]) == 0
    assert capsys.readouterr().out.count("zero") == 1
    Path("one/results/02_k_shot.csv").unlink()
    assert main(["compare", "one"]) == 1
    lacks = "it has no results/*.csv of a notebook that has ended"
    assert f"one is no run: {lacks}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["new/page.html", "folder"])
def test_a_file_to_write_can_lie_in_a_new_folder_but_not_be_one(two_runs, capsys, place):
    Path("folder").mkdir()
    status = main(["compare", *two_runs, "--html", place])
    error = capsys.readouterr().err
    if place == "folder":
        assert status == 2 and "'folder' is a directory" in error and "Traceback" not in error
    else:
        assert status == 0 and Path(place).read_text(encoding="utf-8").endswith("</html>\n")


def test_compare_keeps_the_column_of_a_run_called_spread(two_runs, capsys):
    os.rename("other", "spread")
    assert main(["compare", "one", "spread"]) == 1
    assert "A column is called spread: give the run as ./spread" in capsys.readouterr().err
    assert main(["compare", "one", "./spread"]) == 0


@pytest.mark.parametrize("text", FAULTY)
def test_compare_refuses_a_faulty_run_json(two_runs, capsys, text):
    Path("one/run.json").write_text(text)
    assert main(["compare", *two_runs]) == 1
    error = capsys.readouterr().err
    assert "one/run.json is no record of a run" in error and error.count("\n") == 1


CURVES = "experiment,dataset,split,encoder,features,method,shots,seed,fold,epoch,loss,chosen"


def test_compare_leaves_curves_out(two_runs, capsys):
    for folder in two_runs:
        Path(folder, "results", "05_fine_tune_clip_curves.csv").write_text(f"{CURVES}\n")
    assert main(["compare", *two_runs]) == 0
    tails = [line.split()[-4:] for line in capsys.readouterr().out.splitlines()]
    assert ["top-1", "0.600", "0.900", "0.300"] in tails


def test_compare_says_the_commits_of_a_run_in_several_parts(two_runs, capsys):
    file = Path("one/run.json")
    record = json.loads(file.read_text())
    parts = {"05": {"commit": "fedcba9876543", "parameters": {"data": "e"}}}
    parts |= {"06": {"commit": None, "parameters": {"data": "d"}}}
    file.write_text(json.dumps(record | {"notebooks": record["notebooks"] | parts}))
    assert main(["compare", *two_runs]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "one: 2026-01-02, commit abcdef0123, fedcba9876, unknown, data d, e"


REPORT = Path(runner.__file__).parents[2] / "report" / "results"


@pytest.mark.parametrize("notebook", ["05_fine_tune_clip", "06_fine_tune_imagenet"])
def test_compare_takes_the_committed_runs_with_fine_tuning(notebook, capsys):
    """Their run.json can be of an older version."""
    folders = [str(REPORT / name) for name in ("embedded", "photographs")]
    assert main(["compare", *folders]) == 0
    out, table = capsys.readouterr().out, pd.read_csv(REPORT / "embedded" / f"{notebook}.csv")
    row = table[table.metric == "top-1"].iloc[0]
    keys = ["split", "encoder", "features", "method", "metric"]
    same = table[(table[keys] == row[keys]).all(axis=1)]
    assert notebook in out and f" {same.value.mean():.3f} " in out


# ------------------------------------------------------------------------------- check


@pytest.fixture
def kept_here(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))


def checked(capsys, data, status=0):
    assert main(["check", str(data)]) == status
    out, error = capsys.readouterr()
    return out.splitlines(), error


def paint(path, seed=0, size=(90, 60)):
    """A picture of light and dark in soft colours, as photographs have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    few = rng.integers(30, 225, (3, 4, 1)) + rng.integers(-30, 30, (3, 4, 3))
    Image.fromarray(few.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.mark.filterwarnings("ignore:Classes share groups")
def test_a_group_that_classes_share_is_counted_once(kept_here, tmp_path, capsys):
    rows = [(paint(tmp_path / f"{n}.png", n), f"{n}.png", "ab"[n % 2], f"day {n // 4}")[1:]
            for n in range(12)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["path", "label", "group"])
    table.to_csv(tmp_path / "list.csv", index=False)
    with pytest.warns(UserWarning):  # as make_splits has no test part
        lines, _ = checked(capsys, tmp_path / "list.csv")
    assert "3 groups of 12 pictures are named" in "\n".join(lines)


def test_check_shows_what_it_understood(kept_here, fruits, capsys):
    lines, _ = checked(capsys, fruits)
    text = [" ".join(line.split()) for line in lines]
    assert text[:2] == ["72 pictures, 0 with problems", "test train pictures"]
    assert text[2:7] == [f"{c} 6 12 18" for c in SHAPES] + ["all 4 classes 24 48 72"]
    assert text[7] == "12 groups of 72 pictures are named, 12 of them in several parts"
    assert text[8] == "Sizes: smallest 100x100, median 100x100, largest 100x100"
    assert "test pictures are near copies of training pictures" in text[9]
    at = text.index("split fold training validation test")
    assert text[at + 1] == "official 0 32 16 24"
    assert len(text[at + 2 :]) == 3 and all(line.startswith("by_group ") for line in text[at + 2 :])


def test_check_of_a_manifest_with_problems(kept_here, tmp_path, capsys):
    sizes = [(90, 60), (45, 30), (120, 80), (90, 60), (90, 60), (81, 10)]
    for seed, size in enumerate(sizes):
        paint(tmp_path / f"{seed}.png", seed, size)
    Image.new("RGB", (90, 60), "red").save(tmp_path / "6.png")
    (tmp_path / "7.png").write_text("no picture")
    rows = [f"{n}.png,{'猫' if n % 2 else 'a $'},{'day' if n < 5 else ''}" for n in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]), encoding="utf-8")
    with pytest.warns(UserWarning):  # as make_splits has no test part
        lines, _ = checked(capsys, tmp_path / "list.csv", status=1)
    text = [" ".join(line.split()) for line in lines]
    assert text[:4] == [
        f"{tmp_path / '6.png'}: one colour, no contrast",
        f"{tmp_path / '5.png'}: odd size 81x10",
        f"{tmp_path / '7.png'}: the file is no picture",
        "8 pictures, 3 with problems: remove or replace them",
    ]
    assert text[4:8] == ["not stated pictures", "a $ 4 4", "猫 3 3", "all 2 classes 7 7"]
    assert "1 groups of 5 pictures are named" in text  # that both classes share
    assert "Sizes: smallest 81x10, median 90x60, largest 120x80" in text
    assert "0 pictures are near copies of others" in text


def copies_of(path, folder):
    """A byte-equal, two resized and a recompressed copy: their paths."""
    picture, made = Image.open(path), [folder / f"copy {n}.jpg" for n in range(4)]
    shutil.copy(path, made[0])
    picture.resize((45, 30)).save(made[1])
    picture.resize((180, 120), Image.Resampling.LANCZOS).save(made[2])
    picture.save(made[3], quality=50)
    return made


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("train", "test"), "4 test pictures are near copies of training pictures, such as"),
        (("", ""), "4 pictures are near copies of others, such as"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_check_finds_near_copies_and_takes_no_others_for_such(
    kept_here, tmp_path, capsys, parts, said
):
    for seed in range(24):
        paint(tmp_path / parts[seed // 12] / "ab"[seed % 2] / f"{seed}.jpg", seed)
    original = tmp_path / parts[0] / "b" / "1.jpg"
    made = copies_of(original, tmp_path / parts[1] / "b")
    lines, _ = checked(capsys, tmp_path)
    assert said in lines
    pairs = [line.strip().split(" and ") for line in lines if line.startswith("  /")]
    assert sorted(one for one, _ in pairs) == sorted(map(str, made))
    assert {other for _, other in pairs} <= {str(original), *map(str, made)}
    assert parts[1] == "" or {other for _, other in pairs} == {str(original)}


@pytest.mark.parametrize("tests", [0, 13, 40])
def test_near_copies_are_those_of_all_correlations(monkeypatch, tests):
    monkeypatch.setattr(check, "_BLOCK", 7)
    rng = np.random.default_rng(tests)
    looks = rng.random((60, 300)).astype(np.float32)
    looks[rng.integers(0, 60, 30)] = 0.5 * looks[rng.integers(0, 60, 30)] + 0.1  # darker copies
    looks[5] = 0.3  # without contrast: like none
    tested = rng.permutation(60) < tests
    with np.errstate(invalid="ignore"):
        correlations = np.corrcoef(looks)
    allowed = np.outer(tested, ~tested) if tests else np.tri(60, k=-1, dtype=bool)
    alike = (correlations >= 0.999) & allowed
    pairs = near_copies(looks, tested)
    assert sorted(row for row, *_ in pairs) == np.flatnonzero(alike.any(1)).tolist()
    assert len(pairs) > 2 and all(alike[row, other] for row, other, _ in pairs)
    assert [cosine for *_, cosine in pairs] == sorted((p[2] for p in pairs), reverse=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "pictures"),
        (["a/notes.txt"], "pictures"),
        (["list.csv"], "lists no pictures"),
        (None, "There is no folder or CSV file"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_check_of_nothing_is_an_error(tmp_path, capsys, files, message):
    for name in files or []:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("path,label\n")
    data = tmp_path / ("list.csv" if files == ["list.csv"] else "gone" if files is None else "")
    lines, error = checked(capsys, data, status=1)
    assert lines == [] and message in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("cliphelpers: ") and ".py" not in error


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_check_says_what_it_found_before_it_refuses(kept_here, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,label\na.png,Fig\nb.jpg,Fig\nc.png,Kiwi")
    paint(tmp_path / "a.png")
    paint(tmp_path / "c.png", 1)
    (tmp_path / "b.jpg").write_text("no picture")
    lines, error = checked(capsys, tmp_path / "list.csv", status=1)
    assert f"{tmp_path / 'b.jpg'}: the file is no picture" in lines
    assert "3 pictures, 1 with problems: remove or replace them" in lines
    assert "cliphelpers: No class has two pictures, one to learn from and one to test" in error
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_text("no picture")
    lines, _ = checked(capsys, tmp_path / "list.csv", status=1)
    assert lines[-1] == "3 pictures, 3 with problems: remove or replace them"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_check_prints_names_that_are_no_utf_8(kept_here, tmp_path, capsys):
    names = ["1", os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")]
    for label in ("a", os.fsdecode(b"\xfd")):
        for name in names:
            paint(tmp_path / label / f"{name}.png", seed=len(label + name) + ord(label))
    (tmp_path / "a" / os.fsdecode(b"\xfc.png")).write_text("no picture")
    lines, _ = checked(capsys, tmp_path, status=1)
    assert lines[0] == f"{tmp_path}/a/\\udcfc.png: the file is no picture"
    assert "\\udcfd" in "".join(lines) and f"  {tmp_path}/a/\\udcff.png and " in "\n".join(lines)


# ------------------------------------------------------------------------------- the real run

COLUMNS = [
    "experiment", "dataset", "split", "encoder", "features", "method", "shots", "seed",
    "metric", "value", "low", "high", "low_classes", "high_classes", "balanced", "n", "p",
    "verdict", "chosen", "at_edge",
]  # fmt: skip
FIGURES = {
    "01_zero_shot": [
        "calibration-zero-shot", "classes", "zero-shot-accuracy", "zero-shot-confusions",
        "zero-shot-prompts", "zero-shot-visualization",
    ],
    "02_k_shot": ["k-shot-plot"],
    "03_linear_probe_clip": [
        "calibration-clip", "confusions-clip", "feature-map-clip", "linear-probing-clip", "splits",
        "training-size-clip",
    ],
    "04_linear_probe_imagenet": [
        "confusions-imagenet", "doubtful-labels", "feature-map-imagenet",
        "linear-probing-imagenet", "training-size-imagenet",
    ],
}  # fmt: skip
SMALLER = {"shots": [1, 4], "seeds": [0, 1], "strengths": [0.1, 0.01]}


def arguments(data, encoders, output, *names):
    given = {"encoders": encoders} | SMALLER
    pairs = [part for name, value in given.items() for part in ("-p", name, repr(value))]
    return ["run", *names, "--data", str(data), *pairs, "--output", str(output)]


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
    """What runs of the four notebooks on the tiny pictures make: name to folder.

    Two at once, since a notebook's imports, half of its time, keep one core busy.
    """
    halves = {place / "one": list(FIGURES)[::2], place / "two": list(FIGURES)[1::2]}
    mine, other = (arguments(fruits, encoders, half, *names) for half, names in halves.items())
    cliphelpers = Path(sys.executable).with_name("cliphelpers")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([cliphelpers, *other], **silent) as run:
        assert main(mine) == 0
    assert run.returncode == 0
    return {name: half for half, names in halves.items() for name in names}


def results(output, name):
    return pd.read_csv(output[name] / "results" / f"{name}.csv")


@pytest.mark.parametrize("name", FIGURES)
def test_real_notebooks_write_tidy_tables(output, fruits, name):
    table = results(output, name)
    assert list(table.columns) == COLUMNS
    assert set(table.experiment) == {name} and set(table.dataset) == {fruits.name}
    splits = ["official", "by_group", *(["by_look", "random"] if name[:2] == "03" else [])]
    assert set(table.split) == set(splits)
    accuracies = table[table.metric != "top-1 difference"]
    assert accuracies.value.between(0, 1).all()
    assert (table.low <= table.value + 1e-6).all() and (table.value <= table.high + 1e-6).all()
    tested = table[table.metric != "top-1 on training"].groupby("split").n.unique()
    assert all(tested[split].tolist() == [24 if split == "official" else 72] for split in splits)
    assert (
        not table[["encoder", "method", "metric", "value", "low", "high", "balanced", "n"]]
        .isna()
        .any(axis=None)
    )
    columns = ["split", "encoder", "features", "method", "shots", "seed", "metric"]
    assert not table.duplicated(columns).any()


def test_real_notebooks_write_their_figures(output):
    for folder in set(output.values()):
        names = [name for name in FIGURES if output[name] == folder]
        pics = sorted((folder / "pics").iterdir())
        expected = [f for name in names for f in FIGURES[name]] + ["accuracy-and-cost"]
        assert [path.stem for path in pics] == sorted(expected)
        assert min(path.stat().st_size for path in pics) > 5_000
        assert {path.stem for path in (folder / "notebooks").iterdir()} == set(names)


def test_real_notebooks_compare_what_they_say(output):
    zero, few, clips, imagenet = (results(output, name) for name in FIGURES)
    both = {"CLIP tiny-vit", "CLIP tiny-rn"}
    assert set(zero.encoder) == set(few.encoder) == both
    metrics = {"top-1", "top-1 by name", "ECE, CLIP's own temperature", "ECE, fitted temperature"}
    assert set(zero[zero.method == "zero-shot"].metric) == metrics
    assert set(few.shots.dropna()) == {1, 4} and set(few.seed.dropna()) == {0, 1}
    heads = few[few.metric == "top-1"].method
    assert heads.nunique() == 6  # four ways to learn between two ends
    for table in (clips, imagenet):
        tops = table[(table.metric == "top-1") & table.shots.isna()]
        assert "10x10 raw pixels" in set(tops.encoder)
        assert tops.encoder.str.contains("random weights").any()
        assert set(tops.method) == {"logistic regression", "ridge", "k nearest neighbours"}
        assert (table.metric == "top-1 difference").any()
    assert "test_vit" in set(imagenet.encoder)


def test_coloured_shapes_are_told_apart_by_their_pixels(output):
    """Of four classes, each of its own colour: far above chance, which is a quarter."""
    table = results(output, "03_linear_probe_clip")
    pixels = table[(table.encoder == "10x10 raw pixels") & (table.metric == "top-1")]
    pixels = pixels[pixels.split != "by_look"]  # there the rival of pixels is pixels
    assert len(pixels) == 7 and pixels.value.min() > 0.5 and pixels.low.min() > 0.25


def test_run_json_of_the_real_run(output):
    for folder in set(output.values()):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert list(record["notebooks"]) == [name for name in FIGURES if output[name] == folder]
        for one in record["notebooks"].values():
            assert one["parameters"]["seeds"] == [0, 1] and one["seconds"] > 0


def test_a_second_run_computes_nothing_again_and_writes_the_same_bytes(
    output, place, fruits, encoders
):
    def kept():
        files = [path for path in (place / "cache").rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = kept()
    features = [path for path in before if path.suffix == ".sqlite"]
    assert len(features) == 7  # three encoders, the random twin of each, pixels
    assert len(before) > 2 * len(features)
    again = "03_linear_probe_clip"  # the others keep by the same ways
    assert main(arguments(fruits, encoders, place / "again", again)) == 0
    assert kept() == before
    first, second = (
        folder / "results" / f"{again}.csv" for folder in (output[again], place / "again")
    )
    assert first.read_bytes() == second.read_bytes()
