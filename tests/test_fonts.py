"""Names in any script, and with any sign, in figures."""

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from cliphelpers.plots import confusion_matrix, curves, dots, picture_grid, set_style


@pytest.fixture(autouse=True)
def style(monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    with plt.rc_context():
        yield


def write_font(folder, family, characters):
    """A font whose every character is a square."""
    names = [".notdef", *(f"g{ord(char)}" for char in characters)]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(char): f"g{ord(char)}" for char in characters})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(folder / f"{family}.ttf")
    return str(folder / f"{family}.ttf")


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """Two installed fonts, and a damaged one."""
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    found = [str(tmp_path / "damaged.ttf"), write_font(tmp_path, "Korean", "한국어")]
    found += [write_font(tmp_path, "Chinese", "中文猫日本한")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)


def names_of(figure):
    figure.savefig(io.BytesIO())  # matplotlib warns of a missing glyph; here that is an error
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    ("names", "families"),
    [
        (["apple", "Äpfel", "кот\n"], []),
        (["中文", "apple"], ["Chinese"]),
        (["한국어"], ["Korean"]),
        (["日本", "한국어", "кот"], ["Chinese", "Korean"]),
    ],
)
def test_installed_fonts_help_out_for_other_scripts(fonts, names, families):
    set_style("".join(names))
    assert plt.rcParams["font.family"] == ["sans-serif", *families]
    y = np.arange(len(names))
    assert names_of(confusion_matrix(y, y, names, names[0])) == sorted(names)


def test_without_a_font_a_warning_says_so_once(fonts):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        set_style("apple 中文 ไทย")
        y, names = np.arange(2), ["ไทย", "中文"]
        assert names_of(confusion_matrix(y, y, names, "ไทย")) == names
    (warning,) = said
    words = "Figures show boxes for 3 characters, such as ท: no installed font has them. Install"
    assert str(warning.message).startswith(words)


SIGNS = [r"$\frac{$", "$a$", "x_1^2 $", "a $5 and $6", "100 %", r"\alpha", "{}", "<b>&amp;"]


@pytest.mark.parametrize("sign", SIGNS)
def test_names_are_drawn_as_they_are_whatever_their_signs(sign):
    set_style(sign)
    y, plain = np.arange(2), sign + "!"
    columns = ["split", "encoder", "method", "shots", "value", "low", "high"]
    rows = [("official", sign, one, k, 0.5, 0.4, 0.6) for one in (sign, "b") for k in (1, 2)]
    table = pd.DataFrame(rows, columns=columns)
    assert names_of(confusion_matrix(y, y, [sign, plain], sign)) == [sign, plain]
    assert names_of(dots(table, "encoder", "method", sign, sign, lines=table[:1])) == [sign]
    for figure in (
        curves(table, "shots", "method", sign, sign, lines=table[:1]),
        picture_grid([np.zeros((4, 4, 3), np.uint8)], [sign], 1, row_titles=[sign], title=sign),
    ):
        figure.savefig(io.BytesIO())
    axis = figure.axes[0]
    widths = [axis.text(0, 0, text).get_window_extent().width for text in (sign, *sign)]
    assert widths[0] > 0.8 * sum(widths[1:])  # every sign is there; a formula is narrower
