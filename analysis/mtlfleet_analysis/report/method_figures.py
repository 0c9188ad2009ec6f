"""Figures about methods, as Vega-Lite specifications: plain data, one function each."""

from __future__ import annotations

from collections.abc import Sequence

from mtlfleet_analysis.readings import Change, Tradeoff
from mtlfleet_analysis.report.palette import BLUE, INK, MARKS, METHODS, MUTED, ORANGE, PAPER
from mtlfleet_analysis.report.vega import Spec, amount, extent, names, spec


# A method looks the same in every figure of a page: the scales' domains are all methods of the study, whoever is shown.
def method_shapes(methods: Sequence[str]) -> Spec:
    return {"domain": list(methods), "range": [MARKS[i % len(MARKS)] for i in range(len(methods))]}


def method_colours(methods: Sequence[str]) -> Spec:
    return {"domain": list(methods), "range": [METHODS[i % len(METHODS)] for i in range(len(methods))]}


def method_legend(shown: Sequence[str]) -> Spec:
    return {**METHOD_LEGEND, "values": list(shown)}


METHOD_LEGEND: Spec = {
    "title": None, "orient": "bottom", "columns": 4, "symbolOpacity": 1, "symbolStrokeWidth": 2,
}  # fmt: skip


def pareto(tradeoff: Tradeoff, methods: Sequence[str], title: str, ticks: int = 5) -> Spec:
    """Two tasks, validation: configurations tried, the front among them joined, seeds and means. Up-right is better.

    Only configurations that nothing of the same baseline beats are joined, so that a line never links two learning
    rates; a declared sweep of weights is joined through the means of its final runs, in the order of the weights.
    """
    rows = _within(
        [{"method": p.method, "kind": p.kind, "x": p.values[0], "y": p.values[1], "label": p.label, "order": i}
         for i, p in enumerate(tradeoff.points)]
    )  # fmt: skip
    shown = [m for m in methods if any(r["method"] == m for r in rows)]
    colour = {"field": "method", "type": "nominal", "scale": method_colours(methods), "legend": method_legend(shown)}
    shape = {**colour, "scale": method_shapes(methods)}
    at = {"x": _axis(tradeoff, 0, "x", rows, ticks), "y": _axis(tradeoff, 1, "y", rows, ticks)}
    hollow = {"type": "point", "filled": False, "size": 26, "opacity": 0.9}
    disc = {"type": "point", "filled": True, "size": 120, "opacity": 1, "stroke": PAPER, "strokeWidth": 1.2}
    joined = {"type": "line", "strokeWidth": 1.5, "opacity": 0.7}
    dashed = {"type": "line", "strokeWidth": 1.5, "color": MUTED, "strokeDash": [5, 3]}
    by_weight = {"order": {"field": "order"}, "detail": {"field": "label"}}
    seed = {"type": "point", "shape": "cross", "filled": True, "size": 30, "opacity": 0.45}
    layers: tuple[tuple[str, Spec, Spec], ...] = (
        ("datum.kind == 'front'", joined, {"color": colour, "order": {"field": "x"}}),
        ("datum.kind == 'weight'", dashed, by_weight),
        ("datum.kind == 'front' || datum.kind == 'tried'", hollow, {"color": colour}),
        ("datum.kind == 'seed'", seed, {"color": colour}),
        ("datum.kind == 'mean'", disc, {"color": colour, "shape": shape}),
    )
    return spec(
        title=title,
        data={"values": rows},
        width=330,
        height=260,
        layer=[
            {"transform": [{"filter": test}], "mark": mark, "encoding": {**at, **more}} for test, mark, more in layers
        ],
    )


def _within(rows: list[Spec]) -> list[Spec]:
    """Without the configurations that were tried and lie far from every final run: they would squeeze what matters."""
    final = [r for r in rows if r["kind"] in ("seed", "mean")]
    if not final:
        return rows
    spans = {axis: extent([r[axis] for r in final], 0.35) for axis in ("x", "y")}

    def near(r: Spec) -> bool:
        return all(low <= r[axis] <= high for axis, (low, high) in spans.items())

    return [r for r in rows if r["kind"] not in ("tried", "front") or near(r)]


