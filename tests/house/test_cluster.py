"""The cluster file is one that Ray accepts, and it starts closed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded = YAML(typ="safe").load(ROOT / "cluster.yaml")
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def schema() -> Any:
    """Ray's own, from the installed package, without importing Ray."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.submodule_search_locations
    return json.loads((Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text())


def test_ray_accepts_the_file(cluster: dict[str, Any], schema: Any) -> None:
    jsonschema.validate(cluster, schema)


def test_the_schema_would_notice(cluster: dict[str, Any], schema: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "mtlfleet": {}}, schema)


def test_every_node_starts_in_token_mode_and_the_job_server_on_loopback(cluster: dict[str, Any]) -> None:
    starts = {
        place: [command for command in cluster[f"{place}_start_ray_commands"] if "ray start" in command]
        for place in ("head", "worker")
    }
    for (command,) in starts.values():
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in starts["head"][0]
    assert any(target.endswith(".ray/auth_token") for target in cluster["file_mounts"])


def test_the_nodes_get_the_ray_that_ci_ran(cluster: dict[str, Any]) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert any(f"ray[default]=={pins['ray']}" in command for command in cluster["setup_commands"])


def test_a_job_wants_an_absolute_study() -> None:
    done = subprocess.run([ROOT / "jobs/ray/submit.sh", "study.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "not absolute" in done.stderr
