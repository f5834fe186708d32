"""Whether somebody looks; and that nobody's notebooks are filled with widgets or bars."""

import json

import jupyter_client
import nbformat
import papermill
import pytest

from cliphelpers.command import run
from cliphelpers.progress import live, progress


def test_nothing_is_live_without_a_kernel():
    assert live() is False


def test_a_front_end_is_one_where_a_person_can_answer():
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    try:
        code = "from cliphelpers.progress import live\nassert live() is {}"
        for answers in (True, False, True):
            client.allow_stdin = answers  # as JupyterLab sends it, and as nbclient does
            reply = client.execute_interactive(code.format(answers), allow_stdin=answers)
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_a_bar_in_a_terminal_is_gone_when_it_is_done(capsys):
    assert list(progress(range(3), desc="pictures", mininterval=0)) == [0, 1, 2]
    said = capsys.readouterr().err
    assert (
        "pictures" in said and said.endswith("\r") and not said.rstrip("\r").split("\r")[-1].strip()
    )


CODE = """
import pandas as pd

import cliphelpers as ch
from cliphelpers.progress import progress

for _ in progress(range(3), mininterval=0):
    pass
row = {"encoder": "A", "split": "test", "value": 0.5, "low": 0.4, "high": 0.6}
if ch.live():
    display(ch.alpha_widget(pd.DataFrame([row | {"alpha": 0.0}, row | {"alpha": 1.0}])))
print("done")
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A notebook with a bar, and with a widget where it is live."""
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_code_cell("output = 'out'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CODE),
    ]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    path = tmp_path / "notebooks" / "01_widget.ipynb"
    path.parent.mkdir()
    nbformat.write(book, path)
    monkeypatch.setattr(run, "NOTEBOOKS", path.parent)
    return path


@pytest.mark.parametrize("how", ["command", "papermill"])
def test_executed_notebooks_hold_neither_widgets_nor_bars(notebook, tmp_path, how):
    if how == "command":
        run.run(output=tmp_path / "out")
        executed = tmp_path / "out" / "notebooks" / notebook.name
    else:
        executed = tmp_path / "executed.ipynb"
        papermill.execute_notebook(notebook, executed, progress_bar=False)
    text = executed.read_text(encoding="utf-8")
    assert "done" in text and "widget-view" not in text and "widget-state" not in text
    book = json.loads(text)
    assert "widgets" not in book["metadata"]
    assert [one.get("name") for one in book["cells"][-1]["outputs"]] == ["stdout"]
