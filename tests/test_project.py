"""The project's own files agree with each other: environment, Makefile, notebooks."""

import ast
import json
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml  # papermill brings it
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import cliphelpers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
faults = runpy.run_path(str(ROOT / "report" / "gallery.py"))["faults"]
COMMON = {"data", "encoders", "splits", "seeds", "output"}

project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
environment_text = (ROOT / "environment.yml").read_text(encoding="utf-8")
environment = yaml.safe_load(environment_text)


# ------------------------------------------------------------------------------- environment.yml


def test_the_environment_installs_the_package_with_its_test_extra():
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == ["-e .[test]"]
    assert "test" in project["optional-dependencies"]
    assert environment["name"] == project["name"]


def test_the_environment_s_python_is_one_that_the_package_allows():
    names = [part for part in environment["dependencies"] if isinstance(part, str)]
    (version,) = [name.partition("=")[2] for name in names if name.startswith("python=")]
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert "pip" in names


def test_the_environment_names_nothing_that_pyproject_has():
    """Else one of the two lists would be forgotten when the other changes."""
    names = {re.split("[=<>]", part)[0] for part in environment["dependencies"] if part != "pip"
             if isinstance(part, str)}  # fmt: skip
    listed = {Requirement(text).name for text in project["dependencies"]}
    assert not names & listed


def test_every_line_of_the_environment_has_a_reason():
    lines = [line for line in environment_text.splitlines() if line.lstrip().startswith("- ")]
    lines = [line for line in lines if not line.endswith(":")]
    assert len(lines) >= 4
    for line in lines:
        assert re.search(r"\s#\s\w.{9,}", line), line


def test_dependencies_have_lower_bounds():
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    for text in project["dependencies"] + extras:
        requirement = Requirement(text)
        assert requirement.name == "regex" or ">=" in str(requirement.specifier), text


# ------------------------------------------------------------------------------- Makefile


def make(folder, python):
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = ["make", f"PYTHON={python}", "test"]
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_missing_python_is_one_sentence(tmp_path):
    done = make(tmp_path, "nonexistent")
    assert done.returncode != 0 and not (tmp_path / ".venv").exists()
    (line,) = done.stdout.splitlines()
    assert line.startswith("Python 3.10 or later is needed; 'nonexistent' was not found.")
    assert "make PYTHON=" in line


def test_a_python_that_is_too_old_is_one_sentence(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.10 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make(tmp_path, old)
    assert done.returncode != 0 and not (tmp_path / ".venv").exists()
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"Python 3.10 or later is needed; '{old}' is Python 3.8.10.")


def test_the_makefile_asks_for_the_python_that_the_package_requires():
    assert project["requires-python"] == ">=3.10"
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert text.count("Python 3.10 or later") == 2 and "(3, 10)" in text


