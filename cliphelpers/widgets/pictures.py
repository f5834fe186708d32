"""Notebook 7 by hand: a line to draw over two versions of a picture, and a zoom."""

import ipywidgets
from PIL import Image, ImageDraw

from cliphelpers.widgets import parts

_SIDE = 480  # pixels


def before_after_widget(versions, left, right):
    """A line to draw over two versions of a picture, and a zoom, which does not smooth.

    Parameters
    ----------
    versions : list of (str, dict of str to uint8 array, shape (H, W, 3))
        For each picture its name, which may come again, and its versions, such as "bicubic" and
        "srgan", all of one size.
    left, right : str
        The versions to start with.

    Returns
    -------
    ipywidgets.Widget
    """
    versions = {f"{number}. {name}": kinds for number, (name, kinds) in enumerate(versions, 1)}
    kinds = next(iter(versions.values()))

    def show(picture, before, after, line, zoom, across, down):
        before, after = (Image.fromarray(versions[picture][kind]) for kind in (before, after))
        if before.size != after.size:
            raise ValueError(f"The pictures differ in size: {before.size} and {after.size}")
        width, height = (length / zoom for length in before.size)
        left, top = (before.width - width) * across, (before.height - height) * down
        size = [max(1, round(length * _SIDE / max(width, height))) for length in (width, height)]
        way = size, Image.Resampling.NEAREST, (left, top, left + width, top + height)
        shown, other = before.resize(*way), after.resize(*way)  # nothing is seen that is not there
        at = round(size[0] * line)
        shown.paste(other.crop((at, 0, *size)), (at, 0))
        ImageDraw.Draw(shown).line((at, 0, at, size[1]), (213, 94, 0), width=2)
        return parts.image(shown.save, "png", compress_level=1)

    def share(label, **more):
        more = {"value": 0.5, "min": 0, "max": 1, "step": 0.01} | more
        return parts.control(ipywidgets.FloatSlider, label, **more)

    return parts.interactive(
        show,
        picture=parts.choice("picture", versions),
        before=parts.choice("left", kinds, value=left),
        after=parts.choice("right", kinds, value=right),
        line=share("line"),
        zoom=share("zoom", value=1, min=1, max=8),
        across=share("left to right"),
        down=share("top to bottom"),
    )
