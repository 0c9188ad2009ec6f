"""Joining a Ray cluster, or starting the embedded one, and asking what it can hold."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan import Resources

# Read by Ray at import: silence its own output (we print ours), skip loggers and snapshots nobody reads.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}


@dataclass(frozen=True)
class Cluster:
    """What is there: nodes as resource maps, and whether we started it."""

    nodes: tuple[Mapping[str, float], ...]
    embedded: bool

    def slots(self, resources: Resources) -> int:
        """How many gangs of W ranks fit at once. Raises EnvironmentProblem when not even one does."""
        need = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        ranks = sum(_fits(node, need) for node in self.nodes)
        slots = ranks // resources.workers
        if slots == 0:
            raise EnvironmentProblem(
                f"no node can hold this study's trials: each needs {resources.workers} x {_text(need)}, "
                f"and {ranks} such worker{'s' if ranks != 1 else ''} fit",
                notes=[f"node {i}: {_text(node)}" for i, node in enumerate(self.nodes, 1)],
                help="lower workers, cpus_per_worker or gpus_per_worker in the study, or --address a larger cluster",
            )
        return min(slots, resources.max_concurrent or slots)


def _fits(node: Mapping[str, float], need: Mapping[str, float]) -> int:
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    if not wanted:
        return 10**6
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items())


def _text(resources: Mapping[str, float]) -> str:
    shown = [f"{amount:g} {name}" for name, amount in sorted(resources.items()) if name in ("CPU", "GPU") and amount]
    return ", ".join(shown) or "nothing"


def connect(address: str) -> Cluster:
    """``local`` starts an embedded Ray that ends with this process; ``auto`` or HOST:PORT joins a running cluster.

    Raises EnvironmentProblem when the cluster does not answer.
    """
    os.environ.update(_QUIET)
    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    embedded = address == "local"
    before = os.umask(0o077)  # Ray writes its token file with the umask of the moment
    try:
        if embedded:
            ray.init(include_dashboard=False, object_store_memory=200 * 2**20, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        what = "start an embedded Ray" if embedded else f"join the Ray cluster at `{address}`"
        raise EnvironmentProblem(
            f"could not {what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            help="`ray status` shows running clusters; `--address local` needs none",
        ) from None
    finally:
        os.umask(before)
    nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(nodes, embedded)


def disconnect() -> None:
    import ray

    ray.shutdown()
