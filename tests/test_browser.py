"""The widgets in a real browser: `make lab`, Chromium, notebook 1, a slider and a prompt.

$CLIPHELPERS_SCREENSHOT names a file for a picture of the widget, such as the README's
pics/widgets.jpg.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("make") is None,
    reason="Chromium or make is missing: apt-get install chromium make",
)
ROOT = Path(__file__).parents[1]
SCREENSHOT = os.environ.get("CLIPHELPERS_SCREENSHOT")
SECONDS = 1000  # Playwright counts milliseconds
PATIENCE = 240 * SECONDS
CAPTION = r"[✓✗] .+\n\(.+\)\n\d+%"  # Predicted (True) confidence
PAGE = ".jp-RenderedHTML > div"
CHANGED = f"""before => [...document.querySelectorAll("{PAGE}")].every(
    html => html.innerText != before)"""
WRONG_KERNEL = {"argv": ["false"], "display_name": "Python 3 (ipykernel)", "language": "python"}
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}  # JupyterLab asks a new user


def copy_pictures(target):
    """Of ten classes of data/fruits-mini two training frames and one test frame a clip."""
    for part, frames in (("Training", 2), ("Test", 1)):
        for folder in sorted((ROOT / "data" / "fruits-mini" / part).iterdir())[:10]:
            (target / part / folder.name).mkdir(parents=True)
            clips = {}
            for path in sorted(folder.iterdir()):
                clips.setdefault(re.sub(r"\d+_100.*", "", path.name), []).append(path)
            for path in [path for clip in clips.values() for path in clip[:frames]]:
                shutil.copy(path, target / part / folder.name)


@pytest.fixture
def project(tmp_path):
    """A copy of the project with this environment as its .venv, for `make lab`."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=lambda _, names: [
        name for name in names if not name.endswith(".ipynb")])  # fmt: skip
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv" / ".installed").touch()
    data = tmp_path / "data"
    data.mkdir()
    for name in ("weights", "prompt_names.csv"):
        (data / name).symlink_to(ROOT / "data" / name)
    copy_pictures(data / "fruits-mini")
    return tmp_path


@pytest.fixture
def lab(project):
    """The address that `make lab` says, while JupyterLab runs without any settings of the user."""
    settings = project / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    wrong = project / "DATA" / "kernels" / "python3"  # of the user, and not to be taken
    wrong.mkdir(parents=True)
    (wrong / "kernel.json").write_text(json.dumps(WRONG_KERNEL))
    own = {f"JUPYTER_{name}_DIR": str(project / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environment |= own | {
        "BROWSER": "true",  # the program that does nothing
        "CLIPHELPERS_CACHE": str(project / "cache"),
        "JUPYTERLAB_SETTINGS_DIR": str(project / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(project / "workspaces"),
    }
    with subprocess.Popen(
        ["make", "lab"], cwd=project, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            said, found = [], None
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", line):
                    break
            assert found, "".join(said)
            yield found[0]
            shutdown = found[0].replace("/lab?", "/api/shutdown?")
            urllib.request.urlopen(shutdown, data=b"", timeout=60).close()  # and its kernels
            process.stdout.read()
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def page(lab):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400}, device_scale_factor=1.5)
        page.set_default_timeout(PATIENCE)
        page.goto(lab.replace("/lab?", "/lab/tree/01_zero_shot.ipynb?"))
        yield page
        browser.close()


def seen(captions, verdict):
    """What the widget says: its captions, its verdict and the numbers in it."""
    text = verdict.inner_text()
    change = re.search(r"pictures, (.+? points)", text)[1]
    confidence = float(re.search(r"mean confidence ([\d.]+)%", text)[1])
    return {
        "captions": captions.all_inner_texts(),
        "verdict": text,
        "accuracy": float(re.search(r"accuracy ([\d.]+)%", text)[1]),
        "change": change,
        "confidence": confidence,
    }


def names(seen):
    return [caption.rpartition("\n")[0] for caption in seen["captions"]]


def test_a_slider_and_a_prompt_change_what_is_seen(page):
    page.get_by_text(re.compile(r"\(ipykernel\) \| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    captions = page.locator("figcaption")
    verdict = page.locator(PAGE, has_text="mean confidence")
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    captions.or_(failed).first.wait_for()
    assert failed.all_inner_texts() == []
    before = seen(captions, verdict)
    assert len(before["captions"]) == 12
    assert before["change"] == "±0.0 points"
    assert all(re.fullmatch(CAPTION, caption, re.DOTALL) for caption in before["captions"])

    handle = page.locator(".widget-slider", has_text="temperature").locator(".noUi-handle")
    handle.press("ArrowLeft")
    page.wait_for_function(CHANGED, arg=before["verdict"])
    colder = seen(captions, verdict)
    assert colder["change"] == "±0.0 points"  # the best class stays the best
    assert colder["confidence"] > before["confidence"]
    assert names(colder) == names(before) and colder["captions"] != before["captions"]

    prompt = page.locator(".widget-text", has_text="prompt").locator("input").first
    prompt.fill("a {} on a shelf")
    prompt.press("Enter")
    page.wait_for_function(CHANGED, arg=colder["verdict"])
    other = seen(captions, verdict)
    assert other["captions"] != colder["captions"]
    change = float(other["change"].replace("±", "").replace("\N{MINUS SIGN}", "-").split()[0])
    assert change == pytest.approx(other["accuracy"] - before["accuracy"], abs=0.11)
    if SCREENSHOT:
        page.locator(".jp-OutputArea-output", has=captions).first.screenshot(path=SCREENSHOT)

    prompt.fill("no name in it")
    prompt.press("Enter")
    page.get_by_text("The template 'no name in it' needs one {}").wait_for()
    assert seen(captions, verdict) == other
