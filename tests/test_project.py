"""The project's own files agree with each other: environment, Makefile, notebooks."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # papermill brings it
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
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


def test_notebooks_carry_no_outputs(notebook):
    for cell in code(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_notebooks_have_no_absolute_paths(notebook):
    for cell in notebook["cells"]:
        assert not re.search(
            r"(?<![\w.])/(home|root|work|tmp|usr|Users|mnt)/|\b[A-Z]:\\", source(cell)
        )
    for cell in code(notebook):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not os.path.isabs(node.value), node.value


def test_all_notebooks_but_the_sixth_have_a_widget():
    without = [path.stem[:2] for path in NOTEBOOKS if "widgets.live()" not in path.read_text()]
    assert without == ["06"]


def test_notebooks_make_widgets_in_a_live_front_end_alone(notebook):
    """Else executed notebooks would hold their state: see tests/test_widgets.py."""
    for cell in code(notebook):
        assert "ipywidgets" not in source(cell)
        tree = ast.parse(source(cell))
        ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        live = [node for node in ifs if ast.unparse(node.test) == "widgets.live()"]
        guarded = {inner for node in live for part in node.body for inner in ast.walk(part)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "widgets":
                assert node.attr == "live" or node in guarded


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


def test_cells_fit_a_screen(notebook):
    for cell in code(notebook):
        assert len(source(cell).splitlines()) <= 25


def test_notebooks_begin_with_title_and_question_and_end_with_words(notebook):
    first, last = notebook["cells"][0], notebook["cells"][-1]
    assert re.match(r"# \d\. ", source(first)) and "**Question.**" in source(first)
    assert first["cell_type"] == last["cell_type"] == "markdown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_results_bear_its_name(path):
    text = "\n".join(source(cell) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
    assert re.findall(r'Results\("(.*?)"', text) == [path.stem]
    assert source(json.loads(path.read_text(encoding="utf-8"))["cells"][0])[2] == path.stem[1]
