"""Figures about fronts: a claim's preference and what must be beaten, and pairs of many tasks; plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from mtlfleet_analysis.fronts import Front, Line, weighed
from mtlfleet_analysis.readings import Tradeoff
from mtlfleet_analysis.report.method_figures import method_colours, method_shapes, pareto
from mtlfleet_analysis.report.palette import INK, PAPER, RULE
from mtlfleet_analysis.report.vega import Spec, amount, extent, names, spec

MOST_TASKS = 5  # of a scatter matrix; more pairs than ten are no picture


def front(found: Front, methods: Sequence[str], title: str) -> Spec:
    """Two tasks, percent changes on test: each preference's line through the best point of the sweep, and its eps."""
    drawn = pareto(found.tradeoff, methods, title)
    at = drawn["layer"][0]["encoding"]
    domains = [at[axis]["scale"]["domain"] for axis in ("x", "y")]
    reach = math.hypot(*(high - low for low, high in domains))
    centre = [(low + high) / 2 for low, high in domains]
    layers: list[Spec] = []
    for j, line in enumerate(found.lines):
        ends, beyond = _edges(line, found.eps, centre, reach)
        polygon = [{"x": x, "y": y, "corner": i} for i, (x, y) in enumerate((*ends, *beyond[::-1]))]
        place: Spec = {**{axis: _bare(at[axis]) for axis in ("x", "y")}, "order": {"field": "corner"}}
        area = {"type": "line", "interpolate": "linear-closed", "fill": RULE, "fillOpacity": 0.9, "strokeWidth": 0}
        rule = {"type": "line", "stroke": INK, "strokeWidth": 1.2, "opacity": 0.8 if j == 0 else 0.45}
        layers += [
            {"data": {"values": polygon}, "mark": {**area, "clip": True}, "encoding": place},
            {"data": {"values": polygon[:2]}, "mark": {**rule, "clip": True}, "encoding": place},
        ]
    bands, rules = layers[::2], layers[1::2]
    return {**drawn, "layer": [*bands, *rules, *drawn["layer"]]}


def _bare(channel: Spec) -> Spec:
    return {"field": channel["field"], "type": "quantitative", "scale": channel["scale"]}


def _edges(line: Line, eps: float, centre: Sequence[float], reach: float) -> tuple[list[tuple[float, float]], ...]:
    """Two ends each of the line and of the line that is ``eps`` further, long enough to cross the panel."""
    a, b = line.weights
    size = a * a + b * b

    def ends(level: float) -> list[tuple[float, float]]:
        off = (level - a * centre[0] - b * centre[1]) / size
        foot = (centre[0] + off * a, centre[1] + off * b)
        step = reach / math.sqrt(size)
        return [(foot[0] + sign * step * b, foot[1] - sign * step * a) for sign in (-1, 1)]

    return ends(line.level), ends(line.level + eps)


def preferred(found: Front, methods: Sequence[str], title: str) -> Spec:
    """Any number of tasks: scores under the preference that speaks loudest, a row a point; what must be beaten."""
    line = found.lines[0]
    rows: list[Spec] = [
        {"method": p.method, "kind": p.kind, "score": weighed(line.weights, p.values)}
        for p in found.tradeoff.points
        if p.kind in ("seed", "mean")
    ]
    order = list(dict.fromkeys(r["method"] for r in rows))
    bounds: Spec = {"level": line.level, "beyond": line.level + found.eps}
    domain = extent([*bounds.values(), *(r["score"] for r in rows)])
    x = amount("score", domain, "change under the preference (%) →", tickCount=6)
    colour = {"field": "method", "type": "nominal", "scale": method_colours(methods), "legend": None}
    band = {"x": {**_bare(x), "field": "level"}, "x2": {"field": "beyond"}}
    marks: tuple[tuple[str, Spec, Spec], ...] = (
        ("seed", {"type": "point", "shape": "cross", "filled": True, "size": 30, "opacity": 0.45}, {}),
        (
            "mean",
            {"type": "point", "filled": True, "size": 120, "opacity": 1, "stroke": PAPER, "strokeWidth": 1.2},
            {"shape": {**colour, "scale": method_shapes(methods)}},
        ),
    )
    return spec(
        title=title,
        width=330,
        height={"step": 26},
        layer=[
            {"data": {"values": [bounds]}, "mark": {"type": "rect", "color": RULE}, "encoding": band},
            {
                "data": {"values": [bounds]},
                "mark": {"type": "rule", "color": INK, "strokeWidth": 1.2},
                "encoding": {"x": band["x"]},
            },
            *(
                {
                    "data": {"values": [r for r in rows if r["kind"] == kind]},
                    "mark": mark,
                    "encoding": {"x": x, "y": names("method", order), "color": colour, **more},
                }
                for kind, mark, more in marks
            ),
        ],
    )


def matrix(tradeoff: Tradeoff, methods: Sequence[str], title: str) -> Spec:
    """More than two tasks: every pair of them, up and right better. What all tasks decide is joined by no line."""
    panels = []
    for i, j in combinations(range(len(tradeoff.tasks)), 2):
        points = tuple(
            replace(p, values=(p.values[i], p.values[j]), kind="tried" if p.kind == "front" else p.kind)
            for p in tradeoff.points
        )
        pair = replace(
            tradeoff, tasks=(tradeoff.tasks[i], tradeoff.tasks[j]), up=(tradeoff.up[i], tradeoff.up[j]), points=points
        )
        drawn = pareto(pair, methods, "", ticks=3)
        panels.append({**{k: drawn[k] for k in ("data", "layer")}, "width": 190, "height": 160})
    shared = {"color": "shared", "shape": "shared"}
    return spec(
        title=title, concat=panels, columns=2 if len(panels) == 2 else 3, spacing=18,
        resolve={"scale": shared, "legend": shared},
    )  # fmt: skip
