"""What the widgets show, without a browser: see tests/test_browser.py for one."""

import base64
import io
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge as ReferenceRidge
from sklearn.preprocessing import StandardScaler

import cliphelpers as ch
from cliphelpers.classifiers import Linear, NearestMean, text_weights
from cliphelpers.encoders.encoder import raw_pixels
from cliphelpers.encoders.load import load_clips
from cliphelpers.evaluation import interval
from cliphelpers.features import extract_features
from cliphelpers.index import classes, index_images, prompt_names, targets
from cliphelpers.looks import group_of
from cliphelpers.splits import few_shot, make_splits
from cliphelpers.study import Study
from cliphelpers.widgets import parts, probes, prompts

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TEMPLATES = ["a photo of a {}.", "my {}", "{}"]
SECONDS = 0.2  # a change shows within this on two idle cores; tests allow for busy ones:
BUSY = 20
MINUS = "\N{MINUS SIGN}"


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """The pages that were shown, the last one last. No figure is left open."""
    pages = []
    monkeypatch.setattr(parts, "display", lambda page: pages.append(page.data))
    yield pages
    assert plt.get_fignums() == []


@pytest.fixture(scope="module")
def clip(clip_vit):
    return load_clips([f"clip:{clip_vit}"], joint=True)[0]


@pytest.fixture(scope="module")
def index(fruits):
    return index_images(fruits)


@pytest.fixture(scope="module")
def X(clip, index):
    return extract_features(clip, index)


@pytest.fixture(scope="module")
def words(index):
    return prompt_names(classes(index))


@pytest.fixture
def encoded(monkeypatch):
    """Every text that is encoded."""
    texts, encode = [], prompts.text_weights

    def note(encoder, names, templates):
        texts.extend(template.replace("{}", name) for template in templates for name in names)
        return encode(encoder, names, templates)

    monkeypatch.setattr(prompts, "text_weights", note)
    return texts


@pytest.fixture
def prompt_box(clip, X, index, words, encoded, shown):
    weights = {(clip.name, text): text_weights(clip, words, [text]) for text in TEMPLATES}
    rows = np.arange(len(index))
    return ch.prompt_widget([clip], {clip.name: X}, weights, index, words, TEMPLATES, rows)


def jpeg(colour="red", size=(40, 30), **more):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", **more)
    return buffer.getvalue()


def named(box, description):
    """The controls with this label."""
    controls = box.children[0].children
    return [one for one in controls if one.description == description]


def change(box, description, value, place=0):
    named(box, description)[place].value = value


def text_of(page):
    """All that a page says, without markup."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def number(page, before):
    return float(re.search(rf"{re.escape(before)} ([\d.]+)", text_of(page))[1])


def errors_of(page):
    return re.findall(r"error-color1.*?>(.*?)</p>", page)


def pictures_of(page):
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


# ------------------------------------------------------------------------------- prompts


def reference(clip, X, index, words, shares, extra=(), factor=1.0):
    """Probabilities (N, C) by torch from each prompt's own embedding."""
    mean = 0
    for template, share in shares.items():
        for_each = [text_weights(clip, [word], [template])[0] for word in [*words, *extra]]
        mean = mean + share * torch.tensor(np.array(for_each)).double()
    text = torch.nn.functional.normalize(mean, dim=1)
    image = torch.nn.functional.normalize(torch.from_numpy(X).double(), dim=1)
    return torch.softmax(clip.logit_scale / factor * image @ text.T, 1).numpy()


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_weights_temperature_and_extra_classes(prompt_box, clip, X, index, words, shown, factor):
    y, extra = targets(index), ["shoe", "x-ray of a hand"]
    for place, share in enumerate([0.2, 0.0, 0.9]):
        change(prompt_box, "weight", share, place)
    change(prompt_box, "temperature ×", factor)
    change(prompt_box, "extra classes", " shoe,, x-ray of a hand, shoe ,")
    shares = reference(clip, X, index, words, {"a photo of a {}.": 0.2, "{}": 0.9}, extra, factor)
    before = reference(clip, X, index, words, {TEMPLATES[0]: 1}).argmax(1) == y
    right = shares.argmax(1) == y
    page = shown[-1]
    assert number(page, "accuracy") == pytest.approx(100 * right.mean(), abs=0.051)
    assert number(page, "mean confidence") == pytest.approx(100 * shares.max(1).mean(), abs=0.06)
    groups = np.unique(group_of(index), return_inverse=True)[1]
    *expected, _ = interval(right.astype(int) - before, y, groups)
    said = re.search(r"pictures, (\S+) points \((\S+) to (\S+)\)", text_of(page)).groups()
    said = [float(one.replace(MINUS, "-").replace("±", "")) for one in said]
    np.testing.assert_allclose(said, 100 * np.array(expected), atol=0.051)
    assert not errors_of(page)


