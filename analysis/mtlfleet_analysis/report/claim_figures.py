"""Figures about claims, as Vega-Lite specifications: plain data, one function each; no chart code runs in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtlfleet_analysis.report.palette import BAND, BLUE, INK, MUTED, ORANGE, PAPER, SHAPES, VERDICTS, badge
from mtlfleet_analysis.report.vega import Spec, extent, spec
from mtlfleet_analysis.sentences import short_unit
from mtlfleet_analysis.verdict import Verdict


def forest(verdicts: Sequence[Verdict], names: Sequence[str]) -> Spec:
    """One row a claim: effect and 95 % interval, the declared margin as a band around zero. One unit for all rows."""
    unit = short_unit(verdicts[0].unit)
    rows: list[Spec] = []
    for name, v in zip(names, verdicts, strict=True):
        effect = v.effect or 0.0
        low, high = (x if x is not None and math.isfinite(x) else effect for x in (v.ci_low, v.ci_high))
        rows.append(
            {
                "row": name,
                "effect": effect,
                "low": low,
                "high": high,
                "verdict": badge(v.verdict, v.label)[1],
                "from": -v.claim.margin,
                "to": v.claim.margin,
            }
        )
    domain = extent([0.0, *(r[k] for r in rows for k in ("low", "high", "from", "to"))])
    x = {
        "scale": {"domain": domain, "nice": False},
        "axis": {"title": f"improvement over the baseline ({unit}) →", "tickCount": 7},
    }
    y = {
        "field": "row",
        "type": "nominal",
        "sort": None,
        "axis": {
            "title": None,
            "domain": False,
            "ticks": False,
            "labelColor": INK,
            "labelPadding": 10,
            "labelLimit": 230,
        },
    }
    colour = {
        "field": "verdict",
        "legend": None,
        "scale": {"domain": list(VERDICTS), "range": [c for _, c in VERDICTS.values()]},
    }
    shape = {"field": "verdict", "legend": None, "scale": {"domain": list(SHAPES), "range": list(SHAPES.values())}}
    return spec(
        data={"values": rows},
        width=520,
        height={"step": 34},
        encoding={"y": y},
        layer=[
            {
                "mark": {"type": "bar", "color": BAND, "height": 34, "orient": "horizontal"},
                "encoding": {"x": {"field": "from", "type": "quantitative", **x}, "x2": {"field": "to"}},
            },
            {
                "data": {"values": [{"zero": 0.0}]},
                "mark": {"type": "rule", "color": MUTED, "strokeWidth": 1},
                "encoding": {"x": {"field": "zero", "type": "quantitative"}, "y": None},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2.5},
                "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1, "stroke": PAPER, "strokeWidth": 1},
                "encoding": {"x": {"field": "effect", "type": "quantitative"}, "color": colour, "shape": shape},
            },
        ],
    )


def paired_differences(verdict: Verdict) -> Spec:
    """Every pair of a claim as a dot, by dataset; the margin as a band; runs scored worst are crosses."""
    unit = short_unit(verdict.unit)
    rows = [
        {
            "place": p[0] if len({q[1] for q in verdict.detail["pairs"]}) == 1 else f"{p[0]} · {p[1]}",
            "difference": p[3] - p[4],
            "kind": "failure scored worst" if p[5] or p[6] else "both runs finished",
        }
        for p in verdict.detail["pairs"]
    ]
    margin = verdict.claim.margin
    domain = extent([-margin, margin, 0.0, *(r["difference"] for r in rows)])
    x = {
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False},
        "axis": {"title": f"difference per seed ({unit})", "tickCount": 6},
    }
    kinds = ["both runs finished", "failure scored worst"]
    return spec(
        width=400,
        height={"step": 26},
        layer=[
            {
                "data": {"values": [{"from": -margin, "to": margin}]},
                "mark": {"type": "rect", "color": BAND},
                "encoding": {"x": {"field": "from", **x}, "x2": {"field": "to"}},
            },
            {
                "data": {"values": [{"zero": 0.0}]},
                "mark": {"type": "rule", "color": MUTED},
                "encoding": {"x": {"field": "zero", "type": "quantitative"}},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 46, "opacity": 0.75},
                "encoding": {
                    "x": {"field": "difference", **x},
                    "y": {
                        "field": "place",
                        "type": "nominal",
                        "sort": None,
                        "axis": {"title": None, "labelColor": INK, "domain": False, "ticks": False},
                    },
                    "color": {"field": "kind", "legend": None, "scale": {"domain": kinds, "range": [BLUE, ORANGE]}},
                    "shape": {
                        "field": "kind",
                        "legend": None,
                        "scale": {"domain": kinds, "range": ["circle", "cross"]},
                    },
                },
            },
        ],
    )
