"""Colours and glyphs. A verdict is told by glyph and word first; the hues are Okabe and Ito's, for every eye."""

from __future__ import annotations

INK, MUTED, RULE, BAND, PAPER = "#1c2430", "#5c6773", "#dfe3e8", "#e9edf2", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#7b8794"

# colours of the page that change in the dark; the figures' attributes are mapped by the style sheet
DARK = {INK: "#e8ebef", MUTED: "#a3adb8", RULE: "#39424d", BAND: "#2a323c", PAPER: "#14181d"}
DARK |= {BLUE: "#56b4e9", ORANGE: "#ff8a3d", GREEN: "#2fcf9f", PURPLE: "#e08ad0", GREY: "#9aa5b1"}
DARK |= {"#882255": "#d1689a", "#332288": "#9385e6", "#b8860b": "#d9ab3d", "#c2556b": "#ee8a9c"}

VERDICTS = {
    "supported": ("✓", BLUE),
    "refuted": ("✕", ORANGE),
    "equivalent": ("≈", GREEN),
    "inconclusive": ("?", GREY),
    "invalid": ("!", PURPLE),
    "observed": ("○", MUTED),
}
SHAPES = {
    "supported": "circle",
    "refuted": "diamond",
    "equivalent": "triangle-right",
    "inconclusive": "square",
    "invalid": "cross",
    "observed": "triangle-up",
}

METHODS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#c2556b", "#7b8794", "#882255", "#44aa99", "#332288")


MARKS = ("circle", "square", "triangle-up", "diamond")  # with the hues: twenty methods, each unlike the others


def badge(verdict: str, label: str) -> tuple[str, str]:
    """(glyph, name of the look): a refutation by equivalence, or by too small a gain, looks like an equivalence."""
    look = "equivalent" if label == "equivalent" and verdict in ("refuted", "supported") else verdict
    return VERDICTS[look][0], look
