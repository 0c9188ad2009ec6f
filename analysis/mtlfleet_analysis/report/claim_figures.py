"""Figures about claims, as Vega-Lite specifications: plain data, one function each; no chart code runs in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtlfleet_analysis.report.palette import BAND, BLUE, ORANGE, PAPER, SHAPES, VERDICTS, badge
from mtlfleet_analysis.report.vega import Spec, amount, extent, names, spec, told_by, zero_line
from mtlfleet_analysis.sentences import short_unit
from mtlfleet_analysis.verdict import Verdict


def forest(verdicts: Sequence[Verdict], labels: Sequence[str]) -> Spec:
    """One row a claim: effect and 95 % interval, the declared margin as a band around zero. One unit for all rows.

    Claims of more than one family stand in panels, one a family.
    """
    rows = [_forest_row(label, v) for label, v in zip(labels, verdicts, strict=True)]
    domain = extent([0.0, *(r[k] for r in rows for k in ("low", "high", "from", "to"))])
    title = f"improvement over the baseline ({short_unit(verdicts[0].unit)}) →"
    colour = told_by("verdict", {look: c for look, (_, c) in VERDICTS.items()})
    span = {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "color": colour}
    point = {"x": {"field": "effect", "type": "quantitative"}, "color": colour, "shape": told_by("verdict", SHAPES)}
    layers: list[Spec] = [
        {
            "mark": {"type": "bar", "color": BAND, "height": 34, "orient": "horizontal"},
            "encoding": {"x": amount("from", domain, title, tickCount=7), "x2": {"field": "to"}},
        },
        zero_line(),
        {"mark": {"type": "rule", "strokeWidth": 2.5}, "encoding": span},
        {
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1, "stroke": PAPER, "strokeWidth": 1},
            "encoding": point,
        },
    ]
    families = list(dict.fromkeys(v.claim.family for v in verdicts))
    plot: Spec = {
        "width": 520,
        "height": {"step": 34},
        "encoding": {"y": names("row", labelPadding=10, labelLimit=230)},
        "layer": layers,
    }
    if len(families) == 1:
        return spec(data={"values": rows}, **plot)
    panels = [
        {
            "title": {"text": f"family {family}", "fontSize": 12},
            "data": {"values": [r for r in rows if r["family"] == family]},
            **plot,
        }
        for family in families
    ]
    return spec(vconcat=panels, spacing=8)


def _forest_row(label: str, verdict: Verdict) -> Spec:
    effect, margin = verdict.effect or 0.0, verdict.claim.margin
    low, high = (x if x is not None and math.isfinite(x) else effect for x in (verdict.ci_low, verdict.ci_high))
    look = badge(verdict.verdict, verdict.label)[1]
    span = {"effect": effect, "low": low, "high": high, "from": -margin, "to": margin}
    return {"row": label, "family": verdict.claim.family, "verdict": look, **span}


def paired_differences(verdict: Verdict) -> Spec:
    """Every pair of a claim as a dot, by dataset; the margin as a band; runs scored worst are crosses."""
    margin, pairs = verdict.claim.margin, verdict.detail["pairs"]
    alone = len({p[1] for p in pairs}) == 1
    whole, worst = "both runs finished", "failure scored worst"
    rows = [
        {
            "place": p[0] if alone else f"{p[0]} · {p[1]}",
            "difference": p[3] - p[4],
            "kind": worst if p[5] or p[6] else whole,
        }
        for p in pairs
    ]
    domain = extent([-margin, margin, 0.0, *(r["difference"] for r in rows)])
    title = f"difference per seed ({short_unit(verdict.unit)})"
    return spec(
        width=400,
        height={"step": 26},
        layer=[
            {
                "data": {"values": [{"from": -margin, "to": margin}]},
                "mark": {"type": "rect", "color": BAND},
                "encoding": {"x": amount("from", domain, title, tickCount=6), "x2": {"field": "to"}},
            },
            zero_line(),
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 46, "opacity": 0.75},
                "encoding": {
                    "x": {"field": "difference", "type": "quantitative"},
                    "y": names("place"),
                    "color": told_by("kind", {whole: BLUE, worst: ORANGE}),
                    "shape": told_by("kind", {whole: "circle", worst: "cross"}),
                },
            },
        ],
    )
