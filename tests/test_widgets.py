"""What the widgets show, without a browser; and that nobody's notebooks are filled with them."""

import base64
import io
import json
import re
import time

import jupyter_client
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import papermill
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge as ReferenceRidge
from sklearn.preprocessing import StandardScaler

from cliphelpers import runner, widgets
from cliphelpers.classifiers import normalize, text_weights
from cliphelpers.data import classes, index_images, make_splits, prompt_names, targets
from cliphelpers.data import test_rows as rows_asked
from cliphelpers.encoders import load_encoder, raw_pixels
from cliphelpers.features import extract_features

TEMPLATES = ["a photo of a {}.", "my {}", "{}"]
SECONDS = 0.1  # a change shows within this on two idle cores; tests allow for busy ones:
BUSY = 20


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPHELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clip(clip_vit):
    return load_encoder(f"clip:{clip_vit}")


@pytest.fixture(scope="module")
def index(fruits):
    return index_images(fruits)


@pytest.fixture(scope="module")
def X(clip, index):
    return normalize(extract_features(clip, index, joint=True))


@pytest.fixture(scope="module")
def words(index):
    return prompt_names(classes(index))


@pytest.fixture
def counted(clip, monkeypatch):
    """The CLIP, and a list to which every text that it encodes is added."""
    encoded, encode = [], widgets.text_weights

    def note(encoder, names, templates):
        encoded.extend(template.replace("{}", name) for template in templates for name in names)
        return encode(encoder, names, templates)

    monkeypatch.setattr(widgets, "text_weights", note)
    return clip, encoded