@pytest.fixture
def lab(tmp_path):
    """A checkout with two notebooks and a JupyterLab that says its arguments; `make lab` in it."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("notebooks", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("01_one", "02_two"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(f"{name} as committed")
    jupyter = tmp_path / ".venv" / "bin" / "jupyter"
    jupyter.write_text('#!/bin/sh\necho jupyter "$@"\n')
    jupyter.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}

    def run():
        done = subprocess.run(
            ["make", "-s", "lab"], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0 and done.stderr == ""
        return done.stdout.splitlines()

    return tmp_path, run


def test_the_lab_works_on_copies(lab):
    root, run = lab
    (said,) = run()
    assert said.startswith("jupyter lab ") and said.endswith(" lab")  # its folder
    copies = {path.name: path.read_text() for path in (root / "lab").iterdir()}
    assert copies == {f"{name}.ipynb": f"{name} as committed" for name in ("01_one", "02_two")}


def test_the_lab_keeps_what_was_saved_and_says_what_is_newer(lab):
    root, run = lab
    run()
    (root / "lab" / "01_one.ipynb").write_text("my own")
    (root / "notebooks" / "03_three.ipynb").write_text("03_three as committed")
    assert len(run()) == 1
    assert (root / "lab" / "01_one.ipynb").read_text() == "my own"
    assert (root / "lab" / "03_three.ipynb").read_text() == "03_three as committed"
    changed = root / "notebooks" / "01_one.ipynb"
    later = (root / "lab" / "01_one.ipynb").stat().st_mtime + 60
    os.utime(changed, (later, later))
    news, _ = run()
    assert news.startswith("notebooks/ has newer ones than lab/: 01_one.ipynb. To take one,")
    assert (root / "lab" / "01_one.ipynb").read_text() == "my own"


def test_git_ignores_the_lab():
    assert "/lab/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


# ------------------------------------------------------------------------------- notebooks


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def parameters(notebook):
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    (cell,) = tagged
    assert cell is code(notebook)[0]
    return ast.parse(source(cell)).body


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_outputs_are_of_its_code_and_fit_to_be_committed(path):
    """What is wrong, in words: see tests/test_report.py for each of them."""
    assert list(faults(nbformat.read(path, as_version=4))) == []


def test_notebooks_carry_no_metadata_of_a_run(notebook):
    for cell in code(notebook):
        assert set(cell["metadata"]) <= {"tags"}
        assert "injected-parameters" not in cell["metadata"].get("tags", [])
    assert set(notebook["metadata"]) == {"cliphelpers", "kernelspec", "language_info"}
    assert set(notebook["metadata"]["cliphelpers"]) == {"code_sha256"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_notebooks_have_no_absolute_paths(notebook):
    for cell in notebook["cells"]:
        assert not re.search(
            r"(?<![\w.])/(home|root|work|tmp|usr|Users|mnt)/|\b[A-Z]:\\", source(cell)
        )
    for cell in code(notebook):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value == "/" or not os.path.isabs(node.value), node.value


def widget_calls(tree):
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).endswith("_widget")]


def test_all_notebooks_but_the_sixth_have_a_widget():
    books = {path.stem[:2]: json.loads(path.read_text(encoding="utf-8")) for path in NOTEBOOKS}
    found = [
        number
        for number, book in books.items()
        if any(widget_calls(ast.parse(source(cell))) for cell in code(book))
    ]
    assert found == ["01", "02", "03", "04", "05", "07"]


def test_notebooks_make_widgets_in_a_live_front_end_alone(notebook):
    """Else executed notebooks would hold their state: see tests/test_widgets.py."""
    for cell in code(notebook):
        assert "ipywidgets" not in source(cell)
        tree = ast.parse(source(cell))
        ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        live = [node for node in ifs if ast.unparse(node.test) == "ch.live()"]
        guarded = {inner for node in live for part in node.body for inner in ast.walk(part)}
        assert set(widget_calls(tree)) <= guarded


def test_parameters_are_literals_and_have_the_common_names(notebook):
    names = set()
    for statement in parameters(notebook):
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
        names |= {target.id for target in statement.targets}
    assert names >= COMMON


def test_every_parameter_is_used(notebook):
    rest = "\n".join(source(cell) for cell in code(notebook)[1:])
    used = {node.id for node in ast.walk(ast.parse(rest)) if isinstance(node, ast.Name)}
    assert {statement.targets[0].id for statement in parameters(notebook)} <= used


def test_cells_are_short(notebook):
    """Median, 90th percentile and longest."""
    lengths = sorted(len(source(cell).splitlines()) for cell in code(notebook))
    nearly_all = lengths[int(0.9 * (len(lengths) - 1))]
    assert statistics.median(lengths) <= 7 and nearly_all <= 12 and lengths[-1] <= 18


def test_the_setup_fits_six_lines(notebook):
    setup = source(code(notebook)[1])
    assert "import cliphelpers as ch" in setup and "ch.begin(globals())" in setup
    assert len(setup.splitlines()) <= 6


def test_notebooks_hold_no_plumbing(notebook):
    """What is kept and how jobs are spread over cores is the package's business alone."""
    for cell in code(notebook):
        assert not re.search(r"\b(kept|in_parallel|next|zip)\(", source(cell))


def test_notebooks_begin_with_title_and_question_and_end_with_words(notebook):
    first, last = notebook["cells"][0], notebook["cells"][-1]
    assert re.match(r"# \d\. ", source(first)) and "**Question.**" in source(first)
    assert first["cell_type"] == last["cell_type"] == "markdown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_first_how_to_run_it_and_which_is_next(path):
    first = source(json.loads(path.read_text(encoding="utf-8"))["cells"][0])
    links = set(re.findall(r"\]\((\w+\.ipynb)\)", first)) - {path.name}
    assert links and links <= {other.name for other in NOTEBOOKS}
    assert re.search(r"\bmake\b", first)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_results_bear_its_name(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    text = "\n".join(source(cell) for cell in code(book))
    assert re.findall(r'\bStudy\("(.*?)"', text) == [path.stem]
    assert source(book["cells"][0])[2] == path.stem[1]


# ------------------------------------------------------------------------------- the package


def imports():
    """For each file of the package the files that it imports, wherever in it."""
    package, found = ROOT / "cliphelpers", {}
    for path in package.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [
            f"{node.module}.{alias.name}"
            for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        ]  # fmt: skip
        places = [ROOT / (name.replace(".", "/") + ".py") for name in names]
        found[path] = {place for place in places if package in place.parents and place.exists()}
    return found


def test_imports_go_one_way():
    left = imports()
    assert len(left) > 20 and sum(map(len, left.values())) > 50
    while ready := [path for path, below in left.items() if not below & set(left)]:
        left = {path: below for path, below in left.items() if path not in ready}
    assert not left, "these files import each other, by way of others or at once"


def test_the_public_names_are_there_and_each_has_a_user():
    stub = (ROOT / "cliphelpers" / "__init__.pyi").read_text(encoding="utf-8")
    names = {alias.name for node in ast.parse(stub).body for alias in node.names}
    assert all(hasattr(cliphelpers, name) for name in names)
    cells = [cell for path in NOTEBOOKS for cell in code(json.loads(path.read_text("utf-8")))]
    used = set(re.findall(r"\bch\.(\w+)", "\n".join(map(source, cells))))
    assert used <= names
    assert names - used == {"Encoder", "read_state", "load_classifier"}  # people's own (README)