def _axis(tradeoff: Tradeoff, index: int, field: str, rows: Sequence[Spec], ticks: int) -> Spec:
    """One task's primary metric, turned so that further out is better."""
    (task, metric), up = tradeoff.tasks[index], tradeoff.up[index]
    title = f"{task} {metric} ({'higher' if up else 'lower'} is better)"
    domain = extent([r[field] for r in rows])
    return amount(field, domain, title, reverse=not up, tickCount=ticks, format=".3~g", gridOpacity=0.6)


def parallel(tradeoff: Tradeoff, methods: Sequence[str], title: str) -> Spec:
    """More than two tasks: each task's primary metric scaled to the best and worst mean; up is better."""
    means = [p for p in tradeoff.points if p.kind == "mean"]
    columns = list(zip(*(p.values for p in means), strict=True))
    rows = []
    for p in means:
        for i, (task, metric) in enumerate(tradeoff.tasks):
            low, high = min(columns[i]), max(columns[i])
            share = (p.values[i] - low) / (high - low) if high > low else 0.5
            rows.append(
                {"method": p.method, "task": f"{task} {metric}", "height": share if tradeoff.up[i] else 1 - share}
            )
    shown = [m for m in methods if any(p.method == m for p in means)]
    y = {
        "field": "height",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": {"title": "worst mean → best mean", "values": [0, 0.5, 1], "labels": False, "gridOpacity": 0.6},
    }
    x = {"field": "task", "type": "nominal", "sort": None, "axis": {"title": None, "labelAngle": 0, "grid": True}}
    colour = {
        "field": "method",
        "type": "nominal",
        "scale": method_colours(methods),
        "legend": method_legend(shown),
    }
    return spec(
        title=title,
        data={"values": rows},
        width=max(330, 110 * len(tradeoff.tasks)),
        height=240,
        encoding={"x": x, "y": y, "color": colour},
        layer=[
            {"mark": {"type": "line", "strokeWidth": 2, "opacity": 0.85}},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"shape": {**colour, "scale": method_shapes(methods)}},
            },
        ],
    )


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def heat(changes: Sequence[Change], methods: Sequence[str], title: str) -> Spec:
    """Signed percent against single-task learning, a column a task and metric; pale where the interval covers zero."""
    top = max((abs(c.mean) for c in changes), default=1.0) or 1.0
    rows: list[Spec] = [
        {
            "method": c.method,
            "column": f"{c.task} {c.metric}",
            "text": _signed(c.mean),
            "value": c.mean,
            "sure": int(c.sure),
        }
        for c in changes
    ]
    columns = list(dict.fromkeys(r["column"] for r in rows))
    hue = {"domain": [-top, 0, top], "range": [ORANGE, "#c9ced6", BLUE], "interpolate": "lab"}
    pale = {"domain": [0, 1], "range": [0.18, 0.62]}
    cell = {
        "color": {"field": "value", "type": "quantitative", "legend": None, "scale": hue},
        "opacity": {"field": "sure", "type": "quantitative", "legend": None, "scale": pale},
    }
    ink = {"condition": {"test": "datum.sure == 1", "value": INK}, "value": MUTED}
    return spec(
        title=title,
        data={"values": rows},
        width={"step": 74},
        height={"step": 30},
        encoding={
            "x": names("column", columns, orient="top", labelAngle=-30, labelAlign="left", labelColor=MUTED),
            "y": names("method", methods),
        },
        layer=[
            {"mark": {"type": "rect", "stroke": PAPER, "strokeWidth": 2, "cornerRadius": 3}, "encoding": cell},
            {"mark": {"type": "text", "fontSize": 12}, "encoding": {"text": {"field": "text"}, "color": ink}},
        ],
    )
