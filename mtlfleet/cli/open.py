"""``mtlfleet open``: the published results in DuckDB's own command line or web page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

OLDEST = (1, 5)  # what the published file's storage version asks for


@click.command("open")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--cli", "way", flag_value="cli", default=True, help="DuckDB's command line (the default).")
@click.option("--ui", "way", flag_value="ui", help="DuckDB's web page; it downloads an extension the first time.")
@click.option("--print", "only_print", is_flag=True, help="Say the command; run nothing.")
def command(study: Path, way: str, only_print: bool) -> None:
    """Open results.duckdb of STUDY (a study file or a store folder), read-only.

    Nothing guards what is typed there. It shows the file as it was published last; a publication during the session
    does not disturb it. `mtlfleet shell` is guarded and sees everything flushed so far.
    """
    from mtlfleet.errors import EnvironmentProblem
    from mtlfleet.store import layout
    from mtlfleet.store.database import quoted
    from mtlfleet.store.mirror import published, sealed
    from mtlfleet.store.search_path import is_list
    from mtlfleet.store.store import open_store

    store = open_store(study)
    snapshot = published(store.root)
    if not snapshot.exists():
        raise EnvironmentProblem(
            f"nothing was published yet: {store.root}/{layout.SNAPSHOT} is not there",
            help=f"mtlfleet shell {study} reads the segments",
        )
    words = [find(), "-readonly", *(["-ui"] if way == "ui" else []), str(snapshot)]
    inside = False
    if sealed(snapshot):  # its views name files relative to the store
        inside = is_list(snapshot.parent)  # which the setting cannot name: DuckDB is started there
        if not inside:
            words[1:1] = ["-cmd", f"SET file_search_path = {quoted(str(snapshot.parent))}"]
    if only_print:
        click.echo(f"cd {shlex.quote(str(snapshot.parent))} && {shlex.join(words)}" if inside else shlex.join(words))
        return
    if inside:
        os.chdir(snapshot.parent)
    if way == "ui":
        click.echo("the page needs DuckDB's `ui` extension; without a network it cannot be fetched", err=True)
    sys.stdout.flush()
    os.execv(words[0], words)


def find() -> str:
    """DuckDB's command line, in this environment or on the PATH. Raises EnvironmentProblem when there is none that can
    read the file."""
    from mtlfleet.errors import EnvironmentProblem

    beside = str(Path(sys.executable).parent)
    found = shutil.which("duckdb", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    install = "pip install duckdb-cli, or see https://duckdb.org/install; `mtlfleet shell` needs neither"
    if found is None:
        raise EnvironmentProblem("DuckDB's command line `duckdb` is not installed", help=install)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    version = re.search(r"v?(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise EnvironmentProblem(
            f"{found} is `{said.strip() or 'of no known version'}`; results.duckdb needs {wanted} or later",
            help=install,
        )
    return found
