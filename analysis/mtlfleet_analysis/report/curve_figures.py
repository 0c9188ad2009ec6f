"""Figures of curves, ranks and gradients, as Vega-Lite specifications: plain data, one function each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtlfleet_analysis.curves import Ranks, RunScore, TuningCurve, profile
from mtlfleet_analysis.evidence import Trace
from mtlfleet_analysis.report.method_figures import METHOD_LEGEND, method_colours
from mtlfleet_analysis.report.palette import INK, MUTED, ORANGE, PAPER
from mtlfleet_analysis.report.vega import Spec, amount, extent, names, spec, zero_line

LINE_LEGEND: Spec = {**METHOD_LEGEND, "symbolType": "stroke", "symbolSize": 500}
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4])


def _dashes(shown: Sequence[str], methods: Sequence[str]) -> Spec:
    """Hues repeat for some eyes: neighbours in the legend differ in their dashes too."""
    scale = {"domain": list(methods), "range": [DASHES[i % len(DASHES)] for i in range(len(methods))]}
    return {"field": "method", "type": "nominal", "scale": scale, "legend": {**LINE_LEGEND, "values": list(shown)}}


def _coloured(shown: Sequence[str], methods: Sequence[str]) -> Spec:
    legend = {**LINE_LEGEND, "values": list(shown)}
    return {"field": "method", "type": "nominal", "scale": method_colours(methods), "legend": legend}


def profiles(scores: Sequence[RunScore], methods: Sequence[str], title: str) -> Spec:
    """Share of each method's runs that improve by at least x; what failed reaches nothing."""
    shown = [m for m in methods if any(r.method == m for r in scores)]
    rows: list[Spec] = []
    low = min((r.value for r in scores if not r.failed), default=0.0)
    for m in shown:
        mine = [r for r in scores if r.method == m]
        curve = profile(mine)
        start = sum(not r.failed for r in mine) / len(mine)
        rows += [{"method": m, "x": low, "share": start}, *({"method": m, "x": x, "share": s} for x, s in curve)]
        if curve:
            rows.append({"method": m, "x": curve[-1][0], "share": 0.0})
    y = amount("share", [0, 1], "share of runs that reach it", tickCount=5, format=".0%", gridOpacity=0.6)
    x = amount("x", extent([r["x"] for r in rows]), "improvement on single-task learning (pp)", tickCount=6)
    return spec(
        title=title,
        data={"values": rows},
        width=480,
        height=240,
        mark={"type": "line", "interpolate": "step-before", "strokeWidth": 2, "opacity": 0.9},
        encoding={
            "x": x, "y": y, "color": _coloured(shown, methods), "strokeDash": _dashes(shown, methods),
            "order": {"field": "x"},
        },
    )  # fmt: skip


def tuning(curves: Sequence[TuningCurve], methods: Sequence[str], by: str, title: str) -> Spec:
    """Expected best on validation after k trials (``trials``) or the device hours they take (``hours``).

    A dashed line stands at what each method was tuned with, of which the curve covers the first half.
    """
    shown = [c.method for c in curves]
    rows: list[Spec] = [
        {"method": c.method, "x": float(i + 1) if by == "trials" else c.hours[i], "value": v}
        for c in curves
        for i, v in enumerate(c.values)
    ]
    budgets = [{"method": c.method, "x": float(c.trials) if by == "trials" else c.hours[0] * c.trials} for c in curves]
    words = {"trials": "configurations tried", "hours": "device hours of tuning, per place"}[by]
    at = [r["x"] for r in (*rows, *budgets)]
    ticks = {"values": sorted(set(at)), "format": "d"} if by == "trials" else {"format": ".3~g"}
    x = amount("x", extent(at), words, tickCount=5, **ticks)
    budget = {"type": "rule", "strokeDash": [3, 3], "strokeWidth": 1.2, "opacity": 0.7}
    y = amount("value", extent([r["value"] for r in rows]), "expected best improvement (pp)", tickCount=5)
    return spec(
        title=title,
        data={"values": rows},
        width=330,
        height=230,
        encoding={"x": x, "y": y, "color": _coloured(shown, methods)},
        layer=[
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"strokeDash": _dashes(shown, methods)}},
            {"mark": {"type": "point", "filled": True, "size": 40, "opacity": 1}},
            {"data": {"values": budgets}, "mark": budget, "encoding": {"y": None}},
        ],
    )


