"""The prompt, over a real terminal and without one; DuckDB's own command line on the published file."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

from mtlfleet.store import AttemptWriter, Ingester, write_document


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_document(root, "s", "studies", [{"title": "a study", "spec": {"x": 1}, "spec_sha256": "1"}])
    writer = AttemptWriter.claim(root, "s", "t", restored_step=0, restored_checkpoint=None, world_size=1)
    for step in range(1, 51):
        writer.step_metric(step, "a", "loss", 1.0 / step)
    writer.metric(50, 1.0, "test", "a", "accuracy", 0.5, 100, True)
    writer.close("done", "", 50)
    with Ingester(root) as ingester:
        ingester.run_once()
    return root


def piped(store: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtlfleet.cli", "shell", str(store), *words],
        input=text, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_statements_may_take_many_lines_and_come_from_a_pipe(store: Path) -> None:
    text = (
        "SELECT count(*) AS n\n  FROM step_metrics;\n.format csv\nSELECT 'a;b' AS t; SELECT 2 AS two;\n@health\n"
        ".describe step_metrics\nSELECT 3 AS last"
    )
    found = piped(store, text)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(" n\n--\n50\nt\na;b\ntwo\n2\n")
    assert "as measured; NaN and infinities are kept" in found.stdout
    assert found.stdout.endswith("last\n3\n")
    assert found.stderr.count("pending segments") == 6


def test_without_a_terminal_the_first_error_ends_it(store: Path) -> None:
    for text, code in (
        ("SELECT nope;\nSELECT 7;\n", 2),
        ("DROP TABLE meta;\nSELECT 7;\n", 3),
        (".tabels\nSELECT 7;", 2),
    ):
        found = piped(store, text)
        assert found.returncode == code and "7" not in found.stdout
    assert "did you mean `.tables`?" in found.stderr


class Terminal:
    """The shell at the other end of a pseudo-terminal."""

    def __init__(self, store: Path, home: Path, *, plain: bool) -> None:
        code = "import sys; sys.modules['prompt_toolkit'] = None; " if plain else ""
        program = f"{code}from mtlfleet.cli import main; main(['shell', {str(store)!r}])"
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            keep = {
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite that runs in the background ignores Ctrl-C
            os.execve(sys.executable, [sys.executable, "-c", program], keep)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, timeout: float = 60.0) -> None:
        """Read until ``pattern``; what came before it is dropped."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen[-2000:]!r}"
            if select.select([self.fd], [], [], min(left, 0.5))[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
                self.seen = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", self.seen)
        self.seen = self.seen[found.end() :]

    def end(self) -> int:
        """Exit status after Ctrl-D."""
        self.type("\x04")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("plain", [False, True], ids=["prompt_toolkit", "readline"])
def test_ctrl_c_ends_the_query_and_nothing_else(store: Path, tmp_path: Path, plain: bool) -> None:
    terminal = Terminal(store, tmp_path, plain=plain)
    terminal.expect("Ctrl-D to leave")
    terminal.expect("sql>")
    terminal.type("SELECT 40 + 2\r" if not plain else "SELECT 40 + 2\n")
    terminal.expect(r"\.\.\.>")
    terminal.type("AS answer;\r" if not plain else "AS answer;\n")
    terminal.expect(r"answer\r?\n-+\r?\n +42")
    terminal.expect("sql>")
    terminal.type("SELECT count(*) FROM range(100000000000000) t(a) WHERE a % 7 = 3;\r")
    terminal.expect(r"= 3;")
    time.sleep(2.0)
    terminal.type("\x03")
    terminal.expect("interrupted: only this query")
    terminal.expect("sql>")
    terminal.type("SELECT 'typed in vain'\r")
    terminal.expect(r"\.\.\.>")
    time.sleep(1.0)  # CPython's readline misses a signal between its prompt and its wait
    terminal.type("\x03")
    terminal.expect("sql>")
    terminal.type("SELECT 5 * 5 AS square;\r")
    terminal.expect(r"square\r?\n-+\r?\n +25")
    terminal.expect("sql>")
    assert terminal.end() == 0
    history = (tmp_path / ".local/state/mtlfleet/sql_history").read_text()
    assert "5 * 5" in history


COUNT = ".mode csv\nSELECT count(*) AS n FROM step_metrics;\n"


def duckdb_command() -> Path:
    found = [p.locate() for p in distribution("duckdb-cli").files or () if p.name == "duckdb" and "bin" in p.parts]
    return Path(str(found[0])).resolve()


def test_duckdbs_own_command_line_of_1_5_reads_the_published_file(store: Path, tmp_path: Path) -> None:
    (tmp_path / "duckdb").symlink_to(duckdb_command())
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = subprocess.run(
        [sys.executable, "-m", "mtlfleet.cli", "open", str(store)],
        input=".mode csv\nSELECT count(*) AS n FROM step_metrics;\nSELECT comment FROM duckdb_columns()"
        " WHERE table_name = 'metrics' AND column_name = 'value';\nDELETE FROM meta;\n",
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert found.stdout.replace("\r", "").splitlines()[:2] == ["n", "50"], found.stderr
    assert "as measured; NaN and infinities are kept" in found.stdout
    assert "read-only" in found.stderr


def test_open_reads_sealed_files_wherever_the_store_lies(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "a, b"  # to DuckDB's setting two folders
    shutil.copytree(store, root)
    with Ingester(root, max_bytes=1) as ingester:
        ingester.run_once()
        ingester.publish()
    assert list(root.glob("sealed/*/*/*.parquet"))
    (tmp_path / "duckdb").symlink_to(duckdb_command())
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for more in ([], ["--print"]):
        found = subprocess.run(
            [sys.executable, "-m", "mtlfleet.cli", "open", str(root), *more], input=COUNT, cwd="/",
            capture_output=True, text=True, timeout=120, check=False, env=environment,
        )  # fmt: skip
        if more:
            words = ["bash", "-c", found.stdout]
            found = subprocess.run(words, input=COUNT, cwd="/", capture_output=True, text=True, check=False)
        assert found.stdout.replace("\r", "").splitlines()[:2] == ["n", "50"], found.stderr


def test_open_says_what_is_missing(store: Path, tmp_path: Path) -> None:
    def run(path: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mtlfleet.cli", "open", str(store)],
            capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PATH": path},
        )  # fmt: skip

    if shutil.which("duckdb", path=str(Path(sys.executable).parent)) is None:
        found = run(str(tmp_path))
        assert found.returncode == 4 and "pip install duckdb-cli" in found.stderr
        old = tmp_path / "duckdb"
        old.write_text("#!/bin/sh\necho v1.2.0 abc\n")
        old.chmod(0o755)
        found = run(str(tmp_path))
        assert found.returncode == 4 and "needs 1.5 or later" in found.stderr
