"""``mtlfleet sql``: ask the results a question, while they come in, without being able to change them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import Any

    from mtlfleet.store.query import Source

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "markdown")


@click.command("sql")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Read the query from a file.")
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), help="Default: table on a terminal, csv in a pipe or file."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the answer here, whole or not at all.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Bind $NAME in the query.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows that a table shows. Default: 10000.")
@click.option("--live", "source", flag_value="live", default=True, help="Everything flushed so far (the default).")
@click.option("--snapshot", "source", flag_value="snapshot", help="Only the published results.duckdb.")
@click.option("--segments", "source", flag_value="segments", help="Only the segments; ignore results.duckdb.")
@click.option("--names", "list_names", is_flag=True, help="List tables and views with their columns: @names.")
def command(
    study: Path,
    query: str | None,
    file: Path | None,
    kind: str | None,
    output: Path | None,
    params: tuple[str, ...],
    timeout: float,
    limit: int | None,
    source: Source,
    list_names: bool,
) -> None:
    """Answer one SELECT over STUDY (a study file or a store folder).

    QUERY is SQL, `-` for standard input, or a canned query such as @leaderboard or @failures; `@` lists those. The
    query runs in a process that cannot write, connect or read other files.
    """
    from mtlfleet.errors import UsageError
    from mtlfleet.store.canned import canned, listing
    from mtlfleet.store.query import Question, Reader, ask
    from mtlfleet.store.store import open_store

    if query == "@" and file is None:
        click.echo(listing())
        return
    text = canned("@names" if list_names and query is None and file is None else _query(query, file))
    form = kind or _default(output)
    if form in ("parquet", "arrow") and output is None and sys.stdout.isatty():
        raise UsageError(f"{form} is binary and would garble this terminal", help="add -o FILE, or a pipe")
    if limit is not None and form != "table":
        raise UsageError(f"--limit shortens tables; {form} is written whole", help="write LIMIT into the query")
    store = open_store(study)
    started = time.monotonic()
    question = Question(query=text, params=_bound(params), form=form, source=source, timeout_s=timeout, limit=limit)
    written = _Target(output)
    with Reader() as reader, written as out:
        freshness = ask(store.root, question, out, reader=reader)
    written.keep()
    click.echo(f"{freshness} ({time.monotonic() - started:.1f} s)", err=True)


def _query(query: str | None, file: Path | None) -> str:
    from mtlfleet.errors import UsageError

    if (query is None) == (file is None):
        raise UsageError("give a QUERY or -f FILE, one of them", help="try: mtlfleet sql STUDY @leaderboard")
    if file is not None:
        try:
            return file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {file}: {error}") from None
    assert query is not None
    return sys.stdin.read() if query == "-" else query


def _default(output: Path | None) -> str:
    """By the file's name, else table for people and csv for programs."""
    if output is not None:
        suffix = output.suffix.lstrip(".").lower()
        return {"md": "markdown", "txt": "table"}.get(suffix, suffix if suffix in FORMATS else "csv")
    return "table" if sys.stdout.isatty() else "csv"


def _bound(params: tuple[str, ...]) -> dict[str, Any]:
    from mtlfleet.errors import UsageError

    bound: dict[str, Any] = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--param {param}: expected NAME=VALUE")
        bound[name] = _number(value)
    return bound


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class _Target:
    """Standard output, or a temporary file that becomes the output only when the whole answer came."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.part") if path else None

    def __enter__(self) -> Any:
        from mtlfleet.errors import EnvironmentProblem

        if self.temporary is None:
            self.out: Any = sys.stdout.buffer
            return self.out
        try:
            self.out = self.temporary.open("wb")
        except OSError as error:
            raise EnvironmentProblem(f"cannot write {self.path}: {error.strerror}") from None
        return self.out

    def __exit__(self, kind: object, *_: object) -> None:
        if self.temporary is None:
            self.out.flush()
            return
        self.out.close()
        if kind is not None:
            self.temporary.unlink(missing_ok=True)

    def keep(self) -> None:
        if self.temporary is not None and self.path is not None:
            self.temporary.replace(self.path)
