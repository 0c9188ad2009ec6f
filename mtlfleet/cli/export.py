"""``mtlfleet export``: the results as files for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mtlfleet.store.store import Session, Store

SUFFIX = {"parquet": "parquet", "csv": "csv", "latex": "tex", "markdown": "md"}
TABLES = (
    "studies", "trials", "attempts", "task_defs", "metric_defs", "metrics", "step_metrics", "task_gradients",
    "checkpoints", "events", "verdicts", "claim_locks", "trial_summary", "final_metrics", "delta_m", "leaderboard",
    "budget",
)  # fmt: skip


@click.command("export")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice((*SUFFIX, "duckdb")), required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder; for duckdb, latex, markdown a file.",
)
@click.option("--table", "tables", multiple=True, help="Only these tables or views.")
def command(study: Path, kind: str, output: Path, tables: tuple[str, ...]) -> None:
    """Write tables and views of STUDY to OUTPUT.

    parquet and csv make a folder with one file per table; latex and markdown one file with the leaderboard (or the one
    --table); duckdb one database that holds everything flushed so far. An existing file is not overwritten.
    """
    from mtlfleet.errors import UsageError, nearest
    from mtlfleet.store.query import names
    from mtlfleet.store.store import open_store

    store = open_store(study)
    known = names()
    for table in tables:
        if table not in known:
            close = nearest(table, known)
            raise UsageError(f"no table is called `{table}`", help=f"did you mean `{close}`?" if close else None)
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
    click.echo(f"wrote {output}", err=True)


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
        with Ingester(mirror) as ingester:
            ingester.rebuild()
        shutil.move(mirror / layout.SNAPSHOT, output)
        output.chmod(0o644)
