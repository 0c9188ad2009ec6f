"""A figure: its specification as data, drawn as inline SVG, and the sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mtlfleet_analysis.report.svg import draw
from mtlfleet_analysis.report.vega import Spec


@dataclass(frozen=True)
class Figure:
    """``name`` is unique on the page; ``spec`` is Vega-Lite, complete in itself."""

    name: str
    spec: Spec
    svg: Markup
    caption: str
    description: str

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "caption": self.caption, "description": self.description, "spec": self.spec}


def figure(spec: Spec, name: str, description: str, caption: str) -> Figure:
    return Figure(name, spec, draw(spec, name, description), caption, description)


def figures_in(content: Any) -> Iterator[Figure]:
    """Every figure of the page's content, in its order."""
    if isinstance(content, Figure):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from figures_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from figures_in(value)