def jpeg(colour="red", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def inside(widget):
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def named(box, description):
    return [one for one in inside(box) if getattr(one, "description", "") == description]


def text_of(box):
    """All that a widget's HTML says, without markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", " ".join(pages_of(box))).split())


def pages_of(box):
    return [one.value for one in inside(box) if isinstance(one, widgets.ipywidgets.HTML)]


def grid_of(box):
    """The last HTML with pictures."""
    return [page for page in pages_of(box) if "<figure" in page][-1]


# ------------------------------------------------------------------------------- live or not


def test_nothing_is_live_without_a_kernel():
    assert widgets.live() is False


def test_a_front_end_is_one_where_a_person_can_answer():
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    try:
        code = "from cliphelpers.widgets import live\nassert live() is {}"
        for answers in (True, False, True):
            client.allow_stdin = answers  # as JupyterLab sends it, and as nbclient does
            reply = client.execute_interactive(code.format(answers), allow_stdin=answers)
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A notebook that shows a widget where it is live."""
    book = nbformat.v4.new_notebook()
    code = "from cliphelpers import widgets\nif widgets.live():\n    display(widgets.alpha_widget"
    book.cells = [
        nbformat.v4.new_code_cell("output = 'out'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"{code}([0, 1], {{'test': [0.5, 0.6]}}))\nprint('done')"),
    ]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    path = tmp_path / "notebooks" / "01_widget.ipynb"
    path.parent.mkdir()
    nbformat.write(book, path)
    monkeypatch.setattr(runner, "NOTEBOOKS", path.parent)
    return path


@pytest.mark.parametrize("how", ["runner", "papermill"])
def test_executed_notebooks_hold_no_widgets(notebook, tmp_path, how):
    if how == "runner":
        runner.run(output=tmp_path / "out")
        executed = tmp_path / "out" / "notebooks" / notebook.name
    else:
        executed = tmp_path / "executed.ipynb"
        papermill.execute_notebook(notebook, executed, progress_bar=False)
    text = executed.read_text(encoding="utf-8")
    assert "done" in text and "widget-view" not in text and "widget-state" not in text
    assert "widgets" not in json.loads(text)["metadata"]


# ------------------------------------------------------------------------------- prompts


def test_equal_shares_are_clip_s_own_ensemble(clip, words):
    texts = widgets.Texts(clip)
    embeddings = [texts.embed(template, words) for template in TEMPLATES]
    expected = text_weights(clip, words, TEMPLATES)
    np.testing.assert_allclose(widgets.ensemble(embeddings, [2, 2, 2]), expected, atol=1e-6)


def test_shares_weight_the_mean_and_only_their_ratio_counts():
    first, second = np.float32([[1, 0]]), np.float32([[0, 1]])
    mixed = widgets.ensemble([first, second], [0.75, 0.25])
    np.testing.assert_allclose(mixed, [[3 / 10**0.5, 1 / 10**0.5]], rtol=1e-6)
    np.testing.assert_allclose(widgets.ensemble([first, second], [3, 1]), mixed, rtol=1e-6)
    np.testing.assert_allclose(widgets.ensemble([first, second], [0, 1]), second)
    with pytest.raises(ValueError, match="give at least one template a weight"):
        widgets.ensemble([first, second], [0, 0])


def test_probabilities_are_the_softmax_of_cosines_over_temperature(clip, X, words):
    cosines = X @ text_weights(clip, words, TEMPLATES).T
    for temperature in (1e-3, 1 / clip.logit_scale, 1):
        expected = torch.softmax(torch.from_numpy(cosines).double() / temperature, 1)
        shares = widgets.probabilities(cosines, temperature)
        np.testing.assert_allclose(shares, expected, rtol=2e-3, atol=1e-6)


def test_only_what_is_new_is_encoded(counted, X, index, words):
    clip, encoded = counted
    texts = widgets.Texts(clip)
    texts.add(TEMPLATES[0], words, text_weights(clip, words, TEMPLATES[:1]))
    prompts = widgets.Prompts(texts, X, targets(index), classes(index), words, TEMPLATES[0])
    prompts.answer(["a photo of a {}.", "{} without weight"], [1, 0], 0.01)
    assert encoded == []
    prompts.answer(["a photo of a {}.", "an old {}"], [1, 0.5], 0.01)
    assert sorted(encoded) == sorted(f"an old {word}" for word in words)
    encoded.clear()
    prompts.answer(["an old {}"], [1], 0.02, extra=["shoe"])
    assert encoded == ["an old shoe"]


def test_an_answer_is_that_of_plain_zero_shot(clip, X, index, words):
    y = targets(index)
    prompts = widgets.Prompts(widgets.Texts(clip), X, y, classes(index), words, "my {}")
    answer = prompts.answer(TEMPLATES, [1, 1, 1], 0.01)
    expected = (X @ text_weights(clip, words, TEMPLATES).T).argmax(1) == y
    np.testing.assert_array_equal(answer.right, expected)
    before = (X @ text_weights(clip, words, ["my {}"]).T).argmax(1) == y
    np.testing.assert_array_equal(answer.right_before, before)
    same = prompts.answer(["my {}"], [0.3], 0.5)
    np.testing.assert_array_equal(same.right, same.right_before)


def test_extra_classes_can_be_told_and_are_wrong(clip, X, index, words):
    y, labels = targets(index), classes(index)
    prompts = widgets.Prompts(widgets.Texts(clip), X, y, labels, words, "{}")
    extra = ["shoe", "wooden table", "x-ray of a hand"]
    answer = prompts.answer(["{}"], [1], 0.01, extra)
    assert answer.labels == labels + extra and answer.shares.shape == (len(y), len(labels) + 3)
    told = answer.shares.argmax(1)
    assert not answer.right[told >= len(labels)].any()
    assert answer.right.sum() <= answer.right_before.sum()


def test_a_filter_leaves_pictures_of_the_classes_with_the_words(clip, X, index, words):
    y, labels = targets(index), classes(index)
    prompts = widgets.Prompts(widgets.Texts(clip), X, y, labels, words, "{}")
    answer = prompts.answer(["{}"], [1], 0.01, wanted=["APPLE", "fig"])
    assert {labels[number] for number in y[answer.among]} == {"Apple Red 1", "Fig"}
    assert len(answer.right) == len(answer.among) == 2 * 18
    with pytest.raises(ValueError, match="No class has 'pear' in its name"):
        prompts.answer(["{}"], [1], 0.01, wanted=["apple", "pear"])


@pytest.mark.parametrize(
    ("template", "message"),
    [("no name", "needs one {}"), ("{} " + "very " * 80, "more than 77 tokens")],
)
def test_a_faulty_template_is_named(clip, X, index, words, template, message):
    prompts = widgets.Prompts(widgets.Texts(clip), X, targets(index), classes(index), words, "{}")
    with pytest.raises(ValueError, match=message):
        prompts.answer(["{}", template], [1, 0.1], 0.01)
    assert prompts.answer(["{}", template], [1, 0], 0.01).right.shape == (len(X),)


def test_words_between_commas():
    assert widgets.listed(" a ball, red balloon ,,a ball,") == ["a ball", "red balloon"]
    assert widgets.listed(" ") == []


def test_draws_show_many_classes_and_are_the_same_for_a_seed():
    y = np.array([0] * 50 + [1] * 3 + [2])
    among = np.arange(1, 54)
    first = widgets.drawn(y, among, 6, seed=1)
    assert set(y[first[:3]]) == {0, 1, 2} and len(set(first)) == 6 and 0 not in first
    np.testing.assert_array_equal(first, widgets.drawn(y, among, 6, seed=1))
    assert not np.array_equal(first, widgets.drawn(y, among, 6, seed=2))
    assert len(widgets.drawn(y, among[-2:], 6, seed=1)) == 2


def test_the_change_is_in_points_with_its_paired_interval():
    right, before = np.array([1, 1, 1, 0], bool), np.array([1, 0, 1, 0], bool)
    text = re.sub("<.*?>", "", widgets.verdict(right, before, np.arange(4)))
    assert text.startswith("accuracy 75.0% of 4 pictures, +25.0 points (±0.0 to +")
    assert [widgets.points(value) for value in (0.033, -0.5, 0.0)] == [
        "+3.3 points", "\N{MINUS SIGN}50.0 points", "±0.0 points",
    ]  # fmt: skip


# ------------------------------------------------------------------------------- pictures


def test_an_upload_is_read_like_any_picture():
    picture = widgets.read_upload("my photo.JPG", jpeg())
    assert picture.mode == "RGB" and picture.size == (40, 30)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jpg", b""), ("b.png", b"no picture"), ("../../c", b"x"), ("d.jpg", jpeg()[:300])],
)
def test_an_upload_that_is_no_picture_is_named(name, content):
    with pytest.raises(ValueError, match=f"Cannot read {re.escape(name)}: [^/]+$"):
        widgets.read_upload(name, content)