def critical_difference(ranks: Ranks, labels: Mapping[str, str]) -> Spec:
    """Mean ranks on one axis; a bar joins methods that Nemenyi's test cannot tell apart."""
    place = dict(ranks.ranks)
    rows: list[Spec] = [{"method": labels.get(m, m), "rank": r} for m, r in ranks.ranks]
    order = [r["method"] for r in rows]
    bars = [{"from": place[g[0]], "to": place[g[-1]], "row": f"group {i + 1}"} for i, g in enumerate(ranks.groups)]
    x = amount("rank", [0.8, len(rows) + 0.2], "mean rank over datasets (1 is best)", tickCount=len(rows), format="d")
    points: Spec = {
        "data": {"values": rows},
        "width": 420,
        "height": {"step": 22},
        "mark": {"type": "point", "filled": True, "size": 90, "color": INK, "opacity": 1},
        "encoding": {"x": x, "y": names("method", order)},
    }
    joined: Spec = {
        "data": {"values": bars},
        "width": 420,
        "height": {"step": 16},
        "mark": {"type": "bar", "color": ORANGE, "height": 5},
        "encoding": {
            "x": {**amount("from", [0.8, len(rows) + 0.2], ""), "axis": None},
            "x2": {"field": "to"},
            "y": names("row", labels=False),
        },
    }
    title = f"critical difference {ranks.critical:.2f} (Nemenyi, 0.05), {ranks.datasets} datasets"
    return spec(title=title, spacing=6, vconcat=[points, joined] if bars else [points])


def strips(scores: Sequence[RunScore], methods: Sequence[str], title: str) -> Spec:
    """Every seed of every method as a dot, runs of one seed joined; what failed stands at the lower edge."""
    shown = [m for m in methods if any(r.method == m for r in scores)]
    domain = extent([r.value for r in scores if not r.failed] or [0.0])
    rows = [
        {"method": r.method, "seed": str(r.seed), "order": shown.index(r.method)}
        | ({"value": domain[0], "end": "failed"} if r.failed else {"value": r.value, "end": "ok"})
        for r in scores
    ]
    x = names("method", shown, labelAngle=-30, labelAlign="right")
    y = amount("value", domain, "improvement (pp)", tickCount=5, gridOpacity=0.6)
    shape = {"field": "end", "legend": None, "scale": {"domain": ["ok", "failed"], "range": ["circle", "cross"]}}
    along = {"field": "order", "type": "quantitative"}
    line = {"type": "line", "strokeWidth": 0.8, "opacity": 0.35, "color": MUTED}
    return spec(
        title=title,
        data={"values": rows},
        width={"step": 46},
        height=200,
        encoding={"x": x, "y": y},
        layer=[
            {"mark": line, "encoding": {"detail": {"field": "seed"}, "order": along}},
            {"mark": {"type": "point", "filled": True, "size": 46, "opacity": 0.9, "stroke": PAPER, "strokeWidth": 0.6},
             "encoding": {"shape": shape, "color": {**_coloured(shown, methods), "legend": None}}},
        ],
    )  # fmt: skip


def traces(found: Sequence[Trace], methods: Sequence[str], title: str, axis: str) -> Spec:
    """Median over runs and pairs or tasks, with the band between the 10th and 90th percentile, step by step."""
    shown = [m for m in methods if any(t.method == m for t in found)]
    rows = [
        {"method": t.method, "step": t.step, "low": t.low, "middle": t.middle, "high": t.high, "what": t.what}
        for t in found
    ]
    y = amount("low", extent([v for t in found for v in (t.low, t.high)]), axis, tickCount=4, gridOpacity=0.6)
    x = amount("step", extent([float(t.step) for t in found]), "step", tickCount=4, format="d")
    dashes = {"field": "what", "legend": None}
    hue = {"field": "what", "type": "nominal", "title": None, "legend": {"title": None, "orient": "bottom"}}
    plain = {"field": "what", "scale": {"domain": sorted({t.what for t in found})}, **hue}
    return spec(
        title=title,
        data={"values": rows},
        facet={"field": "method", "type": "nominal", "sort": shown, "title": None, "header": {"labelColor": INK}},
        columns=4,
        spec={
            "width": 165,
            "height": 110,
            "layer": [
                {"mark": {"type": "area", "opacity": 0.22},
                 "encoding": {"x": x, "y": y, "y2": {"field": "high"}, "color": plain}},
                {"mark": {"type": "line", "strokeWidth": 1.6},
                 "encoding": {"x": x, "y": {**y, "field": "middle"}, "color": plain, "strokeDash": dashes}},
                *([zero_line_y()] if axis.startswith("cosine") else []),
            ],
        },
    )  # fmt: skip


def zero_line_y() -> Spec:
    line = zero_line()
    return {**line, "encoding": {"y": line["encoding"]["x"]}}
