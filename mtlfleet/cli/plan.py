"""A study's trials, what is done already, and whether the design can answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtlfleet.cli import output
from mtlfleet.plan import Cell, Study, Trial

if TYPE_CHECKING:
    from mtlfleet_analysis.preflight import Preflight

DONE = frozenset({"done", "diverged"})


@click.command(name="plan")
@click.argument("study")
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/plan/1.")
def command(study: str, json_: bool) -> None:
    """Count the trials of the study file STUDY and look for designs that cannot answer. Nothing is run."""
    found = Study.load(output.study_file(study))
    rows = count(found)
    total = Counter[str]()
    for row in rows:
        total.update({k: row[k] for k in ("tune", "final", "done", "missing")})
    ahead = _preflights(found)
    if json_:
        warnings = [output.diagnostic_json(d) for d in found.warnings.diagnostics]
        facts = {"study": found.name, "sha256": found.sha256, "root": str(found.root), "seeds": list(found.seeds)}
        output.emit(output.as_json("mtlfleet/plan/1", **facts, cells=rows, total=dict(total), warnings=warnings,
                                   claims=[p.to_dict() for p in ahead]))  # fmt: skip
        return
    output.emit(_page(found, rows, total, ahead))
    if found.warnings.diagnostics:
        output.print_findings(found.warnings)


def count(study: Study) -> list[dict[str, Any]]:
    """One row per method, dataset and architecture: how many trials it has and how many of them have an outcome."""
    finals = _finals(study)
    tunes: dict[Cell, list[Trial]] = {}
    for trial in study.tune_trials():
        tunes.setdefault(cell_of(trial), []).append(trial)
    outcomes = _outcomes(study, [t for group in (*finals.values(), *tunes.values()) for t in group])
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in study.cells():
        row = rows.setdefault(
            cell[:3],
            {"method": cell.method, "dataset": cell.dataset, "architecture": cell.architecture,
             "configurations": len(study.configs(cell)), "tune": 0, "final": 0, "done": 0, "missing": 0},
        )  # fmt: skip
        tune, final = tunes.get(cell, []), len(study.seeds)
        done = sum(t.id in outcomes for t in tune) + min(final, sum(t.id in outcomes for t in finals[cell]))
        row["tune"] += len(tune)
        row["final"] += final
        row["done"] += done
        row["missing"] += len(tune) + final - done
    return list(rows.values())


def cell_of(trial: Trial) -> Cell:
    return Cell(trial.method.name, trial.dataset.name, trial.architecture.name, trial.task)


def _finals(study: Study) -> dict[Cell, list[Trial]]:
    """Every final trial a cell could come to: which configuration is chosen is known only after tuning."""
    return {
        cell: [study.trial(cell, i, seed, "final") for i in range(len(study.configs(cell))) for seed in study.seeds]
        for cell in study.cells()
    }


def _outcomes(study: Study, trials: Iterable[Trial]) -> frozenset[str]:
    """Ids of the trials that have run to an outcome; a file scan, no database."""
    if isinstance(study.root, Path) and not study.root.is_dir():
        return frozenset()
    from mtlfleet.store import trial_states

    states = trial_states(study.root, study.name, [t.id for t in trials])
    return frozenset(trial for trial, state in states.items() if state in DONE)


def _has_results(study: Study) -> bool:
    """Whether anything was published."""
    from mtlfleet.store.place import at

    return "results.duckdb" in at(study.root).names("")


def _preflights(study: Study) -> list[Preflight]:
    """What each claim's design can show; the noise is taken from pairs that are in the store already, else assumed."""
    if not study.claims:
        return []
    from mtlfleet_analysis.preflight import preflight

    pilot = None
    if _has_results(study):
        from mtlfleet.store import open_store
        from mtlfleet_analysis.loading import from_store

        pilot = from_store(study, open_store(study.root))
    families = Counter(claim.family for claim in study.claims)
    return [
        preflight(
            claim,
            datasets=claim.datasets or tuple(d.name for d in study.datasets),
            architectures=len(claim.architectures or study.architectures),
            seeds=len(study.seeds),
            family=families[claim.family],
            pilot=pilot,
        )
        for claim in study.claims
    ]


def _page(study: Study, rows: list[dict[str, Any]], total: Counter[str], ahead: list[Preflight]) -> str:
    names = ("method", "dataset", "architecture", "configurations", "tune", "final", "done", "missing")
    numbers = names[3:]
    sums = ("total", "", "", "", *(total[n] for n in names[4:]))
    trials = total["tune"] + total["final"]
    lines = [
        (
            f"{study.title}: {trials} trials = {total['tune']} tuning + {total['final']} final; "
            f"{total['done']} done, {total['missing']} to run"
        ),
        f"seeds {_span(study.seeds)}" + (f", tuning seeds {_span(study.tuning_seeds)}" if study.tuning_seeds else ""),
        f"results {study.root}",
        "",
        output.table(names, [*([row[n] for n in names] for row in rows), sums], right=numbers),
    ]
    claims = [line for i, found in enumerate(ahead) for line in (_claim(study, i), *_ahead(study, i, found))]
    return "\n".join([*lines, *(["", *claims] if claims else [])])


def _claim(study: Study, index: int) -> str:
    claim = study.claims[index]
    against = ", ".join(claim.baseline.best_of)
    if len(claim.baseline.best_of) > 1:
        against = f"the best of {against}"
    waived = f"; parity waived: {claim.parity_reason}" if claim.parity == "waived" else ""
    asserted = f"{claim.alternative} of {claim.method} over {against}"
    return f"claim {claim.id}: {asserted}, margin {claim.margin:g} {claim.estimand.unit}{waived}"


def _ahead(study: Study, index: int, found: Preflight) -> list[str]:
    """Resolution at every look, power at the margin, seeds that would do."""
    claim, lines = study.claims[index], []
    for look in found.looks:
        able = "can decide" if look.able else "cannot decide"
        smallest = f"smallest p {look.smallest_p:.2g}, needed {look.level:.2g}" if look.smallest_p else "a t test"
        lines.append(f"  {look.seeds} seeds: {smallest}: {able}")
    if claim.estimand.kind in ("every_task", "front_pref"):
        lines.append(f"  power: not computed for {claim.estimand.kind} claims, which ask several differences at once")
        return lines
    if found.power is None:
        lines.append(f"  power: not known before the runs (noise {found.noise})")
        return lines
    truth = f"at the margin {claim.margin:g}" if claim.alternative == "superiority" else "at no difference"
    needed = f"; 0.8 needs {found.seeds_needed} seeds" if found.seeds_needed else ""
    if found.datasets_needed:
        needed += f"{' or' if needed else '; 0.8 needs'} {found.datasets_needed} datasets"
    lines.append(f"  power {found.power:.2f} {truth} (noise {found.noise}, {found.pair_sd:.2g} a pair){needed}")
    return lines


def _span(seeds: tuple[int, ...]) -> str:
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}..{seeds[-1]}"
    return ", ".join(map(str, seeds[:12])) + (", ..." if len(seeds) > 12 else "")
