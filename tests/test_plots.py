"""What the figures draw, read back from matplotlib's artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

from cliphelpers import plots
from cliphelpers.plots import (
    confusion_matrix,
    curves,
    dots,
    feature_map,
    picture_grid,
    set_style,
)


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        set_style()
        yield


@pytest.fixture
def table():
    """Two splits, two encoders, two methods; the second split lacks one row."""
    rows = [
        (split, encoder, method, value, value - 0.1, value + 0.05)
        for split, easy in (("official", 0.2), ("by_group", 0))
        for encoder, good in (("A", 0.5), ("B", 0.7))
        for method, value in (("ridge", good + easy / 2), ("logistic", good + easy))
    ]
    columns = ["split", "encoder", "method", "value", "low", "high"]
    return pd.DataFrame(rows[:-1], columns=columns)


def errorbars(axis):
    """For each label the drawn values, with low and high: dict of str to array (N, 3)."""
    found = {}
    for bars in axis.containers:
        points, _, (lines,) = bars
        ends = np.array([segment[:, 0] for segment in lines.get_segments()])
        found[bars.get_label()] = np.column_stack([points.get_xdata(), ends]).astype(float)
    return found


def test_dots_stand_at_their_values_with_their_intervals(table):
    figure = dots(table, "encoder", "method", "title")
    assert len(figure.axes) == 2
    for axis, split in zip(figure.axes, ["official", "by_group"], strict=True):
        for method, drawn in errorbars(axis).items():
            part = table[(table.split == split) & (table.method == method)]
            np.testing.assert_allclose(drawn, part[["value", "low", "high"]])
        assert axis.get_title(loc="left").startswith(split)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["A", "B"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ridge", "logistic"]
    assert axis.get_xlim()[0] == 0


@pytest.mark.parametrize("draw_figure", [
    lambda table: dots(table, "method", "encoder", "title", lines=table.tail(1)),
    lambda table: curves(table.assign(k=1), "k", "encoder", "title", "k", lines=table.tail(1)),
])  # fmt: skip
def test_a_name_that_begins_with_a_line_below_is_in_the_legend(table, draw_figure):
    table = table.replace({"A": "_A", "B": "_B", "ridge": "_B"})
    (legend,) = draw_figure(table).legends
    assert {text.get_text().strip() for text in legend.get_texts()} == {"_A", "_B"}


@pytest.mark.parametrize("split", ["official", "by_group", "by_look", "random"])
def test_a_panel_s_title_says_what_its_split_holds_out(table, split):
    figure = dots(table[:2].assign(split=split), "encoder", "method", "title")
    name, meaning = figure.axes[0].get_title(loc="left").split("\n")
    assert name == split and ("group" in meaning) == (split == "by_group")
    assert ("alike" in meaning) == (split == "by_look")


def test_differences_have_a_line_at_0_and_baselines_one_each(table):
    less = table.assign(value=table.value - 0.6, low=table.low - 0.6, high=table.high - 0.6)
    base = table[table.encoder == "A"].query("method == 'ridge'").assign(encoder="pixels")
    figure = dots(less, "encoder", "method", "title", lines=base)
    for axis, split in zip(figure.axes, ["official", "by_group"], strict=True):
        upright = [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]
        expected = base[base.split == split].value.iloc[0]
        assert 0 in upright and expected in upright


def drawn_line(axis, label):
    return next(line for line in axis.lines if line.get_label() == label).get_xydata()


def test_curves_go_through_the_rows_with_a_ribbon_of_their_intervals():
    table = pd.DataFrame({"split": "official", "encoder": "A", "method": "head"}, range(3))
    table = table.assign(shots=[1, 4, 16], value=[0.2, 0.5, 0.6], low=[0.1, 0.35, 0.58])
    table["high"] = [0.4, 0.55, 0.7]
    ends = pd.DataFrame({"split": ["official"], "encoder": "A", "method": "all", "value": 0.9})
    figure = curves(table, "shots", "method", "title", "k", lines=ends)
    (axis,) = figure.axes
    np.testing.assert_allclose(drawn_line(axis, "head"), table[["shots", "value"]])
    (ribbon,) = axis.collections
    corners = {tuple(corner) for corner in ribbon.get_paths()[0].vertices}
    for end in ("low", "high"):
        assert set(table[["shots", end]].itertuples(index=False, name=None)) <= corners
    assert set(drawn_line(axis, "all")[:, 1]) == {0.9} and axis.get_xscale() == "log"


def test_curves_of_several_trainings_are_their_mean_without_a_ribbon():
    table = pd.DataFrame({"epoch": [0, 1, 0, 1], "accuracy": [0.1, 0.5, 0.3, 0.9]})
    table = table.assign(split="official", encoder="A", part="train")
    (axis,) = curves(table, "epoch", "part", "title", "epoch", y="accuracy", log=False).axes
    np.testing.assert_allclose(drawn_line(axis, "train"), [[0, 0.2], [1, 0.7]])
    assert not axis.collections


def test_a_row_of_panels_for_each_encoder_but_not_where_encoders_are_colours(table):
    table = table.assign(shots=2)
    assert len(curves(table, "shots", "method", "title", "k").axes) == 4
    assert len(curves(table, "shots", "encoder", "title", "k").axes) == 2


def cells(figure):
    """The numbers written into a heat map's cells: list of str, row by row."""
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_confusion_matrix_holds_counts():
    y, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0])
    figure = confusion_matrix(y, predicted, ["fig", "kiwi", "pear"], "title")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["fig", "kiwi", "pear"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["fig", "kiwi", "pear"]
    assert cells(figure) == ["1", "2", "", "", "2", "", "1", "", ""]  # right ones in a diagonal
    shares = axis.collections[0].get_array().ravel()
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 0, 0, 1, 0, 1, 0, 0])


