"""``mtlfleet export``: the results as files for other programs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from mtlfleet.plan.mirrors import Kind

if TYPE_CHECKING:
    from mtlfleet.store.store import Session, Store

SUFFIX = {"parquet": "parquet", "csv": "csv", "latex": "tex", "markdown": "md"}
TABLES = (
    "studies", "trials", "attempts", "environments", "task_defs", "metric_defs", "metrics", "step_metrics",
    "task_gradients", "checkpoints", "artifacts", "events", "verdicts", "claim_locks", "trial_summary", "final_metrics",
    "delta_m", "leaderboard", "budget", "external_metrics",
)  # fmt: skip


@click.command("export")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice((*SUFFIX, "duckdb", *get_args(Kind))), required=True)
@click.option(
    "-o",
    "--output",
    help="A folder; for duckdb, latex, markdown a file; for mlflow a tracking URI (default: $MLFLOW_TRACKING_URI).",
)
@click.option("--table", "tables", multiple=True, help="Only these tables or views.")
def command(study: Path, kind: str, output: str | None, tables: tuple[str, ...]) -> None:
    """Write tables and views of STUDY to OUTPUT.

    parquet and csv make a folder with one file per table; latex and markdown one file with the leaderboard (or the one
    --table); duckdb one database that holds everything flushed so far. An existing file is not overwritten. mlflow and
    tensorboard bring the trials with their curves to those trackers; done again, they bring what is new.
    """
    from mtlfleet.errors import UsageError, nearest
    from mtlfleet.store.query import names
    from mtlfleet.store.store import open_store

    store = open_store(study)
    if kind in get_args(Kind):
        if tables:
            raise UsageError(f"{kind} gets trials and their curves; --table is for files")
        _mirror(store, kind, output or (os.environ.get("MLFLOW_TRACKING_URI") if kind == "mlflow" else None))
        return
    if output is None:
        raise UsageError(f"--to {kind} needs -o OUTPUT")
    known = names()
    for table in tables:
        if table not in known:
            close = nearest(table, known)
            raise UsageError(f"no table is called `{table}`", help=f"did you mean `{close}`?" if close else None)
    _tables(store, kind, Path(output), tables)
    click.echo(f"wrote {output}", err=True)


def _mirror(store: Store, kind: str, target: str | None) -> None:
    from mtlfleet.errors import UsageError
    from mtlfleet.store.mirrors import mirror

    if not target:
        raise UsageError(f"--to {kind} needs -o", help="a folder, or for mlflow a tracking URI")
    for study in [store.study] if store.study else store.studies():
        click.echo(f"{kind}: {mirror(kind, store, study, target)}", err=True)


def _tables(store: Store, kind: str, output: Path, tables: tuple[str, ...]) -> None:
    from mtlfleet.errors import UsageError

    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError(f"{output} exists", help="name a new file or folder; nothing is overwritten")
    if kind == "duckdb":
        _database(store, output)
    elif kind in ("latex", "markdown"):
        if len(tables) > 1:
            raise UsageError(f"{kind} holds one table, {len(tables)} were named")
        with store.session() as session:
            _file(session, kind, tables[0] if tables else "leaderboard", output)
    else:
        output.mkdir(parents=True, exist_ok=True)
        with store.session() as session:
            for table in tables or TABLES:
                _file(session, kind, table, output / f"{table}.{SUFFIX[kind]}")


def _file(session: Session, kind: str, table: str, path: Path) -> None:
    from mtlfleet.store.formats import write

    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as out:
        write(kind, session.stream(f'SELECT * FROM "{table}" ORDER BY ALL'), out)
    temporary.replace(path)


def _database(store: Store, output: Path) -> None:
    """A database of its own, built from the files: it holds what a running launch has flushed but not published."""
    import tempfile

    from mtlfleet.store import layout
    from mtlfleet.store.ingest import Ingester

    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        store.files(use_snapshot=False) as whole,
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".mtlfleet-export-") as scratch,
    ):
        mirror = Path(scratch)
        for part in ("segments", "documents", "claims"):
            if (whole / part).exists():
                (mirror / part).symlink_to(whole / part, target_is_directory=True)
        with Ingester(mirror, max_bytes=None) as ingester:
            ingester.rebuild()
        shutil.move(mirror / layout.SNAPSHOT, output)
        output.chmod(0o644)
