"""What a trial runs in: software, hardware, and the command that asked for it."""

from __future__ import annotations

import json
import platform
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

GIT_S = 10.0
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Origin:
    """Where a trial was asked for: facts of the machine that launches, which may be another than the one that runs.

    ``git_commit`` is that of the repository around the study file, None outside one; ``git_dirty`` says whether tracked
    files differed from it.
    """

    command: str = ""
    git_commit: str | None = None
    git_dirty: bool | None = None

    @classmethod
    def here(cls, folder: Path) -> Origin:
        """This process, and the repository that ``folder`` lies in."""
        commit = _git(folder, "rev-parse", "HEAD")
        changes = None if commit is None else _git(folder, "status", "--porcelain", "--untracked-files=no")
        return cls(shlex.join(sys.argv), commit, None if changes is None else bool(changes))


NOWHERE = Origin()


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where there is no repository, or no git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def environment(origin: Origin, device: torch.device) -> dict[str, Any]:
    """This process as a claim tells it: a row of the table ``environments``."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu(),
        "host": socket.gethostname(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": json.loads(_packages()),
        "git_commit": origin.git_commit,
        "git_dirty": origin.git_dirty,
        "command": origin.command,
    }


@cache
def _packages() -> str:
    """Name -> version of what is installed, as JSON. Looked up once: a hundred files are read for it."""
    found = {d.metadata["Name"]: d.version for d in distributions()}
    return json.dumps(dict(sorted((name, version) for name, version in found.items() if name)))


def _cpu() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _driver() -> str | None:
    """Version of NVIDIA's kernel module, the word after its name."""
    try:
        words = _DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[:1].isdigit() and "." in word), None)
