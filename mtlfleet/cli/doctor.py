"""``mtlfleet doctor``: is this machine fit, and is this store sound."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlfleet.cli import output
from mtlfleet.errors import EnvironmentProblem, StoreDamaged, UsageError

if TYPE_CHECKING:
    from mtlfleet.store.checks import Problem
    from mtlfleet.store.doctor import Examined
    from mtlfleet.store.store import Store

_MARKS = {"ok": "ok    ", "absent": "-     ", "wrong": "WRONG "}


@click.command("doctor")
@click.argument("study", type=click.Path(path_type=Path), required=False)
@click.option("--repair", "mend", is_flag=True, help="Put damaged trials into quarantine; the next launch runs them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path | None, mend: bool, as_json: bool) -> None:
    """Check this machine; with STUDY (a study file or a store folder), check its results instead.

    A store is read whole: segments, claims, documents, and the published file against them. Exit code 4: the machine
    lacks something; 7: the store is damaged.
    """
    if study is None:
        if mend:
            raise UsageError("--repair mends a store", help="mtlfleet doctor STUDY --repair")
        _machine(as_json)
    else:
        _store(study, mend, as_json)


def _machine(as_json: bool) -> None:
    from mtlfleet.cli.environment import checks

    found = []
    for check in checks(Path.cwd() / "runs"):
        found.append(check)
        if not as_json:
            advice = f"  ({output.printable(check.help)})" if check.help else ""
            click.echo(f"{_MARKS[check.state]} {check.name:<18} {output.printable(check.found)}{advice}")
    if as_json:
        click.echo(output.as_json("mtlfleet/doctor/1", checks=[check._asdict() for check in found]))
    wrong = [check.name for check in found if check.state == "wrong"]
    if wrong:
        raise EnvironmentProblem(f"this machine lacks what mtlfleet needs: {', '.join(wrong)}")


def _store(study: Path, mend: bool, as_json: bool) -> None:
    from mtlfleet.store.doctor import examine, repair
    from mtlfleet.store.mirror import whole
    from mtlfleet.store.store import open_store

    store = open_store(study)
    site = _site(store) if mend else None
    with whole(store.root) as folder:
        found, moved = examine(folder), list[str]()
    left = list(found.problems)
    if site is not None and left:
        with _no_launch(site):
            moved, left = repair(store.root, found, store.max_bytes)
    if as_json:
        fields = {
            "root": str(store.root), "segments": found.segments, "rows": found.rows, "attempts": found.claims,
            "documents": found.documents, "problems": [p._asdict() for p in found.problems],
            "moved": [f"{store.root}/{key}" for key in moved], "left": [p._asdict() for p in left],
        }  # fmt: skip
        click.echo(output.as_json("mtlfleet/doctor-store/1", **fields))
    else:
        _tell(study, found, [output.short_path(store.root, key) for key in moved], mend=mend)
    if left:
        raise _damage(study, left, mended=mend)


def _site(store: Store) -> Path:
    """Where a launch of this store would be seen."""
    if store.site is None:
        raise UsageError(
            f"--repair: {store.root} does not say where its launch runs, and none may run meanwhile",
            help="name the study file: mtlfleet doctor STUDY.yaml --repair",
        )
    return store.site


def _tell(study: Path, found: Examined, moved: list[str], *, mend: bool) -> None:
    click.echo(
        f"read {found.segments} segments with {found.rows} rows, {found.claims} attempts, {found.documents} documents"
    )
    for problem in found.problems:
        click.echo(f"{problem.kind:<14} {output.printable(problem.path)}: {output.printable(problem.message)}")
    if not found.problems:
        click.echo("no problem found")
    elif mend:
        for path in moved:
            click.echo(f"{'quarantined':<14} {output.printable(path)}")
        again = {p.trial for p in found.problems if p.trial}
        click.echo(
            f"{len(again)} trial{'s' if len(again) != 1 else ''} will run again: mtlfleet launch {study}"
            if again
            else f"results.duckdb was made anew: mtlfleet sql {study} @health"
        )


def _damage(study: Path, left: list[Problem], *, mended: bool) -> StoreDamaged:
    count = f"{len(left)} problem{'s' if len(left) != 1 else ''}"
    if not mended:
        return StoreDamaged(
            f"{count} in this store", notes=["nothing was changed"], help=f"mtlfleet doctor {study} --repair"
        )
    return StoreDamaged(
        f"{count} cannot be repaired: {', '.join(sorted({p.path for p in left})[:5])}",
        notes=["registrations of claims are evidence and are never moved"],
        help="restore those files from a backup",
    )


@contextmanager
def _no_launch(site: Path) -> Iterator[None]:
    """No launch may write while files are moved."""
    from mtlfleet.launch.drain import LOCK

    site.mkdir(parents=True, exist_ok=True)
    with (site / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EnvironmentProblem(
                f"a launch works on {site}", help="wait for it, or end it with `mtlfleet stop STUDY`"
            ) from None
        yield
