"""The command line. A command's file is imported when the command runs, so that ``--help`` and reading stay instant."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from mtlfleet.cli import failure, output
from mtlfleet.errors import UsageError, nearest

HELP: Mapping[str, str] = {
    "launch": "Run what a study still lacks, then judge its claims.",
    "validate": "Check a study file; nothing is run.",
    "plan": "Show a study's trials, what is done already, and whether the design can answer.",
    "status": "How far a study is, and what failed.",
    "resume": "Run failed trials again.",
    "stop": "Ask a running launch to stop at its next checkpoint.",
    "sql": "Ask a study's results in SQL, also while it runs.",
    "claims": "Verdicts of a study's claims; lock, check or explain them.",
    "report": "Write the report as one HTML file.",
    "digest": "SHA-256 over a study's results.",
    "logs": "What a trial printed.",
    "show": "Everything known of one trial.",
    "why": "Why a trial ended as it did, and what to do.",
    "methods": "List the balancing methods, or show one.",
    "datasets": "List the datasets; show, prepare or check one.",
    "architectures": "List the architectures; show or check one.",
    "shell": "Ask many questions in SQL, at a prompt.",
    "open": "Open the results in DuckDB's own command line or web page.",
    "export": "Write results as parquet, csv, duckdb, latex or markdown, or mirror them to MLflow or TensorBoard.",
    "import": "Put published tables beside the study's own results.",
    "doctor": "Check this machine, or a results store; repair a damaged one.",
    "gc": "Delete what no result needs: old checkpoints, orphans.",
    "init": "Write a study or a plug-in to start from.",
    "schema": "The study file's JSON Schema, for editors.",
    "explain": "What an error code means and how to mend it.",
    "version": "Versions of mtlfleet and of what it runs on.",
}
COMMANDS: Mapping[str, str] = {name: f"mtlfleet.cli.{name}{'_' * iskeyword(name)}" for name in HELP}
_REPORTED = ("torch", "ray", "duckdb", "pyarrow", "pydantic")


class LazyGroup(click.Group):
    """Commands by name; errors become a message and an exit code, never a bare traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            hint = f" Did you mean `{close}`?" if close else ""
            ctx.fail(f"no command `{output.printable(args[0])}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            output.close_pipe()
            raise click.exceptions.Exit(failure.BROKEN_PIPE) from None

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        raise SystemExit(failure.guarded(lambda: run(*args, standalone_mode=False, **extra)))


def versions() -> dict[str, str]:
    """Installed versions from package metadata; nothing is imported for them."""
    from importlib import metadata

    found: MutableMapping[str, str] = {}
    for package in ("mtlfleet", *_REPORTED):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if found["mtlfleet"] == "not installed":
        from mtlfleet import __version__

        found["mtlfleet"] = __version__
    return dict(found)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        known = versions()
        click.echo(f"mtlfleet {known.pop('mtlfleet')} ({', '.join(f'{n} {v}' for n, v in known.items())})")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", metavar="DIR", type=click.Path(), help="Work in this folder.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour of messages.")
@click.option("-v", "--verbose", count=True, help="Say more; twice: tracebacks too.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Versions.")
def main(folder: str | None, color: str, verbose: int) -> None:
    """Does a multi-task optimizer beat a tuned sum of losses? One study file in, verdicts out.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 finished with failed trials, 2 usage, 3 study
    file or plug-in invalid, 4 environment, 5 budget spent, 6 a claim is not supported, 7 store damaged, 70 internal
    error, 130 or 143 interrupted (launch again to go on).
    """
    output.settings.color, output.settings.verbose = color, verbose
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise UsageError(f"cannot work in {output.printable(folder)}: {error.strerror}") from None
