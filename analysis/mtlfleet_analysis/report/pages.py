"""Templates to pages: what runs in them is named by hash in their policy, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mtlfleet.plan.claims import PROTOCOL_VERSION
from mtlfleet_analysis.report.drawing import Figure
from mtlfleet_analysis.report.palette import DARK
from mtlfleet_analysis.report.svg import clean, clean_values

FOLDER = Path(__file__).parent


def static_page(content: Mapping[str, Any]) -> str:
    """The report. Its only script sorts tables."""
    script = (FOLDER / "sort.js").read_text(encoding="utf-8")
    return _page("page.html", [script], **content, script=Markup(script), protocol=PROTOCOL_VERSION)


def interactive_page(title: str, figures: Sequence[Figure]) -> str:
    """The figures drawn by Vega in the reader's browser: values on hover, zoom where there are two axes.

    Vega compiles its expressions, so this page's policy has to allow eval; the report itself does not.
    """
    bundle, driver = _bundle(), (FOLDER / "interactive.js").read_text(encoding="utf-8")
    data = json.dumps([clean_values(f.to_dict()) for f in figures], ensure_ascii=False, sort_keys=True)
    return _page(
        "interactive.html",
        [bundle, driver],
        allowed=" 'unsafe-eval'",
        title=title,
        figures=figures,
        bundle=Markup(bundle),
        driver=Markup(driver),
        data=Markup(data.replace("<", "\\u003c")),
    )


def _page(template: str, scripts: Sequence[str], allowed: str = "", **content: Any) -> str:
    """A page whose policy names its style sheet and its scripts by hash, and beyond them only what is ``allowed``."""
    style = _style()
    sources = " ".join(f"'sha256-{hash_of(script)}'" for script in scripts) + allowed
    look = {"style": Markup(style), "style_hash": hash_of(style), "scripts": Markup(sources)}
    return _environment().get_template(template).render(**content, **look)


def figures_as_data(figures: Sequence[Figure]) -> str:
    """All specifications, for diffs, tests and other renderers."""
    rows = [clean_values(f.to_dict()) for f in figures]
    return json.dumps({"schema": "mtlfleet/figures/1", "figures": rows}, ensure_ascii=False, indent=1) + "\n"


def hash_of(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _bundle() -> str:
    """Vega and Vega-Lite in one script, as vl-convert ships them."""
    import vl_convert

    found: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return found.replace("</script", "<\\/script")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def _finalize(value: Any) -> Any:
    """Every text that reaches the page loses its control and direction-override characters first."""
    return clean(value, 20_000) if isinstance(value, str) and not isinstance(value, Markup) else value


def _style() -> str:
    """The style sheet; in the dark, the figures' colours are exchanged by their attribute values."""
    dark = "\n".join(
        f'  svg [{kind}="{light}"] {{ {kind}: {dark}; }}' for light, dark in DARK.items() for kind in ("fill", "stroke")
    )
    return (FOLDER / "style.css").read_text(encoding="utf-8").replace("{{ dark }}", dark)
