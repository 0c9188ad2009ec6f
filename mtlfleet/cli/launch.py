"""Run what a study still lacks, then judge its claims and write the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mtlfleet.cli import looks, output
from mtlfleet.errors import FleetError, UsageError, nearest
from mtlfleet.plan import Study, Trial

if TYPE_CHECKING:
    from mtlfleet.launch.driver import Outcome
    from mtlfleet.store import Store

_AXES: dict[str, Callable[[Trial], str]] = {
    "method": lambda t: t.method.name,
    "dataset": lambda t: t.dataset.name,
    "architecture": lambda t: t.architecture.name,
    "task": lambda t: t.task,
    "phase": lambda t: t.phase,
    "seed": lambda t: str(t.seed),
}


def parse_only(study: Study, text: str | None) -> Callable[[Trial], bool]:
    """``method=pcgrad|cagrad,seed=0`` as a test on trials. Raises UsageError for an axis or value the study lacks.

    ``seed`` narrows final trials only: a configuration is still chosen from all of its tuning runs.
    """
    wanted: dict[str, set[str]] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        axis, equals, values = part.strip().partition("=")
        if axis not in _AXES or not equals:
            close = nearest(axis, _AXES)
            hint = (
                f"did you mean `{close}=...`?" if close and close != axis else "for example --only method=pcgrad,seed=0"
            )
            raise UsageError(
                f"--only: `{part.strip()}` is not AXIS=VALUE with an axis of {', '.join(_AXES)}", help=hint
            )
        wanted[axis] = set(values.split("|"))
        _known(study, axis, wanted[axis])

    def test(trial: Trial) -> bool:
        return all(
            _AXES[axis](trial) in values or (axis == "seed" and trial.phase == "tune")
            for axis, values in wanted.items()
        )

    return test


def _known(study: Study, axis: str, values: set[str]) -> None:
    names = {
        "method": [m.name for m in study.methods],
        "dataset": [d.name for d in study.datasets],
        "architecture": [a.name for a in study.architectures],
        "task": [*{cell.task for cell in study.cells()}],
        "phase": ["tune", "final"],
        "seed": [str(s) for s in study.seeds],
    }[axis]
    for value in sorted(values - set(names)):
        close = nearest(value, names)
        raise UsageError(
            f"--only: this study has no {axis} `{output.printable(value)}`",
            notes=[f"it has: {', '.join(sorted(names))}"],
            help=f"did you mean `{axis}={close}`?" if close else None,
        )


@click.command(name="launch")
@click.argument("study")
@click.option("--address", default="local", metavar="ADDR", show_default=True, help="local, auto or HOST:PORT.")
@click.option("--only", metavar="AXIS=VALUE,...", help="Only these cells; several values as a|b.")
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="At most N trials at once.")
@click.option("--progress", type=click.Choice(["auto", "plain", "none"]), default="auto", show_default=True)
@click.option("--until-decided", is_flag=True, help="Look by look; stop when every claim is decided.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option("--json", "json_", is_flag=True, help="One object on stdout: mtlfleet/launch/1.")
@click.pass_context
def command(
    ctx: click.Context,
    study: str,
    address: str,
    only: str | None,
    max_concurrent: int | None,
    progress: str,
    until_decided: bool,
    dry_run: bool,
    json_: bool,
) -> None:
    """Run what STUDY still lacks; what is done stays done. Ends with verdicts and a report.

    Ctrl-C leaves checkpoints and a study that the same command resumes.
    """
    loaded = Study.load(output.study_file(study))
    wanted = parse_only(loaded, only)
    if dry_run and until_decided:
        raise UsageError("--dry-run and --until-decided exclude each other: what is needed is known from results only")
    if dry_run:
        _dry_run(loaded, wanted)
        return
    from mtlfleet.launch.driver import Options, launch

    require_mirrors(loaded)
    options = Options(address, max_concurrent, progress, wanted=wanted)
    outcome = looks.until_decided(loaded, options, launch) if until_decided else launch(loaded, options)
    conclude(ctx, study, loaded, outcome, json_)


def require_mirrors(study: Study) -> None:
    """Before hours of training, not after. Raises EnvironmentProblem when a mirror's library is missing."""
    from mtlfleet.store.mirrors import require

    for wanted in study.mirrors:
        require(wanted.kind)


def _mirror(study: Study, store: Store) -> None:
    """Copies for the trackers the study names. A tracker that fails takes nothing from the results."""
    from mtlfleet.store.mirrors import mirror

    for kind, target in study.mirrors:
        try:
            click.echo(f"mirror   {kind}: {mirror(kind, store, study.name, target)}", err=True)
        except FleetError as error:
            click.echo(f"mirror   {kind} failed: {output.printable(str(error))}", err=True)
            click.echo(f"         again: mtlfleet export {study.path} --to {kind} -o {target}", err=True)


def _dry_run(study: Study, wanted: Callable[[Trial], bool]) -> None:
    from mtlfleet.launch.queue import Queue
    from mtlfleet.store import trial_states

    queue = Queue(study, lambda ids: trial_states(study.root, study.name, ids), wanted=wanted)
    rows = []
    while (trial := queue.next()) is not None:
        rows.append((trial.id, trial.phase, trial.label, queue.states[trial.id]))
    output.emit(output.table(("trial", "phase", "label", "state"), rows))
    output.emit(f"{len(rows)} trials would run now; final trials follow as their cells' searches end")


def conclude(ctx: click.Context, given: str, study: Study, outcome: Outcome, json_: bool) -> None:
    """What a launch ends with: verdicts, report, next commands, exit code."""
    from mtlfleet.cli.verdicts import judge_and_record, print_verdicts
    from mtlfleet.store import open_store
    from mtlfleet_analysis.report import render

    store = open_store(study.root)
    verdicts = judge_and_record(study, store)
    report = render(study, store, study.folder / "report.html")
    _mirror(study, store)
    if json_:
        text = output.as_json(
            "mtlfleet/launch/1",
            study=study.name,
            states=dict(outcome.states),
            hopeless=dict(outcome.hopeless),
            ran=outcome.ran,
            seconds=round(outcome.seconds, 1),
            exit_code=outcome.exit_code,
            results=f"{study.root}/results.duckdb",
            report=str(report),
            verdicts=[v.to_dict() for v in verdicts],
        )
        output.emit(text)
    else:
        output.emit("")
        print_verdicts(verdicts)
        output.emit("")
        output.emit(f"results  {output.short_path(study.root, 'results.duckdb')}")
        output.emit(f"report   {output.short_path(report)}")
        output.emit(f"ask      mtlfleet sql {given} @leaderboard")
        _troubles(given, outcome)
    ctx.exit(outcome.exit_code)


def _troubles(given: str, outcome: Outcome) -> None:
    for cell, why in outcome.hopeless.items():
        click.echo(f"no final runs for {cell}: {why}", err=True)
    bad = {state: count for state, count in outcome.states.items() if state in ("failed", "oom")}
    if bad:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(bad.items()))
        click.echo(
            f"{counts}: see `mtlfleet status {given} --failures`, then `mtlfleet resume {given} --failed`", err=True
        )
    if outcome.stopped:
        click.echo(f"interrupted; nothing is lost: `mtlfleet launch {given}` goes on", err=True)
    elif owed := sum(
        n for state, n in outcome.states.items() if state in ("missing", "running", "lost", "interrupted")
    ):
        click.echo(f"{owed} trials have no outcome yet: `mtlfleet launch {given}` runs them", err=True)