def test_an_uploaded_picture_has_the_embedding_of_the_same_file(clip, index, X):
    with open(index.path[3], "rb") as file:
        picture = widgets.read_upload("x.jpg", file.read())
    np.testing.assert_allclose(widgets.embed_picture(clip, picture)[0], X[3], atol=1e-5)


def test_a_gallery_shows_small_pictures_and_escapes_captions(index):
    page = widgets.gallery(index.path[:2], ["<b>&\nsure", "other"], [True, False])
    assert "✓ &lt;b&gt;&amp;<br>sure" in page and "✗ other" in page
    content = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert max(Image.open(io.BytesIO(content)).size) == widgets.SIDE
    assert "✓" not in widgets.gallery(index.path[:1], [""], [None])
    assert "no pictures" in widgets.gallery([], [], [])


def test_before_is_left_of_the_line_and_after_right_of_it():
    before, after = np.zeros((20, 40, 3), np.uint8), np.full((20, 40, 3), 255, np.uint8)
    shown = widgets.before_after(before, after, 0.25, side=80)
    assert shown.shape == (40, 80, 3)
    assert (shown[:, :19] == 0).all() and (shown[:, 21:] == 255).all()
    for share, value in [(0, 255), (1, 0)]:
        assert (widgets.before_after(before, after, share, side=80)[:, 5:-5] == value).all()
    with pytest.raises(ValueError, match="differ in size"):
        widgets.before_after(before, after[1:], 0.5)