def test_of_many_classes_the_hardest_are_shown_and_the_rest_are_others():
    y = np.repeat(np.arange(6), 10)
    predicted = np.where(np.arange(60) % 10 < y, (y + 1) % 6, y)  # the higher, the harder
    figure = confusion_matrix(y, predicted, list("abcdef"), "title", most=2)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["e", "f"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["e", "f", "others"]
    assert cells(figure) == ["6", "4", "", "", "5", "5"]


@pytest.mark.parametrize("labels", [["cat", "dog"], ["a", "b", "c", "others"], list("abcdefghij")])
def test_few_classes_are_all_shown_without_a_column_of_others(labels):
    y = np.repeat(np.arange(len(labels)), 3)
    figure = confusion_matrix(y, np.roll(y, 1), labels, "title")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == labels
    assert [text.get_text() for text in axis.get_xticklabels()] == labels


def test_a_class_that_is_called_others_stands_beside_the_other_answers():
    y, predicted = np.repeat([0, 1, 2, 3], 3), np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 3, 3, 1])
    figure = confusion_matrix(y, predicted, ["a", "b", "c", "others"], "title", most=2)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [
        "c",
        "others",
        "others",
    ]
    assert cells(figure) == ["2", "", "1", "", "2", "1"]


def test_pictures_stand_above_their_captions(draw):
    paths = [str(draw(f"{number}.png", seed=number)) for number in range(3)]
    figure = picture_grid(paths, ["a\n(a)", "b\n(c)", "d"], 2, ["g", "r", "g"], ["one", "two"])
    assert len(figure.axes) == 4
    assert [axis.texts[0].get_text() for axis in figure.axes[:3]] == ["a\n(a)", "b\n(c)", "d"]
    assert [axis.get_title(loc="left") for axis in figure.axes[::2]] == ["one", "two"]


