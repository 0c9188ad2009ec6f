"""From exceptions to messages and exit codes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mtlfleet.cli import output
from mtlfleet.errors import FleetError, StudyInvalid

INTERNAL, INTERRUPTED, BROKEN_PIPE = 70, 130, 141


def guarded(call: Callable[[], Any]) -> int:
    """Run a command and give its exit code; what goes wrong is said on stderr."""
    try:
        outcome = call()
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FleetError as error:
        say(error)
        return error.exit_code
    except BrokenPipeError:
        output.close_pipe()
        return BROKEN_PIPE
    except Exception as error:  # the last net: a bug of ours, written down instead of thrown at the reader
        _crashed(error)
        return INTERNAL
    return outcome if isinstance(outcome, int) else 0


def say(error: FleetError) -> None:
    """An error the reader can act on."""
    if isinstance(error, StudyInvalid):
        output.print_findings(error.findings)
        return
    word = click.style("error", fg="red", bold=True) if output.colored(sys.stderr) else "error"
    click.echo(f"{word}: {output.printable(str(error))}", err=True, color=True)
    if output.settings.verbose > 1:
        import traceback

        traceback.print_exception(error)


def _crashed(error: BaseException) -> None:
    import traceback

    text = "".join(traceback.format_exception(error))
    click.echo(f"error: internal error: {type(error).__name__}: {output.printable(str(error))}", err=True)
    if output.settings.verbose > 1:
        click.echo(text, err=True)
    try:
        place = _write(text)
        click.echo(f"  = note: traceback and versions are in {place}", err=True)
    except OSError as failed:
        click.echo(f"  = note: no crash file could be written: {failed}\n{text}", err=True)
    click.echo("  = help: this is a bug of mtlfleet; please report it with that file", err=True)


def _write(text: str) -> Path:
    import platform
    import tempfile

    from mtlfleet.cli import versions

    handle, name = tempfile.mkstemp(prefix=time.strftime("mtlfleet-crash-%Y%m%dT%H%M%S-"), suffix=".txt")
    lines = [
        f"command: {' '.join(sys.argv)}",
        f"python: {sys.version}",
        f"platform: {platform.platform()}",
        *(f"{package}: {number}" for package, number in versions().items()),
        "",
        text,
    ]
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines))
    return Path(name)
