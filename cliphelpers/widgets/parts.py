"""What the tools have in common: controls, their wiring, and pictures and figures as HTML."""

import base64
import html
from functools import lru_cache

import ipywidgets
from IPython.display import HTML, display
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cliphelpers.cache import as_bytes
from cliphelpers.images import read_image
from cliphelpers.plots import RIGHT, WRONG, draw_lines

SHOWN = 12  # pictures of a kind
WIDTH = 820  # pixels: two controls, 6 large pictures or 12 small ones


def interactive(show, **controls):
    """Controls, and below them the HTML that ``show`` makes of their values: a widget.

    A line between them says when it computes. A ValueError is one red line above the last good
    page.
    """
    page, busy = "", ipywidgets.HTML(layout={"height": "1.6em"})

    def update(**values):
        nonlocal page
        error, busy.value = "", "computing …"
        try:
            page = show(**values)
        except ValueError as problem:
            error = red(problem)
        finally:
            busy.value = ""
        display(HTML(error + page))

    output = ipywidgets.interactive_output(update, controls)
    layout = {"flex_flow": "row wrap", "max_width": f"{WIDTH}px"}
    return ipywidgets.VBox([ipywidgets.Box([*controls.values()], layout=layout), busy, output])


def control(kind, label, **more):
    """An ipywidget with a label; all stand in columns."""
    style, layout = {"description_width": "100px"}, {"width": "400px"}
    return kind(description=label, style=style, layout=layout, **more)


def choice(label, options, **more):
    """A list to choose one of; by default the first."""
    return control(ipywidgets.Dropdown, label, options=list(options), **more)


def steps(label, options, **more):
    """A slider over some values, or over pairs of a text and a value; by default the first."""
    return control(ipywidgets.SelectionSlider, label, options=list(options), **more)


def red(problem):
    """One line in red."""
    text = escaped(" ".join(str(problem).split()))
    return f'<p style="color:var(--jp-error-color1, #c62828)">{text}</p>'


def escaped(text):
    """A text that may hold markup and newlines, as it is."""
    return html.escape(text).replace("\n", "<br>")


def marked(right, text=""):
    """A text with a green tick, or with an orange cross."""
    colour, mark = (RIGHT, "✓") if right else (WRONG, "✗")
    return f'<span style="color:{to_hex(colour)}">{mark} {escaped(text)}</span>'


def points(difference):
    """A difference of accuracies in percentage points: "+3.3"."""
    text = f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "±0.0" if text[1:] == "0.0" else text


def table(rows):
    """A DataFrame with a column share, which gets bars, as HTML."""
    bars = rows.style.hide().bar("share", color="#bbd4e8", vmin=0, vmax=1)
    return bars.format({"share": "{:.1%}"}, escape="html").to_html()


def image(save, kind, style="", **more):
    """What ``save(file, format=kind, **more)`` writes, "png" or "jpeg", as HTML."""
    data = base64.b64encode(as_bytes(save, format=kind, **more)).decode()
    return f'<img src="data:image/{kind};base64,{data}" style="margin:0;{style}">'


def lines(table, x, hue, at, **axis):
    """Shares against a column as lines, with an upright line where the control stands."""
    figure = Figure((6, 3.6), layout="none")  # without a layout engine in half the time
    place = figure.add_axes((0.14, 0.16, 0.84, 0.8), ylabel="top-1 accuracy", **axis)
    draw_lines(place, table, x, hue)
    place.axvline(at, color="0.35", linestyle="--")
    place.minorticks_off()
    place.xaxis.set_major_formatter("{x:g}")  # powers of ten as mathtext are slow
    place.legend()
    return image(figure.savefig, "png", dpi=80)


@lru_cache(4096)
def _thumbnail(path, side):
    picture = read_image(path)
    picture.thumbnail((side, side))
    return image(picture.save, "jpeg", f"width:{side}px;height:{side}px;object-fit:contain")


def gallery(title, paths, captions=None, side=48):
    """The first pictures in rows, each with a line of HTML below it, under a title of HTML."""
    more = f", the first {SHOWN}" if len(paths) > SHOWN else ""
    style = f"width:{side + 16}px;margin:0 0 8px;text-align:center;font-size:12px"
    figures = [
        f'<figure style="{style};overflow-wrap:anywhere">{_thumbnail(path, side)}'
        f"<figcaption>{caption}</figcaption></figure>"
        for path, caption in zip(paths[:SHOWN], captions or [""] * SHOWN, strict=False)
    ]
    rows = beside(*figures or ["no pictures"])
    return f'<div style="max-width:{WIDTH}px">{title}{more}{rows}</div>'


def beside(*columns):
    """HTML from left to right, as far as there is room."""
    return f'<div style="display:flex;flex-wrap:wrap;line-height:1.25">{"".join(columns)}</div>'