def test_equal_weights_are_clip_s_own_ensemble(prompt_box, clip, X, index, words, shown):
    for place in range(len(TEMPLATES)):
        change(prompt_box, "weight", 0.5, place)
    scores = X @ text_weights(clip, words, TEMPLATES).T
    accuracy = (scores.argmax(1) == targets(index)).mean()
    assert number(shown[-1], "accuracy") == pytest.approx(100 * accuracy, abs=0.051)


def test_the_start_is_the_first_template_alone_at_clip_s_temperature(
    prompt_box, clip, X, index, words, shown, encoded
):
    shares = reference(clip, X, index, words, {TEMPLATES[0]: 1})
    confidence = number(shown[0], "mean confidence")
    assert confidence == pytest.approx(100 * shares.max(1).mean(), abs=0.06)
    assert f"{len(index)} pictures, ±0.0 points (" in text_of(shown[0])
    assert f"temperature {1 / clip.logit_scale:.4f}" in text_of(shown[0])
    assert encoded == []


def test_only_what_is_new_is_encoded(prompt_box, words, encoded):
    change(prompt_box, "prompt", "an old {}", 1)  # without a weight
    assert encoded == []
    change(prompt_box, "weight", 0.5, 1)
    assert sorted(encoded) == sorted(f"an old {word}" for word in words)
    encoded.clear()
    change(prompt_box, "weight", 0, 0)
    change(prompt_box, "extra classes", "shoe")
    change(prompt_box, "temperature ×", 3)
    change(prompt_box, "other pictures", 3)
    assert encoded == ["an old shoe"]


def test_captions_say_the_class_the_truth_and_the_confidence(
    prompt_box, clip, X, index, words, shown
):
    labels, shares = classes(index), reference(clip, X, index, words, {TEMPLATES[0]: 1})
    known = {
        (labels[row.argmax()], true, f"{row.max():.0%}")
        for row, true in zip(shares, index.label, strict=True)
    }
    captions = re.findall(r">(✓|✗) ([^<]+)<br>\(([^<]+)\)<br>(\d+%)<", shown[-1])
    assert len(captions) == 12 and {true for _, _, true, _ in captions} == set(labels)
    for mark, told, true, sure in captions:
        assert (mark == "✓") == (told == true)
        assert (told, true, sure) in known


def test_another_draw_shows_other_pictures_and_comes_back(prompt_box, shown):
    first = shown[-1]
    change(prompt_box, "other pictures", 1)
    assert shown[-1] != first
    change(prompt_box, "other pictures", 0)
    assert shown[-1] == first


