"""The report: one HTML page, complete in itself: no script, no request, the same bytes for the same store."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from mtlfleet.plan.claims import PROTOCOL_VERSION
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.report.content import content
from mtlfleet_analysis.report.palette import DARK
from mtlfleet_analysis.report.svg import clean
from mtlfleet_analysis.verdict import Verdict

if TYPE_CHECKING:
    from mtlfleet.plan import Study
    from mtlfleet.store import Store
    from mtlfleet_analysis.loading import Asked

FOLDER = Path(__file__).parent


def render(study: Study | Asked, store: Store, out: Path | str) -> Path:
    """Judge the study's claims and write the page to ``out``; returns its path."""
    from mtlfleet_analysis.loading import from_store

    evidence = from_store(study, store)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_text(page(evidence, judge_evidence(evidence, study.claims)), encoding="utf-8")
    part.replace(out)
    return out


def page(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """The page itself. A pure function: no clock, no file but the template and the style sheet."""
    style = _style()
    return (
        _environment()
        .get_template("page.html")
        .render(
            **content(evidence, verdicts),
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            protocol=PROTOCOL_VERSION,
        )
    )


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