def test_a_zoom_shows_the_pixels_of_its_part_unsmoothed():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    corner = widgets.before_after(picture, picture, 0, zoom=4, centre=(1, 0), side=64)
    np.testing.assert_array_equal(corner[4::8, 4::8], picture[:8, 24:])
    read = np.array(Image.open(io.BytesIO(widgets.png(corner))))
    np.testing.assert_array_equal(read, corner)


def test_a_chart_has_a_line_for_each_curve_and_says_its_numbers():
    curves = {"validation": np.array([0.2, 0.9, 0.5]), "test <b>": np.array([0.1, 0.7, 0.5])}
    svg = widgets.line_chart([-2, -1, 0], curves, 1, {"0.01": -2, "1": 0})
    assert svg.count("<polyline") == 2 and "validation 90.0%" in svg
    assert "test &lt;b&gt; 70.0%" in svg
    heights = [float(y) for y in re.findall(r'<text x="\d+" y="([\d.]+)" fill="#', svg)]
    assert abs(heights[0] - heights[1]) > 12  # equal ends, labels apart


# ------------------------------------------------------------------------------- probes


@pytest.fixture(scope="module")
def pixels(index):
    return extract_features(raw_pixels(5), index)


def test_a_ridge_path_equals_one_fit_a_strength(index, pixels):
    y, folds = targets(index), make_splits(index, ["by_clip"])["by_clip"]
    strengths = [1e-2, 1.0]
    path = widgets.ridge_path(pixels, y, folds, strengths)
    for place, strength in enumerate(strengths):
        told, learnt, chosen = [], [], []
        for fold in folds:

            def fitted(rows, strength=strength):
                scaler = StandardScaler().fit(pixels[rows])
                model = ReferenceRidge(strength * len(rows))
                model.fit(scaler.transform(pixels[rows]), np.eye(4)[y[rows]])
                return lambda of: model.predict(scaler.transform(pixels[of])).argmax(1)

            last = fitted(fold.fit)
            told += [last(fold.test)]
            learnt += [last(fold.fit) == y[fold.fit]]
            chosen += [fitted(fold.train)(fold.val) == y[fold.val]]
        np.testing.assert_array_equal(path["predicted"][place], np.concatenate(told))
        assert path["training"][place] == pytest.approx(np.concatenate(learnt).mean())
        assert path["validation"][place] == pytest.approx(np.concatenate(chosen).mean())


def test_cells_of_the_matrix_hold_the_confused_pictures():
    y = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    predicted = np.array([0, 1, 3, 1, 1, 0, 1, 2, 3])
    shown = widgets.hardest(y, predicted, most=2)
    np.testing.assert_array_equal(shown, [0, 2])
    counts = widgets.cell_counts(y, predicted, shown)
    np.testing.assert_array_equal(counts, [[1, 0, 2], [1, 1, 1]])
    np.testing.assert_array_equal(widgets.cell(y, predicted, shown, 0, 2), [1, 2])
    np.testing.assert_array_equal(widgets.cell(y, predicted, shown, 1, 0), [5])
    np.testing.assert_array_equal(widgets.hardest(y, predicted, most=9), [0, 1, 2, 3])


# ------------------------------------------------------------------------------- wiring


@pytest.fixture
def prompt_box(clip, X, index, words):
    weights = {(clip.name, text): text_weights(clip, words, [text]) for text in TEMPLATES}
    rows = np.arange(len(index))
    arguments = [clip], {clip.name: X}, weights, index, words, TEMPLATES, rows
    return widgets.prompt_widget(*arguments)


def errors_of(box):
    return re.findall(r"error-color1.*?>(.*?)</span>", " ".join(pages_of(box)))


