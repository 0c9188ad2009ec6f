"""What every figure shares: the look, and how far an axis reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "config": CONFIG, **parts}


def extent(values: Sequence[float], pad: float = 0.06) -> list[float]:
    """An axis domain a little wider than the values."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * pad
    return [low - room, high + room]


def names(field: str, order: Sequence[str] | None = None, **axis: Any) -> Spec:
    """A nominal channel without axis lines, in the order given (or that of the data)."""
    look = {"title": None, "domain": False, "ticks": False, "labelColor": INK, **axis}
    return {"field": field, "type": "nominal", "sort": list(order) if order is not None else None, "axis": look}


def amount(field: str, domain: Sequence[float], title: str, *, reverse: bool = False, **axis: Any) -> Spec:
    """A quantitative channel over ``domain``."""
    scale = {"domain": list(domain), "nice": False, "zero": False, "reverse": reverse}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": title, **axis}}


def told_by(field: str, looks: Mapping[str, str]) -> Spec:
    """A channel that tells names apart by fixed looks (colours or shapes), without a legend."""
    return {"field": field, "legend": None, "scale": {"domain": list(looks), "range": list(looks.values())}}


def zero_line() -> Spec:
    return {
        "data": {"values": [{"zero": 0.0}]},
        "mark": {"type": "rule", "color": MUTED, "strokeWidth": 1},
        "encoding": {"x": {"field": "zero", "type": "quantitative"}, "y": None},
    }
