"""What a machine must have for mtlfleet to run on it, each asked of the real thing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

State = Literal["ok", "absent", "wrong"]
LEAST_FREE_BYTES = 2 << 30


class Check(NamedTuple):
    """One finding. ``absent``: something optional is not there; ``wrong``: mtlfleet will not run well."""

    name: str
    state: State
    found: str
    help: str = ""


def checks(root: Path) -> Iterator[Check]:
    """Every check, the quick ones first; ``root`` is where results would go."""
    yield _python()
    yield from _packages()
    yield _duckdb()
    yield _disk(root)
    yield _links(root)
    yield _landlock()
    yield _chromium()
    yield from _training()


def _python() -> Check:
    found = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check("python", "ok" if fits else "wrong", found, "" if fits else "mtlfleet runs on Python 3.11 to 3.13")


def _packages() -> Iterator[Check]:
    """What pyproject.toml asks for, by the installed package's own word."""
    try:
        asked = metadata.requires("mtlfleet") or []
    except metadata.PackageNotFoundError:
        yield Check("mtlfleet", "wrong", "not installed as a package", "pip install -e .")
        return
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, "wrong", "not installed", f"pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(Version(version).public, prereleases=True)
        yield Check(
            requirement.name, "ok" if fits else "wrong", version, "" if fits else f"expected {requirement.specifier}"
        )


def _duckdb() -> Check:
    import duckdb

    with duckdb.connect(":memory:") as con:
        row = con.execute("SELECT json_serialize_sql('SELECT 1') IS NOT NULL").fetchone()
        loaded = {name for (name,) in con.execute(_LOADED).fetchall()}
    lacking = {"json", "parquet"} - loaded
    if row != (True,) or lacking:
        return Check("duckdb works", "wrong", f"lacks {', '.join(sorted(lacking)) or 'json_serialize_sql'}")
    return Check("duckdb works", "ok", "json and parquet are built in")


_LOADED = "SELECT extension_name FROM duckdb_extensions() WHERE loaded"


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(_existing(root)).free
    enough = free >= LEAST_FREE_BYTES
    return Check(
        "disk", "ok" if enough else "wrong", f"{free / 2**30:.1f} GiB free at {_existing(root)}",
        "" if enough else "2 GiB are little for checkpoints: set storage.root to a larger disk",
    )  # fmt: skip


def _links(root: Path) -> Check:
    """Claims rest on exclusive links, segments on rename and fsync."""
    folder = _existing(root)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mtlfleet-doctor-") as name:
            first = Path(name, "a")
            first.write_bytes(b"x")
            with first.open("rb") as opened:
                os.fsync(opened.fileno())
            second = first.with_name("b")
            second.hardlink_to(first)
            try:
                second.hardlink_to(first)
            except FileExistsError:
                first.rename(first.with_name("c"))
                return Check("file system", "ok", f"exclusive links, fsync and rename work in {folder}")
            return Check("file system", "wrong", f"{folder} lets a link replace a file", "use another disk")
    except OSError as error:
        return Check(
            "file system", "wrong", f"{folder}: {error.strerror}", "set storage.root to a disk of this machine"
        )


def _landlock() -> Check:
    from mtlfleet.store.landlock import version

    abi = version()
    if abi:
        return Check("landlock", "ok", f"ABI {abi}: queries cannot write, by the kernel")
    return Check("landlock", "absent", "not in this kernel", "`mtlfleet sql` then rests on its syntax check alone")


def _chromium() -> Check:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return Check("chromium", "ok", found)
    return Check("chromium", "absent", "not found", "only the report's own tests need it")


_PROBE = """
import json, sys
out = {}
def tried(name, call):
    try:
        out[name] = call()
    except BaseException as error:
        out[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
def backend(kind, device):
    import torch, torch.distributed as dist
    dist.init_process_group(kind, store=dist.HashStore(), rank=0, world_size=1)
    x = torch.ones(3, device=device); dist.all_reduce(x); total = float(x.sum()); dist.destroy_process_group()
    assert total == 3.0, total
    return "all-reduce works"
def cuda():
    import torch
    if not torch.cuda.is_available():
        return None
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
tried("gloo", lambda: backend("gloo", "cpu"))
tried("cuda", cuda)
if isinstance(out["cuda"], list):
    tried("nccl", lambda: backend("nccl", "cuda"))
def ray():
    import ray.tune
    return "imports"
tried("ray", ray)
print(json.dumps(out))
"""


def _training(run: Callable[..., Any] = subprocess.run) -> Iterator[Check]:
    """torch, its collectives and Ray, in a process of their own: a broken library may take its process with it."""
    try:
        said = run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=300, check=False)
        found = json.loads(said.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        yield Check(
            "torch", "wrong", f"the probe ended without an answer: {type(error).__name__}", "python -c 'import torch'"
        )
        return
    yield _probed("gloo", found["gloo"])
    if found["cuda"] is None:
        yield Check("cuda", "absent", "no device: trials run on CPUs")
    else:
        yield _probed("cuda", found["cuda"])
    if "nccl" in found:
        yield _probed("nccl", found["nccl"])
    yield _probed("ray.tune", found["ray"])


def _probed(name: str, found: Any) -> Check:
    if isinstance(found, dict):
        return Check(name, "wrong", found["error"])
    return Check(name, "ok", ", ".join(found) if isinstance(found, list) else str(found))