def test_prompts_react(prompt_box):
    assert "pictures, ±0.0 points" in text_of(prompt_box) and not errors_of(prompt_box)
    before = text_of(prompt_box)
    (temperature,) = named(prompt_box, "temperature")
    temperature.value = 0.9
    colder = text_of(prompt_box)
    assert colder != before and "pictures, ±0.0 points" in colder
    named(prompt_box, "weight")[1].value = 1
    named(prompt_box, "weight")[0].value = 0
    assert text_of(prompt_box) != colder
    named(prompt_box, "extra classes")[0].value = "shoe"
    named(prompt_box, "only classes")[0].value = "fig"
    assert "of 18 pictures" in text_of(prompt_box)
    (other,) = named(prompt_box, "Other pictures")
    pictures = grid_of(prompt_box)
    other.click()
    assert grid_of(prompt_box) != pictures


def test_wrong_input_is_one_red_line_and_the_last_answer_stays(prompt_box):
    good = text_of(prompt_box)
    (field, *_), (share, *_) = named(prompt_box, "prompt"), named(prompt_box, "weight")
    field.value = "no <name>"
    assert errors_of(prompt_box) == [
        "The template &#x27;no &lt;name&gt;&#x27; needs one {} where the name goes"
    ]
    field.value = "{} " + "very " * 90
    assert "more than 77 tokens" in errors_of(prompt_box)[0]
    field.value = TEMPLATES[0]
    assert not errors_of(prompt_box) and text_of(prompt_box) == good
    share.value = 0
    assert "give at least one template a weight" in errors_of(prompt_box)[0]
    share.value = 1
    named(prompt_box, "only classes")[0].value = "submarine"
    assert errors_of(prompt_box) == ["No class has &#x27;submarine&#x27; in its name"]


def send(upload, name, content):
    """What the browser does on an upload."""
    file = {"name": name, "type": "", "size": len(content), "last_modified": 0}
    upload.set_state({"value": [file | {"content": memoryview(content)}]})


def test_a_picture_of_one_s_own_is_classified(prompt_box, index):
    (upload,) = named(prompt_box, "Your own picture")
    with open(index.path[0], "rb") as file:
        send(upload, "my <apple>.jpg", file.read())
    assert "my &lt;apple&gt;.jpg" in text_of(prompt_box) and not errors_of(prompt_box)
    named(prompt_box, "extra classes")[0].value = "my own class"
    assert "my own class" in text_of(prompt_box)
    send(upload, "letter.txt", b"Dear")
    assert errors_of(prompt_box) == ["Cannot read letter.txt: the file is no picture"]


def test_a_slider_s_change_shows_at_once(prompt_box):
    (temperature,), (_, share, _) = named(prompt_box, "temperature"), named(prompt_box, "weight")
    took = []
    for value in np.linspace(0.1, 0.9, 9):
        start = time.perf_counter()
        temperature.value = share.value = value
        took.append((time.perf_counter() - start) / 2)
    assert np.median(took) < BUSY * SECONDS


def test_shots_show_what_taught_and_what_was_asked(index):
    folds, shots, seeds = make_splits(index, ["official", "by_clip"]), [1, 4], [0, 1]
    rng, calls = np.random.default_rng(0), []

    def right(encoder, split, k):
        calls.append((encoder, split, k))
        size = len(rows_asked(folds[split]))
        return {name: rng.random((2, size)) < k / 5 for name in ("new <head>", "Tip-Adapter")}

    zero = {("A", "official"): 0.25, ("A", "by_clip"): 0.5}
    box = widgets.shots_widget(right, zero, index, folds, shots, seeds)
    (k,), (seed,), (method,) = (named(box, name) for name in ("k", "seed", "method"))
    assert "1 to learn from" in text_of(box) and "6 test pictures right" in text_of(box)
    k.value = 4
    assert "4 to learn from" in text_of(box) and "k = 4, seed 0" in text_of(box)
    before = text_of(box)
    seed.value, method.value = 1, "Tip-Adapter"
    assert text_of(box) != before and "Tip-Adapter, k = 4, seed 1" in text_of(box)
    named(box, "split")[0].value = "by_clip"
    assert "(first fold)" in text_of(box) and not errors_of(box)
    k.value = 1
    k.value = 4
    assert len(calls) == len(set(calls))  # each looked up once