def test_a_filter_leaves_pictures_of_the_classes_with_the_words(prompt_box, shown):
    change(prompt_box, "only classes", "APPLE, fig")
    assert "of 36 pictures" in text_of(shown[-1])
    assert set(re.findall(r"<br>\((.*?)\)<br>", shown[-1])) == {"Apple Red 1", "Fig"}
    change(prompt_box, "only classes", " ")
    assert "of 72 pictures" in text_of(shown[-1])


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("prompt", "no <name>", "The template &#x27;no &lt;name&gt;&#x27; needs one {}"),
        ("prompt", "{} " + "very " * 90, "more than 77 tokens"),
        ("weight", 0, "All weights are 0: give at least one template a weight"),
        ("only classes", "fig, submarine", "is of a class with &#x27;submarine&#x27; in its name"),
    ],
)
def test_wrong_input_is_one_red_line_and_the_last_answer_stays(
    prompt_box, shown, label, value, message
):
    good, before = shown[-1], named(prompt_box, label)[0].value
    change(prompt_box, label, value)
    (error,) = errors_of(shown[-1])
    assert message in error and shown[-1].endswith(good) and shown[-1] != good
    change(prompt_box, label, before)
    assert shown[-1] == good


def send(box, name, content):
    """What the browser does on an upload."""
    file = {"name": name, "type": "", "size": len(content), "last_modified": 0}
    (upload,) = named(box, "Own picture")
    upload.set_state({"value": [file | {"content": memoryview(content)}]})


def test_a_picture_of_one_s_own_is_classified(prompt_box, clip, X, index, words, shown):
    with open(index.path[3], "rb") as file:
        send(prompt_box, "my <apple>.jpg", file.read())
    assert "my &lt;apple&gt;.jpg" in shown[-1] and not errors_of(shown[-1])
    change(prompt_box, "extra classes", "my <own> class")
    shares = reference(clip, X, index, words, {TEMPLATES[0]: 1}, ["my <own> class"])[3]
    own, _, _ = text_of(shown[-1]).partition("accuracy")
    said = [float(share) for share in re.findall(r"([\d.]+)%", own)]
    np.testing.assert_allclose(said, 100 * np.sort(shares)[::-1], atol=0.06)  # of five classes
    assert "my &lt;own&gt; class" in own


def test_an_upload_is_seen_upright(prompt_box, shown):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    send(prompt_box, "phone.JPG", jpeg(size=(40, 20), exif=sideways))
    assert pictures_of(shown[-1])[0].size == (20, 40)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "the file is empty"),
        ("b.png", b"no picture", "the file is no picture"),
        ("../../c", b"x", "the file is no picture"),
        ("d.jpg", jpeg()[:300], ""),
    ],
)
def test_an_upload_that_is_no_picture_is_one_red_line(prompt_box, shown, name, content, reason):
    good = shown[-1]
    send(prompt_box, name, content)
    (error,) = errors_of(shown[-1])
    assert re.fullmatch(rf"Cannot read {re.escape(name)}: [^/]+", error) and reason in error
    assert shown[-1].endswith(good) and shown[-1] != good
    change(prompt_box, "temperature ×", 2)  # all else goes on
    assert not shown[-1].endswith(good) and errors_of(shown[-1]) == [error]


def test_a_slider_s_change_shows_at_once(prompt_box, shown):
    took = []
    for value in np.linspace(0.1, 0.9, 9):
        start = time.perf_counter()
        change(prompt_box, "weight", value, 1)
        took.append(time.perf_counter() - start)
    assert np.median(took) < BUSY * SECONDS


@pytest.mark.parametrize("fault", [None, ValueError("no such thing"), KeyError("a fault")])
def test_a_line_says_when_something_computes(shown, fault):
    seen = []

    def show(value):
        seen.append(busy.value if seen else "")
        if value and fault:
            raise fault
        return f"page {value}"

    busy = ipywidgets.HTML()
    box = parts.interactive(show, value=parts.control(ipywidgets.IntSlider, "value"))
    _, busy, _ = box.children
    seen.append("first")
    with pytest.raises(KeyError) if isinstance(fault, KeyError) else nullcontext():
        change(box, "value", 1)
    assert seen[-1] == "computing …" and busy.value == ""
    expected = "page 1" if fault is None else "page 0"
    assert shown[-1].endswith(expected) and bool(errors_of(shown[-1])) == isinstance(
        fault, ValueError
    )