@pytest.mark.parametrize(("pictures", "rows"), [(2, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize("lines", [1, 3])
def test_captions_are_whole_and_beside_no_title(pictures, rows, lines):
    pixels, titles = np.zeros((5, 5, 3), np.uint8), [f"row {row}" for row in range(rows)]
    caption = "\n".join(["word"] * lines)
    figure = picture_grid([pixels] * pictures, [caption] * pictures, rows, None, titles, "title")
    figure.canvas.draw()
    boxes = [axis.texts[0].get_window_extent() for axis in figure.axes]
    assert min(box.y0 for box in boxes) >= 0
    for axis in figure.axes[:: pictures // rows]:
        above = [box.y0 for box in boxes if box.y0 > axis.bbox.y1]
        assert not above or axis._left_title.get_window_extent().y1 <= min(above)


LONG = [
    "Tomato___Tomato_Yellow_Leaf_Curl_Virus",
    "Corn_(maize)___Cercospora_leaf_spot Gray_leaf_spot",
    "Grape___Leaf_blight_(Isariopsis_Leaf_Spot)",
    "Pepper,_bell___healthy" + "_and_green" * 9,
]


def test_long_captions_are_wrapped_and_stand_beside_each_other():
    pixels = np.zeros((5, 5, 3), np.uint8)
    figure = picture_grid([pixels] * 4, LONG, 1)
    figure.canvas.draw()
    texts = [axis.texts[0] for axis in figure.axes]
    assert ["".join(text.get_text().split()) for text in texts] == [
        "".join(name.split()) for name in LONG
    ]
    boxes = [text.get_window_extent() for text in texts]
    assert all(one.x1 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False))
    assert min(box.y0 for box in boxes) >= 0
    assert min(axis.bbox.height for axis in figure.axes) > 80  # of pictures, in pixels


def test_long_names_leave_a_confusion_matrix_its_cells():
    y = np.repeat(np.arange(4), 5)
    figure = confusion_matrix(y, y, LONG, "title")
    figure.canvas.draw()
    axis = figure.axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert all(len(name) <= 28 for name in names) and len(set(names)) == 4
    assert names[-1] == "Tomato___Tomat…af_Curl_Virus"
    assert axis.bbox.height / 4 > max(text.get_window_extent().height for text in axis.texts)


def test_pixels_are_shown_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    figure = picture_grid([pixels, pixels[::-1]], ["a", "b"], 1)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    np.testing.assert_array_equal(shown, [pixels, pixels[::-1]])


# ------------------------------------------------------------------------------- a map


@pytest.fixture
def pictures(draw, tmp_path, monkeypatch):
    """An index of 4 classes of 3 groups of 10 pictures, and features with shares of both."""
    monkeypatch.setenv("CLIPHELPERS_CACHE", str(tmp_path / "cache"))
    path, rng, groups = str(draw("one.png")), np.random.default_rng(0), np.repeat(range(12), 10)
    index = pd.DataFrame({"path": path, "label": [f"class {number // 3}" for number in groups]})
    index["group"] = [f"clip {number % 3}" for number in groups]
    X = 3 * rng.normal(size=(4, 20))[groups // 3] + rng.normal(size=(12, 20))[groups]
    return index, (X + rng.normal(0, 0.8, X.shape)).astype(np.float32)


def places(axis):
    return {one.get_label(): np.array(one.get_offsets()) for one in axis.collections}


def test_a_map_puts_pictures_of_one_class_together_and_says_who_is_near_whom(pictures):
    index, X = pictures
    rows = np.arange(20, 120)
    figure = feature_map(
        {"A": X, "B": np.random.default_rng(1).normal(size=X.shape)}, index, rows, ""
    )
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["A", "B"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == sorted(set(index.label))
    near = np.argsort(-cosine_similarity(X[rows]), axis=1)[:, 1:11]
    label, group = index.label.to_numpy()[rows], (index.label + index["group"]).to_numpy()[rows]
    same, own = ((one[near] == one[:, None]).mean() for one in (label, group))
    expected = f"of 10 nearest neighbours {same:.0%} share the class, {own:.0%} the group"
    assert figure.axes[0].get_xlabel() == expected and own < 0.9 < same
    found = places(figure.axes[0])
    assert {name: len(one) for name, one in found.items()} == index.label[
        rows
    ].value_counts().to_dict()
    within = np.mean([one.std(0).mean() for one in found.values()])
    assert within < 0.3 * np.concatenate([*found.values()]).std(0).mean()
    again = feature_map({"A": X}, index, rows, "")
    np.testing.assert_array_equal(places(again.axes[0])["class 1"], found["class 1"])


def test_a_map_shows_some_pictures_none_on_another(pictures):
    index, X = pictures
    X = np.random.default_rng(1).normal(size=X.shape)  # no islands
    (axis,) = feature_map({"A": X}, index, np.arange(120), "").axes
    shown = np.array([one.xy for one in axis.artists if isinstance(one, AnnotationBbox)])
    assert len(shown) > 10
    apart = np.abs(shown[:, None] - shown).max(2) + np.eye(len(shown))
    assert apart.min() > 0.1
    every = np.concatenate([*places(axis).values()])
    assert (np.abs(every[:, None] - shown).max(2).min(1) <= 0.1).all()


def test_a_map_of_a_part_of_an_index_shows_the_pictures_of_its_rows(pictures, monkeypatch):
    index, X = pictures
    index, shown = index.assign(path=[f"{row}.png" for row in range(120)]), []
    blank = Image.new("RGB", (9, 9))
    monkeypatch.setattr(plots, "read_image", lambda path: shown.append(path) or blank.copy())
    part = index[index.label != "class 1"]
    feature_map({"A": X[:90]}, part, np.arange(30, 60), "")
    assert shown and set(shown) <= {f"{row}.png" for row in range(60, 90)}


def test_a_map_of_many_pictures_and_classes_draws_some_and_has_no_legend(pictures, monkeypatch):
    index, X = pictures
    monkeypatch.setattr(plots, "_MAPPED", 40)
    many = index.assign(label=[f"class {row // 10:02}" for row in range(120)], group="")
    figure = feature_map({"A": X}, many, np.arange(120), "", seed=3)
    (axis,) = figure.axes
    assert sum(map(len, places(axis).values())) == 40 and not figure.legends
    assert len(places(axis)) == 12 and axis.get_xlabel().endswith("the look")
    other = feature_map({"A": X}, many, np.arange(120), "", seed=4).axes[0]
    counts = [[len(one) for one in places(one).values()] for one in (axis, other)]
    assert counts[0] != counts[1]


def test_a_map_of_three_pictures(pictures):
    index, X = pictures
    (axis,) = feature_map({"A": X}, index, np.array([0, 1, 40]), "").axes
    assert axis.get_xlabel().startswith("of 2 nearest neighbours 33% share the class")


@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_map_of_copies_or_of_one_picture_is_a_point(pictures, count):
    """t-SNE cannot place them: it fails, or ends the process."""
    index, X = pictures
    (axis,) = feature_map({"A": np.ones_like(X)}, index, np.arange(count), "").axes
    every = np.concatenate([*places(axis).values()])
    assert len(every) == count and len(np.unique(every, axis=0)) == 1


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    figure = plots.plt.figure()
    plots.save_fig(figure, tmp_path, "some")
    before = (tmp_path / "pics" / "some.jpg").read_bytes()

    def full(path, content):
        with open(path, "wb") as file:
            file.write(content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    figure.text(0.5, 0.5, "other")
    with pytest.raises(OSError, match="No space left on device: .*some.jpg"):
        plots.save_fig(figure, tmp_path, "some")
    assert [one.name for one in (tmp_path / "pics").iterdir()] == ["some.jpg"]
    assert (tmp_path / "pics" / "some.jpg").read_bytes() == before