def test_a_click_on_a_confusion_shows_its_pictures(index, pixels):
    folds, y = make_splits(index, ["official", "by_clip"]), targets(index)
    box = widgets.probe_widget({"pixels": pixels, "noise": pixels[::-1].copy()}, index, folds)
    (strength,), (encoder,) = named(box, "strength"), named(box, "encoder")
    path = widgets.ridge_path(pixels, y, folds["by_clip"])
    assert strength.value == widgets.STRENGTHS[path["validation"].argmax()]
    encoder.value = "noise"
    strength.value = widgets.STRENGTHS[-1]
    path = widgets.ridge_path(pixels[::-1].copy(), y, folds["by_clip"])
    accuracy = (path["predicted"][-1] == y[rows_asked(folds["by_clip"])]).mean()
    assert f"accuracy {accuracy:.1%}" in text_of(box)
    buttons = [one for one in inside(box) if isinstance(one, widgets.ipywidgets.Button)]
    assert sum(int(one.description or 0) for one in buttons) == len(index)
    filled = [one for one in buttons if one.description and "others" not in one.tooltip]
    for button in filled[:3]:
        button.click()
        assert button.tooltip in text_of(box)
        assert grid_of(box).count("<img") == min(int(button.description), widgets.SHOWN)


def test_alpha_compares_with_both_ends():
    box = widgets.alpha_widget([0, 0.5, 1], {"test": np.array([0.5, 0.7, 0.6])})
    assert "accuracy 70.0%" in text_of(box)
    assert "+20.0 points against zero-shot" in text_of(box)
    assert "+10.0 points against fine-tuned" in text_of(box)
    named(box, "alpha")[0].value = 0
    assert "±0.0 points against zero-shot" in text_of(box)


def test_the_line_and_the_zoom_change_the_picture():
    rng = np.random.default_rng(0)
    one = {kind: rng.integers(0, 256, (50, 50, 3), np.uint8) for kind in ("bicubic", "srgan")}
    box = widgets.before_after_widget({"apple": one}, "bicubic", "srgan")
    (canvas,) = [part for part in inside(box) if isinstance(part, widgets.ipywidgets.Image)]
    seen = [canvas.value]
    for name, value in [("line", 0.1), ("zoom", 4), ("left to right", 0), ("top to bottom", 1)]:
        named(box, name)[0].value = value
        seen.append(canvas.value)
    named(box, "right")[0].value = "bicubic"
    assert len(set(seen)) == 5 and canvas.value not in seen


@pytest.mark.filterwarnings("ignore:indexing past lexsort depth")  # of pandas, in notebook 2
@pytest.mark.parametrize("name", ["02_k_shot", "03_linear_probe_clip", "04_linear_probe_imagenet"])
def test_the_notebooks_cells_make_their_widgets(name, fruits, clip_vit, tmp_path, monkeypatch):
    """Their code, as in a live front end; notebook 1 is run in a browser."""
    shown, book = [], nbformat.read(runner.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    small = {"data": str(fruits), "encoders": [f"clip:{clip_vit}"], "output": str(tmp_path)}
    small |= {"shots": [1, 2], "strengths": [0.1, 0.01]}
    if name.startswith("02"):
        small |= {"seeds": [0, 1], "alphas": [1.0], "betas": [1.0]}
    space = {"display": shown.append}
    monkeypatch.setattr(widgets, "live", lambda: True)
    monkeypatch.chdir(runner.NOTEBOOKS)
    parameters, *cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    exec(parameters, space)
    space |= small
    for source in cells:
        exec(source, space)
    plt.close("all")
    (box,) = shown
    assert "accuracy" in text_of(box) and not errors_of(box)
    for slider in named(box, "k") + named(box, "strength"):
        slider.index = 0
    assert "accuracy" in text_of(box) and not errors_of(box)