# ------------------------------------------------------------------------------- pictures


def test_a_gallery_shows_small_pictures_and_how_many_there_are(index, draw):
    page = parts.gallery("title", index.path, ["<b>one</b>"] * len(index), side=50)
    assert page.count("<figure") == page.count("<b>one</b>") == 12 and "the first 12" in page
    assert {max(picture.size) for picture in pictures_of(page)} == {50}
    flat = draw("flat.png", (400, 2))
    (picture,) = pictures_of(parts.gallery("title", [str(flat)]))
    assert picture.size == (48, 1) and "first" not in parts.gallery("title", [str(flat)])
    assert "no pictures" in parts.gallery("title", [])


def before_after(shown, before, after, **values):
    labels = {"left": "left to right", "top": "top to bottom", "line": "line", "zoom": "zoom"}
    box = ch.before_after_widget([("one", {"a": before, "b": after})], "a", "b")
    for key, value in values.items():
        change(box, labels[key], value)
    return np.array(pictures_of(shown[-1])[-1])


def test_before_is_left_of_the_line_and_after_right_of_it(shown):
    before, after = np.zeros((20, 40, 3), np.uint8), np.full((20, 40, 3), 255, np.uint8)
    seen = before_after(shown, before, after, line=0.25)
    assert seen.shape == (240, 480, 3)
    assert (seen[:, :118] == 0).all() and (seen[:, 122:] == 255).all()
    assert not (seen[:, 119:121] == 0).all()  # the line
    for share, value in [(0, 255), (1, 0)]:
        assert (before_after(shown, before, after, line=share)[:, 5:-5] == value).all()
    ch.before_after_widget([("one", {"a": before, "b": after[1:]})], "a", "b")
    assert "differ in size" in errors_of(shown[-1])[0]


def test_a_zoom_shows_the_pixels_of_its_part_unsmoothed(shown):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    corner = before_after(shown, picture, picture, line=0, zoom=4, left=1, top=0)
    np.testing.assert_array_equal(corner[30::60, 30::60], picture[:8, 24:])
    np.testing.assert_array_equal(corner[1:59, 61:119], np.full((58, 58, 3), picture[0, 25]))


def test_pictures_of_one_name_are_all_there(shown):
    rng = np.random.default_rng(0)
    pairs = [
        (name, {kind: rng.integers(0, 256, (9, 9, 3), np.uint8) for kind in ("bicubic", "srgan")})
        for name in ("Apple", "Apple", "Kiwi")
    ]
    box = ch.before_after_widget(pairs, "bicubic", "srgan")
    (picture,) = named(box, "picture")
    assert len(picture.options) == 3 and all("Apple" in name for name in picture.options[:2])
    seen = []
    for option, (_, versions) in zip(picture.options, pairs, strict=True):
        change(box, "picture", option)
        change(box, "line", 1)
        last = np.array(pictures_of(shown[-1])[-1])
        np.testing.assert_array_equal(last[26::53, 26::53][:, :8], versions["bicubic"][:, :8])
        seen.append(shown[-1])
    change(box, "left", "srgan")
    assert len({*seen, shown[-1]}) == 4


# ------------------------------------------------------------------------------- probes


@pytest.fixture(scope="module")
def pixels(index):
    return extract_features(raw_pixels(5), index)


def told_by(X, y, learnt, asked, strength):
    """The classes that scikit-learn's ridge gives."""
    scaler = StandardScaler().fit(X[learnt])
    model = ReferenceRidge(strength * len(learnt))
    model.fit(scaler.transform(X[learnt]), np.eye(4)[y[learnt]])
    return model.predict(scaler.transform(X[asked])).argmax(1)


