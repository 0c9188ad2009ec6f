"""Specifications to SVG that may stand inside a page: known elements and attributes only, ids of its own, no links."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import vl_convert
from markupsafe import Markup

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {
    "svg",
    "g",
    "path",
    "rect",
    "line",
    "circle",
    "text",
    "tspan",
    "defs",
    "clipPath",
    "linearGradient",
    "stop",
    "title",
}
ATTRIBUTES = {
    "viewBox",
    "width",
    "height",
    "d",
    "x",
    "y",
    "x1",
    "y1",
    "x2",
    "y2",
    "dx",
    "dy",
    "cx",
    "cy",
    "r",
    "rx",
    "ry",
    "transform",
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-width",
    "stroke-opacity",
    "stroke-dasharray",
    "stroke-miterlimit",
    "stroke-linecap",
    "opacity",
    "font-family",
    "font-size",
    "font-weight",
    "font-style",
    "text-anchor",
    "clip-path",
    "id",
    "class",
    "offset",
    "display",
    "stop-color",
    "gradientUnits",
}
READABLE = 450  # pixels; a wider drawing is scrolled on a phone, where the page would shrink its text to nothing
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")


def clean(text: str, limit: int = 2000) -> str:
    """Text without control, bidirectional-override and unpaired characters: what a log or label may hide."""
    kept = (c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "�" for c in text)
    found = "".join(kept)
    return found if len(found) <= limit else found[: limit - 1] + "…"


def clean_values(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, 200)
    if isinstance(value, dict):
        return {k: clean_values(v) for k, v in value.items()}
    return [clean_values(v) for v in value] if isinstance(value, list) else value


def draw(spec: dict[str, Any], name: str, description: str) -> Markup:
    """Inline SVG of a Vega-Lite specification. ``name`` keeps its ids apart from other figures'; no data is fetched."""
    return inline(drawing(json.dumps(clean_values(spec))), name, description)


@lru_cache(maxsize=512)
def drawing(spec: str) -> str:
    """SVG text of a specification; a report that is drawn again during a run draws only what changed."""
    found: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return found


def inline(text: str, name: str, description: str) -> Markup:
    """A drawn SVG made fit for the page. Raises ValueError for an element that has no business in a figure."""
    root = ElementTree.fromstring(text)
    for element in root.iter():
        tag = str(element.tag).removeprefix(SVG)
        if tag not in ELEMENTS:
            raise ValueError(f"figure {name}: unexpected element <{tag}> in the drawing")
        element.tag = tag
        for key in list(element.attrib):
            value = element.attrib[key]
            if key not in ATTRIBUTES:  # labels for screen readers too: one for the whole figure instead of hundreds
                del element.attrib[key]
            elif key == "id":
                element.attrib[key] = f"{name}-{value}"
            elif key == "clip-path" or "url(" in value:
                element.attrib[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
    root.set("role", "img")
    root.set("aria-label", clean(description, 300))
    wide = float(root.get("width", "0")) > READABLE
    root.set("class", "drawing wide" if wide else "drawing")
    return Markup(ElementTree.tostring(root, encoding="unicode"))
