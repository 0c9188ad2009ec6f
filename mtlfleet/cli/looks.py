"""A launch that stops at the first look at which every claim is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mtlfleet.errors import UsageError
from mtlfleet.plan import Study, Trial

if TYPE_CHECKING:
    from mtlfleet.launch.driver import Options, Outcome
    from mtlfleet_analysis.verdict import Verdict

DECIDED = ("supported", "refuted")


def until_decided(study: Study, options: Options, launch: Callable[[Study, Options], Outcome]) -> Outcome:
    """Launch the seeds of one scheduled look after the other, judge between them, and end when nothing is open.

    Exploratory claims are not waited for; one that a guard stops, or that looks once, keeps all seeds running. Raises
    UsageError where no claim declares looks.
    """
    looks = sorted({n for claim in study.claims for n in claim.stopping.looks})
    if not looks:
        raise UsageError(
            "--until-decided: no claim of this study is looked at more than once",
            help="stopping: {kind: group_sequential, looks: [5, 10, 20], alpha: [0.01, 0.015, 0.025]}",
        )
    for count in sorted({*looks, len(study.seeds)}):
        seeds = frozenset(study.seeds[:count])
        outcome = launch(study, replace(options, wanted=_until(options.wanted, seeds)))
        if outcome.exit_code or count == len(study.seeds):
            break
        verdicts = _judged(study)
        still_open = [v.claim_id for v in verdicts if not v.claim.exploratory and v.verdict not in DECIDED]
        if not still_open:
            _say(study, count)
            break
        click.echo(f"{count} seeds: still open: {', '.join(still_open)}", err=True)
    return outcome


def _until(wanted: Callable[[Trial], bool], seeds: frozenset[int]) -> Callable[[Trial], bool]:
    return lambda trial: wanted(trial) and (trial.phase == "tune" or trial.seed in seeds)


def _judged(study: Study) -> Sequence[Verdict]:
    from mtlfleet.store import open_store
    from mtlfleet_analysis.judging import judge

    return judge(study, open_store(study.root))


def _say(study: Study, seeds: int) -> None:
    """What was not run, for no claim needs it."""
    from mtlfleet.cli.plan import count

    left = sum(int(row["missing"]) for row in count(study))
    spared = f"; {left} trials have not run and need not (`mtlfleet launch {study.path}` runs them)" if left else ""
    click.echo(f"every claim is decided after {seeds} of {len(study.seeds)} seeds{spared}", err=True)
