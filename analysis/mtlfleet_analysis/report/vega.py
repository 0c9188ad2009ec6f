"""What every figure shares: the look, and how far an axis reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtlfleet_analysis.report.palette import INK, MUTED, RULE

Spec = dict[str, Any]

CONFIG: Spec = {
    "background": None,
    "font": "Helvetica Neue, Liberation Sans, Arial, sans-serif",
    "view": {"stroke": None},
    "padding": {"left": 10, "right": 12, "top": 4, "bottom": 4},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "domainColor": RULE,
        "tickColor": RULE,
        "gridColor": RULE,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelLimit": 190,
    },
    "legend": {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12, "labelLimit": 150},
    "text": {"color": INK, "fontSize": 12},
    "title": {"color": INK, "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 10},
}


def spec(**parts: Any) -> Spec:
    """A Vega-Lite specification with the house's look."""
    return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": CONFIG, **parts}


def extent(values: Sequence[float], pad: float = 0.06) -> list[float]:
    """An axis domain a little wider than the values."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * pad
    return [low - room, high + room]
