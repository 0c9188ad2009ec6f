"""The report: one HTML page, complete in itself: no request, no chart code, the same bytes for the same store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.report.content import content
from mtlfleet_analysis.report.drawing import Figure, figures_in
from mtlfleet_analysis.report.pages import figures_as_data, interactive_page, static_page
from mtlfleet_analysis.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtlfleet.plan import Study
    from mtlfleet.plan.claims import Claim
    from mtlfleet.store import Store
    from mtlfleet_analysis.loading import Asked

__all__ = ["Made", "make", "of_evidence", "page", "render"]


@dataclass(frozen=True)
class Made:
    """A report before it is written."""

    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    html: str
    figures: tuple[Figure, ...]

    def write(self, out: Path, *, interactive: bool = False) -> tuple[Path, ...]:
        """The page at ``out``, its figures as data beside it, and the interactive page if asked; gives their paths.

        A file that says the same already is left alone; another one is replaced whole.
        """
        texts = {out: self.html, out.with_suffix(".figures.json"): figures_as_data(self.figures)}
        if interactive:
            title = self.evidence.title or self.evidence.study
            texts[out.with_suffix(".interactive.html")] = interactive_page(title, self.figures)
        for path, text in texts.items():
            _replace(path, text)
        return tuple(texts)


def make(study: Study | Asked, store: Store) -> Made:
    """Judge the study's claims and lay out the page."""
    from mtlfleet_analysis.loading import from_store

    return of_evidence(from_store(study, store), study.claims)


def render(study: Study | Asked, store: Store, out: Path | str, *, interactive: bool = False) -> Path:
    """Judge the study's claims and write the page to ``out``; returns its path."""
    return make(study, store).write(Path(out), interactive=interactive)[0]


def page(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """The page itself. A pure function: no clock, no file but the template, the style sheet and the script."""
    return static_page(content(evidence, verdicts))


def of_evidence(evidence: Evidence, claims: Sequence[Claim]) -> Made:
    """The same of evidence that is at hand."""
    verdicts = judge_evidence(evidence, claims)
    parts = content(evidence, verdicts)
    return Made(evidence, verdicts, static_page(parts), tuple(figures_in(parts)))


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
