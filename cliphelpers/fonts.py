"""Fonts for the names of classes in any script."""

import logging
import warnings
from contextlib import suppress

from matplotlib import font_manager as manager


def more_fonts(text):
    """Families of installed fonts, as few as it takes, for what matplotlib's current font lacks.

    Where no font has some of the characters, a warning says so.

    Parameters
    ----------
    text : str
        Contains every character that figures will show.

    Returns
    -------
    list of str
        To follow in ``font.family``, whose members matplotlib tries in turn for each character.
    """
    usual = manager.get_font(manager.findfont(manager.FontProperties()))
    lacking = {char for char in text if char.isprintable()} - _characters(usual, text)
    known, families = {}, []
    for path in manager.findSystemFonts() if lacking else []:  # its own list has no new ones
        with suppress(Exception):  # FreeType's many, of damaged fonts and of those of pictures
            manager.fontManager.addfont(path)
            font = manager.get_font(path)
            known[font.family_name] = _characters(font, lacking)
    known.pop(".LastResort", None)  # macOS' font of boxes
    for family in sorted(known, key=lambda name: (-len(known[name]), name)):
        if known[family] & lacking:
            families.append(family)
            lacking -= known[family]
    if lacking:
        which = f"{len(lacking)} characters, such as {min(lacking)}: no installed font has them"
        message = f"Figures show boxes for {which}. Install one that does, of Google's Noto fonts"
        warnings.warn(message, stacklevel=4)
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # that is said now
    logging.getLogger("matplotlib.font_manager").setLevel("ERROR")  # that a font has no bold one
    return families


def _characters(font, text):
    return {char for char in text if font.get_char_index(ord(char))}
