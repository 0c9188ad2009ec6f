"""``mtlfleet shell``: a prompt for SQL. Every query runs in a guarded process of its own, started while it is typed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlfleet.cli import failure, output
from mtlfleet.cli.statements import split
from mtlfleet.errors import FleetError, UsageError, nearest
from mtlfleet.plan.place import Root

if TYPE_CHECKING:
    from mtlfleet.cli.prompt import Lines
    from mtlfleet.store.query import Reader, Source

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "markdown", "latex")
SOURCES = ("live", "snapshot", "segments")
HELP = """\
SQL ends with `;` and may take many lines; answers hold everything flushed so far.
@                list the canned queries; @leaderboard runs one
.tables          tables and views with what they hold
.describe NAME   columns of a table or view, with units
.format NAME     table, csv, tsv, json, jsonl, markdown, latex
.limit N         rows that a table shows
.timeout S       seconds a query may take
.source NAME     live, snapshot or segments
.quit            leave; so does Ctrl-D. Ctrl-C ends the running query, or drops what was typed."""


@dataclass(frozen=True)
class Settings:
    """How answers come out."""

    form: str = "table"
    limit: int = 1000
    timeout_s: float = 60.0
    source: Source = "live"


@click.command("shell")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True)
@click.pass_context
def command(ctx: click.Context, study: Path, form: str, timeout: float) -> None:
    """Ask STUDY (a study file or a store folder) many questions; `.help` tells how.

    Queries are guarded as those of `mtlfleet sql` are. Without a terminal, statements come from standard input and the
    first error ends with its exit code.
    """
    from mtlfleet.cli.prompt import lines
    from mtlfleet.store.query import names
    from mtlfleet.store.store import open_store

    store = open_store(study)
    person = sys.stdin.isatty()
    if person:
        click.echo(f"{store.root}: SQL, `@` for canned queries, `.help`, Ctrl-D to leave", err=True)
    shell = Shell(store.root, Settings(form=form, timeout_s=timeout))
    try:
        code = shell.run(lines(names()), person=person)
    finally:
        shell.close()
    ctx.exit(code)


class Shell:
    """The loop. ``ahead`` is a guarded process that waits for the next question."""

    def __init__(self, root: Root, settings: Settings) -> None:
        self.root, self.settings = root, settings
        self.ahead: Reader | None = None

    def close(self) -> None:
        if self.ahead is not None:
            self.ahead.__exit__(None, None, None)
            self.ahead = None

    def run(self, lines: Lines, *, person: bool) -> int:
        """Until the end of the input. Returns the exit code: people's errors are theirs to see and go on from."""
        typed = ""
        while True:
            self._start_ahead()
            try:
                typed += lines.read("sql> " if not typed else "...> ") + "\n"
            except EOFError:
                break
            except KeyboardInterrupt:
                typed = ""
                click.echo("", err=True)
                continue
            todo, typed = self._cut(typed)
            for statement in todo:
                if statement in (".quit", ".exit"):
                    return 0
                code = self._one(statement)
                if code and not person:
                    return code
        return self._one(typed) if typed and not person else 0

    def _cut(self, typed: str) -> tuple[list[str], str]:
        """Dot commands and canned queries end with their line."""
        line = typed.strip()
        if "\n" not in line and line.startswith((".", "@")):
            return [line.rstrip("; ")], ""
        statements, rest = split(typed)
        return statements, rest + "\n" if rest else ""

    def _start_ahead(self) -> None:
        if self.ahead is None:
            from mtlfleet.store.query import Reader

            self.ahead = Reader()

    def _one(self, statement: str) -> int:
        try:
            self._answer(statement)
        except FleetError as error:
            failure.say(error)
            return error.exit_code
        except KeyboardInterrupt:
            click.echo("\ninterrupted: only this query", err=True)
            return failure.INTERRUPTED
        return 0

    def _answer(self, statement: str) -> None:
        from mtlfleet.store.canned import canned, listing

        if statement == "@":
            click.echo(listing())
        elif statement.startswith(".") and (query := self._command(*statement[1:].split())):
            self._ask(query)
        elif not statement.startswith("."):
            self._ask(canned(statement))

    def _command(self, name: str = "", *words: str) -> str | None:
        """Do a dot command, or give the query that answers it."""
        word = words[0] if words else ""
        if name == "tables":
            return _TABLES
        if name in ("describe", "schema"):
            return _describe(word)
        if name == "help":
            click.echo(HELP)
        elif name in _SETTERS:
            self.settings = _SETTERS[name](self.settings, word)
        else:
            known = ("tables", "describe", "help", "quit", *_SETTERS)
            close = nearest(name, known)
            raise UsageError(
                f"no command `.{output.printable(name)}`", help=f"did you mean `.{close}`?" if close else "see .help"
            )
        return None

    def _ask(self, query: str) -> None:
        from mtlfleet.store.query import Question, ask

        self._start_ahead()
        reader, self.ahead = self.ahead, None
        s, started = self.settings, time.monotonic()
        question = Question(query=query, form=s.form, source=s.source, timeout_s=s.timeout_s, limit=s.limit)
        sys.stdout.flush()
        freshness = ask(self.root, question, sys.stdout.buffer, reader=reader)
        click.echo(f"{freshness} ({time.monotonic() - started:.1f} s)", err=True)


_TABLES = (
    "SELECT name, kind, comment FROM (SELECT table_name AS name, 'table' AS kind, comment, database_name AS d"
    " FROM duckdb_tables() WHERE NOT internal UNION ALL SELECT view_name, 'view', comment, database_name"
    " FROM duckdb_views() WHERE NOT internal) WHERE d = current_database()"
    " AND name NOT LIKE '%\\_all' ESCAPE '\\' AND name NOT LIKE '%\\_pending' ESCAPE '\\' ORDER BY name"
)


def _describe(name: str) -> str:
    from mtlfleet.store.query import names

    known = names()
    if name not in known:
        close = nearest(name, known)
        raise UsageError(
            f"no table or view `{output.printable(name)}`", help=f"did you mean `{close}`?" if close else "see .tables"
        )
    return (
        'SELECT column_name AS "column", data_type AS type, comment FROM duckdb_columns()'
        f" WHERE table_name = '{name}' AND database_name = current_database() ORDER BY column_index"
    )


def _choice(what: str, allowed: tuple[str, ...], word: str) -> str:
    if word not in allowed:
        raise UsageError(f".{what}: expected one of {', '.join(allowed)}, found `{output.printable(word)}`")
    return word


def _positive(what: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise UsageError(f".{what}: expected a positive number, found `{output.printable(word)}`")
    return number


_SETTERS = {
    "format": lambda s, word: replace(s, form=_choice("format", FORMATS, word)),
    "limit": lambda s, word: replace(s, limit=int(max(1, _positive("limit", word)))),
    "timeout": lambda s, word: replace(s, timeout_s=_positive("timeout", word)),
    "source": lambda s, word: replace(s, source=_choice("source", SOURCES, word)),
}