@pytest.fixture
def lines(monkeypatch):
    """The tables of the lines that were drawn."""
    tables, draw = [], parts.draw_lines

    def note(axis, table, *more):
        tables.append(table.set_index(["variable", "strength"]).value.sort_index())
        draw(axis, table, *more)

    monkeypatch.setattr(parts, "draw_lines", note)
    return tables


def test_the_strength_s_path_is_that_of_one_fit_each(index, pixels, shown, lines):
    splits, y = make_splits(index, ["official", "by_group"]), targets(index)
    other = pixels[::-1].copy()
    box = ch.probe_widget({"pixels": pixels, "noise": other}, index, splits)
    assert named(box, "strength")[0].label == "best"
    validation = lines[-1]["validation"]
    assert f"strength {validation[::-1].idxmax():.1e}: accuracy" in text_of(shown[-1])
    assert f"validation would choose {validation[::-1].idxmax():.1e}" in text_of(shown[-1])
    change(box, "encoder", "noise")
    strengths = [value for _, value in named(box, "strength")[0].options[1:]]
    for strength in (strengths[0], strengths[13], strengths[24]):
        change(box, "strength", strength)
        rights = {"training": [], "validation": [], "test": []}
        for fold in splits["by_group"]:
            for name, learnt, asked in [
                ("training", fold.fit, fold.fit), ("validation", fold.train, fold.val),
                ("test", fold.fit, fold.test),
            ]:  # fmt: skip
                rights[name].append(told_by(other, y, learnt, asked, strength) == y[asked])
        for name, right in rights.items():
            expected = np.concatenate(right).mean()
            assert lines[-1][name, strength] == pytest.approx(expected)
        accuracy = f"strength {strength:.1e}: accuracy {lines[-1]['test', strength]:.1%}"
        assert f"{accuracy} of {len(index)} test pictures" in text_of(shown[-1])


def test_without_validation_pictures_training_chooses(index, pixels, shown, lines):
    (fold,) = make_splits(index, ["official"])["official"]
    none = np.zeros(0, int)
    fold = replace(fold, train=fold.fit, val=none)
    ch.probe_widget({"pixels": pixels}, index, {"official": [fold]})
    assert "validation" not in lines[-1]
    assert f"training would choose {lines[-1]['training'][::-1].idxmax():.1e}" in text_of(shown[-1])


def test_all_strengths_of_all_encoders_are_computed_before_a_slider_moves(
    index, pixels, shown, monkeypatch
):
    splits, fitted = make_splits(index, ["official"]), []
    fit = probes.Ridge.fit
    monkeypatch.setattr(probes.Ridge, "fit", lambda *given: fitted.append(1) or fit(*given))
    box = ch.probe_widget({"one": pixels + 1, "other": pixels**2}, index, splits)
    assert len(fitted) == 4  # for each once on all to learn from, once without validation
    for encoder in ("other", "one"):
        change(box, "encoder", encoder)
        change(box, "strength", 1.0)
    assert len(fitted) == 4 and not errors_of(shown[-1])


def test_the_pictures_behind_each_confusion_are_shown(index, pixels, shown):
    splits, y, labels = make_splits(index, ["by_group"]), targets(index), classes(index)
    noise = np.random.default_rng(0).permutation(pixels)
    box = ch.probe_widget({"noise": noise}, index, splits)
    (strength,) = named(box, "strength")
    change(box, "strength", strength.options[10][1])
    told = np.concatenate(
        [told_by(noise, y, fold.fit, fold.test, strength.value) for fold in splits["by_group"]]
    )
    rows = np.concatenate([fold.test for fold in splits["by_group"]])
    for label in labels[:2]:
        change(box, "pictures of", label)
        of_class = rows[y[rows] == labels.index(label)]
        for name in labels:
            paths = index.path.iloc[
                of_class[told[y[rows] == labels.index(label)] == labels.index(name)]
            ]
            grid = parts.gallery(f"taken for {name}: {len(paths)}", paths)
            assert (grid in shown[-1]) == (len(paths) > 0)
        assert text_of(shown[-1]).endswith(text_of(grid)) or label != labels[-1]
    counts = np.bincount(4 * y[rows] + told, minlength=16).reshape(4, 4)
    np.fill_diagonal(counts, 0)
    true, taken = np.unravel_index(counts.argmax(), counts.shape)
    text = text_of(shown[-1])
    assert re.search(
        rf"{labels[true]} {labels[taken]} {counts.max() / 18:.1%} {counts.max()}", text
    )


