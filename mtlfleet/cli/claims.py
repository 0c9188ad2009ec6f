"""``mtlfleet claims``: the verdicts on a study's claims; lock them, check them, explain one."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from mtlfleet.cli import output
from mtlfleet.cli.verdicts import WIDTH, chip, judge_and_record, print_verdicts, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mtlfleet_analysis.loading import Asked
    from mtlfleet_analysis.verdict import Verdict

NOT_SUPPORTED = 6


@click.command("claims")
@click.argument("study")
@click.option("--lock", is_flag=True, help="Register the claims as they stand; do it before the final runs.")
@click.option("--check", is_flag=True, help="Exit with 6 when a locked claim is not supported.")
@click.option("--explain", metavar="ID", help="Everything behind the verdict on one claim.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, study: str, lock: bool, check: bool, explain: str | None, as_json: bool) -> None:
    """Judge the claims of STUDY (a study file or a store folder) by the rules in analysis/README.md.

    Verdicts are written to the store, where `mtlfleet sql STUDY @verdicts` finds them.
    """
    from mtlfleet.errors import UsageError

    if lock + check + (explain is not None) > 1:
        raise UsageError("--lock, --check and --explain exclude each other")
    if lock:
        _lock(study, as_json)
        return
    asked, store = asked_for(study)
    verdicts = judge_and_record(asked, store)
    shown = [v for v in verdicts if explain in (None, v.claim_id)]
    if explain is not None and not shown:
        raise _unknown(explain, [v.claim_id for v in verdicts])
    if as_json:
        rows = [v.to_row() for v in shown]
        click.echo(output.as_json("mtlfleet/claims/1", study=asked.name, root=str(store.root), verdicts=rows))
    elif explain is not None:
        _explain(shown[0])
    else:
        print_verdicts(shown)
    if check and not _all_supported(verdicts):
        ctx.exit(NOT_SUPPORTED)


def asked_for(study: str) -> tuple[Asked, Any]:
    """What the study asks, and its open store."""
    from mtlfleet.store import open_store
    from mtlfleet_analysis.loading import asked_by, asked_of_store

    path = output.study_or_store(study)
    store = open_store(path)
    if isinstance(path, str) or path.is_dir():
        return asked_of_store(store, store.one_study()), store
    from mtlfleet.plan import Study

    return asked_by(Study.load(path)), store


def _lock(study: str, as_json: bool) -> None:
    from mtlfleet.errors import UsageError
    from mtlfleet.launch.documents import lock_claims
    from mtlfleet.plan import Study

    loaded = Study.load(output.study_file(study))
    if not loaded.claims:
        raise UsageError(f"{study} claims nothing", help="add `claims:` to the study file")
    fresh = lock_claims(loaded.claims, loaded.name, loaded.sha256, loaded.root)
    kept = [c.id for c in loaded.claims if c.id not in fresh]
    if as_json:
        click.echo(output.as_json("mtlfleet/claims-lock/1", study=loaded.name, locked=list(fresh), unchanged=kept))
        return
    for name in fresh:
        click.echo(f"locked     {output.printable(name)}")
    for name in kept:
        click.echo(f"unchanged  {output.printable(name)}")


def _unknown(name: str, known: list[str]) -> Exception:
    from mtlfleet.errors import UsageError, nearest

    close = nearest(name, known)
    return UsageError(
        f"no claim `{output.printable(name)}`",
        notes=[f"claims: {', '.join(known) or 'none'}"],
        help=f"did you mean `{close}`?" if close else None,
    )


def _all_supported(verdicts: tuple[Verdict, ...]) -> bool:
    """Whether every locked claim is supported, and there is one."""
    locked = [v for v in verdicts if v.detail["standing"]["number"] is not None]
    failing = [v.claim_id for v in locked if v.verdict != "supported"]
    if not locked:
        click.echo("check: no claim is locked", err=True)
    elif failing:
        click.echo(f"check: not supported: {', '.join(map(output.printable, failing))}", err=True)
    return bool(locked) and not failing


def _explain(verdict: Verdict) -> None:
    """The whole case, in sections that fit 80 columns."""
    from mtlfleet_analysis.report.cards import facts
    from mtlfleet_analysis.sentences import number, p_text, short_unit, signed

    detail, unit = verdict.detail, short_unit(verdict.unit)
    click.echo(f"{output.printable(verdict.claim_id)}: {chip(verdict)}")
    if verdict.claim.question:
        click.echo(wrapped(verdict.claim.question))
    click.echo(wrapped(verdict.sentence) + "\n")
    for guard in verdict.guards:
        click.echo(wrapped(f"! {guard}"))
    for name, value in facts(verdict):
        lines = textwrap.wrap(output.printable(value), WIDTH - 29) or [""]
        click.echo(f"  {name:<26} {lines[0]}" + "".join(f"\n{'':29}{line}" for line in lines[1:]))
    if detail["effects"]:
        rows = [[name, signed(e)] for name, e in detail["effects"].items()]
        click.echo("\n" + output.table(["dataset", f"effect ({unit})"], rows, [f"effect ({unit})"]))
    chosen = [c for c in detail["choices"] if c["scores"]]
    if chosen:
        rows = [
            [f"{c['dataset']}/{c['architecture']}", str(c["baseline"]), _scores(c["scores"], number)] for c in chosen
        ]
        click.echo("\n" + output.table(["place", "baseline", "on validation"], rows))
    if detail.get("sensitivity"):
        rows = [[r["analysis"], signed(r["effect"]), p_text(r["p"]), r["verdict"]] for r in detail["sensitivity"]]
        click.echo("\n" + output.table(["other analysis", "effect", "p", "verdict"], rows, ["effect"]))
    _parts(detail)


def _parts(detail: Mapping[str, Any]) -> None:
    """Tasks of a safety claim, preferences of a front, tasks behind a supported average, earlier wordings."""
    from mtlfleet_analysis.sentences import number, p_text, signed

    if detail.get("tasks"):
        rows = [[r["task"], signed(r["effect"]), p_text(r["p_safe"]), p_text(r["p_unsafe"])] for r in detail["tasks"]]
        click.echo("\n" + output.table(["every task", "effect", "safe", "unsafe"], rows, ["effect"]))
    if front := detail.get("front"):
        rows = [[_preference(r["w"]), p_text(r["p"]), number(r["eps_grid"])] for r in front["preferences"]]
        click.echo("\n" + output.table(["preference", "p", "bulge of the sweep"], rows, ["bulge of the sweep"]))
    if detail.get("follow_ups"):
        rows = [
            [r["task"], signed(r["effect"]), p_text(r["p_adjusted"]), "yes" if r["supported"] else "no"]
            for r in detail["follow_ups"]
        ]
        click.echo("\n" + output.table(["on its own", "effect", "Holm", "supported"], rows, ["effect"]))
    if detail["amended"]:
        rows = [[f"@{a['number']}", a["registered_at"], a["replaced_at"], str(a["runs"])] for a in detail["amended"]]
        click.echo("\n" + output.table(["earlier wording", "locked", "replaced", "final runs by then"], rows))


def _preference(weights: Any) -> str:
    return weights if isinstance(weights, str) else ", ".join(f"{task} {w:g}" for task, w in weights.items())


def _scores(scores: Mapping[str, float], number: Callable[[float], str]) -> str:
    return ", ".join(f"{method} {number(score)}" for method, score in scores.items())
