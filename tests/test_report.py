import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
specification = importlib.util.spec_from_file_location("tables", ROOT / "report" / "tables.py")
tables = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tables)


def test_the_readme_holds_the_numbers_of_the_committed_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- end -->") >= 4
    assert tables.fill(text) == text, "run: python report/tables.py"


def test_a_changed_number_is_put_right():
    made = tables.fill("a\n<!-- minutes photographs -->\n| 1 |\n<!-- end -->\nb")
    assert made.startswith("a\n<!-- minutes photographs -->\n| notebook | minutes |")
    assert made.endswith("<!-- end -->\nb") and "| 1 |" not in made