# ------------------------------------------------------------------------------- shots and alpha


@pytest.fixture
def study(index, clip, words):
    """Zero-shot, and two methods with 1 and 3 shots and two seeds."""
    study = Study("02", index, make_splits(index, ["official", "by_group"]))
    study.ask("zero-shot", Linear((text_weights(clip, words, TEMPLATES).T, 0)), clip)
    study.ask("nearest <mean>", NearestMean(), clip, shots=[1, 3], seeds=[0, 5])
    study.ask("ten times", NearestMean(), clip, shots=[1, 3], seeds=[0, 5])
    study.ask("all pictures", NearestMean(), clip)
    study.run()
    return study


def test_shots_show_what_taught_and_what_was_asked(study, index, clip, shown):
    box = ch.shots_widget(study)
    assert named(box, "method")[0].options == ("nearest <mean>", "ten times")
    change(box, "k", 3)
    change(box, "seed", 5)
    change(box, "split", "by_group")
    change(box, "pictures of", "Fig")
    where = {"split": "by_group", "encoder": clip.name}
    table = (
        study.table(metric="top-1", every_seed=True, **where)
        .set_index(["method", "shots", "seed"])
        .value
    )
    values = table.sort_index()["nearest <mean>", 3]
    zero = study.answers(method="zero-shot", **where).right.mean()
    text = text_of(shown[-1])
    assert f"nearest &lt;mean&gt;, k = 3, seed 5: accuracy {values[5]:.1%}" in text
    gain = f"{100 * (values[5] - zero):+.1f}".replace("-", MINUS)
    assert f"{gain} points against zero-shot" in text
    assert f"over the seeds {values.min():.1%} to {values.max():.1%}" in text
    fold, y = study.splits["by_group"][0], targets(index)
    mine = fold.fit[index.label.iloc[fold.fit] == "Fig"]
    learnt = fold.fit[few_shot(index.iloc[fold.fit], 3, 5)]
    learnt = learnt[np.isin(learnt, mine)]
    assert parts.gallery("Fig (first fold): 3 to learn from", index.path.iloc[learnt]) in shown[-1]
    answers = study.answers(method="nearest <mean>", shots=3, seed=5, **where)
    first = dict(zip(answers.rows[: len(fold.test)], answers.predicted, strict=False))
    asked = fold.test[y[fold.test] == 2]
    told = [classes(index)[first[row]] for row in asked]
    title = f"Fig (first fold): {told.count('Fig')} of {len(asked)} test pictures right"
    marks = [parts.marked(name == "Fig", name) for name in told]
    assert parts.gallery(title, index.path.iloc[asked], marks) in shown[-1]


def test_shots_draw_all_methods_and_how_the_seeds_differ(study, clip, shown, monkeypatch):
    from cliphelpers.widgets import shots

    drawn = []
    monkeypatch.setattr(shots, "draw_dots", lambda axis, table, y: drawn.append((axis, table)))
    box = ch.shots_widget(study)
    change(box, "seed", 5)
    axis, table = drawn[-1]
    assert list(table.method) == ["nearest <mean>", "ten times", "zero-shot"]
    assert set(table.seed.dropna()) == {5} and set(table.split) == {"official"}
    (ticks,) = axis.lines
    at = {"split": "official", "shots": 1, "seed": 0}
    other = study.table(metric="top-1", every_seed=True, **at)
    np.testing.assert_allclose(ticks.get_xdata(), other.value)


def test_alpha_compares_with_both_ends(shown):
    rows = [
        {"encoder": encoder, "split": split, "alpha": alpha, "value": value, "low": 0, "high": 1}
        for encoder, shift in [("A", 0), ("<B>", 0.1)]
        for split, values in [("official", (0.5, 0.7, 0.6)), ("by_group", (0.2, 0.1, 0.3))]
        for alpha, value in zip((0, 0.5, 1), np.add(values, shift), strict=True)
    ]
    box = ch.alpha_widget(pd.DataFrame(rows))
    assert (
        "official: accuracy 70.0% , +20.0 points against zero-shot, +10.0 points against fine-tuned"
    ) in text_of(shown[-1])
    assert "by_group: accuracy 10.0%" in text_of(shown[-1])
    change(box, "alpha", 0)
    change(box, "encoder", "<B>")
    assert "official: accuracy 60.0% , ±0.0 points against zero-shot" in text_of(shown[-1])
    assert f"{MINUS}10.0 points against fine-tuned" in text_of(shown[-1])
    part = pd.DataFrame(rows).query("alpha < 1")
    ch.alpha_widget(part)
    assert "points against alpha 0.5" in text_of(shown[-1])


# ------------------------------------------------------------------------------- in the notebooks

SMALL = {
    "02_k_shot": {"shots": [1, 2], "seeds": [0, 1], "alphas": [1.0], "betas": [1.0]},
    "03_linear_probe_clip": {"shots": [1, 2]},
    "04_linear_probe_imagenet": {"shots": [1, 2]},
    "05_fine_tune_clip": {"epochs": 1, "wise_alphas": [0.0, 0.5, 1.0], "tested": 1},
    "07_upsampling": {"shots": [1], "seeds": [0], "interpolations": ["bicubic", "lanczos"]},
}


@pytest.fixture
def run_cells(fruits, clip_vit, tmp_path, monkeypatch):
    """Run a notebook's code as in a live front end, and give what it displays."""

    def run(name, **small):
        boxes, book = [], nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        small |= {"data": str(fruits), "encoders": [f"clip:{clip_vit}"], "output": str(tmp_path)}
        space = {"display": boxes.append}
        monkeypatch.setattr("cliphelpers.live", lambda: True, raising=False)
        monkeypatch.chdir(NOTEBOOKS)
        parameters, *cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
        exec(parameters, space)
        space |= {"strengths": [0.1, 0.01]} | small
        for source in cells:
            exec(source, space)
        plt.close("all")
        return boxes

    return run


@pytest.mark.parametrize("name", SMALL)
def test_the_notebooks_cells_make_their_widgets(name, run_cells, shown):
    """Notebook 1 is run in a browser."""
    boxes = run_cells(name, **SMALL[name])
    box = next(one for one in boxes if isinstance(one, ipywidgets.Widget))
    for control in box.children[0].children:
        if options := getattr(control, "options", None):
            control.index = len(options) - 1
            assert "<img" in shown[-1] and not errors_of(shown[-1])
    assert len(shown) > 1


def test_from_one_picture_a_class_ml_is_trained_and_cs_left_out(run_cells, shown, tmp_path):
    """CS has no two pictures to pull together, ML and what stands beside it need but one."""
    run_cells("05_fine_tune_clip", **SMALL["05_fine_tune_clip"], train_shots=1)
    table = pd.read_csv(tmp_path / "results" / "05_fine_tune_clip.csv")
    learnt = {"linear probe", "probe, augmented", "nearest class mean", "fine-tuned ML"}
    wise = {f"WiSE-FT alpha={alpha:g}" for alpha in (0, 0.5, 1)}
    less = {f"fine-tuned ML − {other}" for other in ("linear probe", "probe, augmented")}
    assert set(table.method) == learnt | wise | less | {"zero-shot"} and set(table.shots) == {1}
