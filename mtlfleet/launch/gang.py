"""A Tune Trainable that owns W warm rank actors inside its trial's placement group and keeps them between trials.

The gang is one failure unit: a process group cannot be repaired, so when a rank is lost all are replaced, in the same
placement group, and the trial resumes from its own checkpoint. Only when that fails repeatedly does Tune hear of it.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.launch.queue import OUTCOMES
from mtlfleet.launch.rank import Fault, Rank

REPAIRS = 3  # in place, per trial; then Tune gets a new placement group
FORM_S = 120.0  # for a gang to be placed and to meet
# A full disk is not the trial's doing: launch runs it again.
_OUTCOME = {"oom": "oom", "environment": "lost", "away": "lost"}
COLLATERAL_S = 5.0  # after "a peer vanished", how long to wait for the peer that really failed


class GangLost(RuntimeError):
    """Ranks died or fell silent. Never a RayActorError: Tune would take that for the Trainable's own death."""


class TrialFailed(RuntimeError):
    """The trial's own code failed; running it again would fail again."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Gang(tune.Trainable):  # type: ignore[misc]
    """config: id, trial (JSON), study, site, world, cpus, gpus, device, stall_s, stretch_s."""

    def setup(self, config: dict[str, Any]) -> None:
        self.ranks: list[Any] = []
        self.shape: tuple[object, ...] = ()
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial of the same shape: nothing is torn down, nothing can fail here."""
        self._pause_running()
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self.cell = config
        self.started = False
        self.repairs = 0

    def step(self) -> dict[str, Any]:
        """About ``stretch_s`` seconds of training: the heartbeat, and how long a Ctrl-C waits."""
        while True:
            try:
                if not self.ranks:
                    self._form()
                if not self.started:
                    self._begin()
                progress = self._all("advance", self.cell["stretch_s"])[0]
            except TrialFailed as failure:
                found = self._failed(failure.fault)
                back = found["state"] == "lost" and not found["store_lost"]  # what it left could be written down
                if failure.fault.kind != "away" or not back or self.repairs == REPAIRS:
                    return found
                self.repairs += 1
                continue
            except (GangLost, GetTimeoutError, RayActorError) as reason:
                self._disband()
                self.started = False
                self.repairs += 1
                if self.repairs > REPAIRS:
                    self._give_up(str(reason))
                continue
            if progress.finished:
                self.started = False
            return {
                "done": progress.finished,
                "state": progress.state,
                "step_done": progress.step,
                "total_steps": progress.total_steps,
                "repairs": self.repairs,
            }

    def _begin(self) -> None:
        facts = {"ray_trial_id": self.trial_id, "stretch_s": self.cell["stretch_s"]}
        self._all("begin", self.cell["trial"], self.cell["site"], facts)
        self.started = True

    def _form(self) -> None:
        """Start W ranks in bundles 0..W-1 of this trial's placement group and let them meet."""
        world, cpus, gpus = self.cell["world"], self.cell["cpus"], self.cell["gpus"]
        group: PlacementGroup | None = get_current_placement_group()
        if group is None or not group.wait(FORM_S):
            raise GangLost("the placement group was not ready in time")
        kind = ray.remote(Rank)
        self.ranks = [
            kind.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(rank, world, max(1, int(cpus)))
            for rank in range(world)
        ]
        address, port = ("", 0) if world == 1 else ray.get(self.ranks[0].host.remote(), timeout=FORM_S)
        device = "cuda" if gpus else "cpu"
        ray.get([r.join.remote(address, port, device, self.cell["stall_s"]) for r in self.ranks], timeout=FORM_S)

    def _all(self, verb: str, *arguments: Any) -> list[Any]:
        """One call on every rank. Raises TrialFailed for the trial's own fault, GangLost for everything else."""
        order = [getattr(rank, verb).remote(*arguments) for rank in self.ranks]
        pending, found, collateral = list(order), {}, None
        deadline = time.monotonic() + self.cell["stall_s"]
        while pending:
            ready, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for ref in ready:
                value = self._get(ref)
                if isinstance(value, Fault):
                    if value.kind != "comm":
                        raise TrialFailed(value)
                    collateral = value
                    deadline = min(deadline, time.monotonic() + COLLATERAL_S)
                found[ref] = value
        if collateral is not None:
            raise GangLost(collateral.message)
        if pending:
            silent = [rank for rank, ref in enumerate(order) if ref in pending]
            raise GangLost(f"ranks {silent} gave no sign for {self.cell['stall_s']:.0f} s in `{verb}`")
        return [found[ref] for ref in order]

    def _get(self, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except OutOfMemoryError as error:
            raise TrialFailed(Fault("oom", -1, f"the node ran out of memory: {error}")) from None
        except RayActorError as error:
            raise GangLost(f"a rank died: {type(error).__name__}") from None

    def _failed(self, fault: Fault) -> dict[str, Any]:
        """The trial's outcome is a failure; it is written down, not raised, so nothing retries it."""
        self._disband()
        self.started = False
        state, why, store_lost = _OUTCOME.get(fault.kind, "failed"), fault.message, False
        try:
            state = _write_end(self.cell, state, _reason(fault))
        except EnvironmentProblem as problem:  # nothing can be written down: the trial keeps no outcome and runs again
            state, why, store_lost = "lost", problem.message, True
        return {
            "done": True,
            "state": state,
            "step_done": 0,
            "total_steps": 0,
            "why": why,
            "rank": fault.rank,
            "repairs": self.repairs,
            "store_lost": store_lost,
        }

    def _give_up(self, reason: str) -> NoReturn:
        raise GangLost(f"trial {self.cell['id']}: {reason} ({REPAIRS} repairs in place did not help)") from None

    def _pause_running(self) -> None:
        """A trial stopped half-way leaves a checkpoint; if the ranks cannot, the last one serves."""
        if not (self.ranks and self.started):
            return
        try:
            ray.get([rank.pause.remote() for rank in self.ranks], timeout=20)
        except (RayActorError, GetTimeoutError):
            self._disband()
        self.started = False

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
        """A pointer: the weights lie in the study's store."""
        return {"id": self.cell["id"]}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:  # noqa: ARG002
        self.started = False

    def cleanup(self) -> None:
        self._pause_running()
        self._disband()

    def _disband(self) -> None:
        for rank in self.ranks:
            ray.kill(rank, no_restart=True)
        self.ranks = []


def _write_end(cell: dict[str, Any], state: str, reason: str) -> str:
    """Write down how the trial ended; its state from now on.

    The newest attempt is ended if it is open; else a new one is claimed, so that the failure has a place. It restored
    nothing, so it takes from earlier attempts what they have: for what is not the trial's doing, none is claimed
    beside them. What they left is gone on from, and an outcome stands: its last word was written, and only the answer
    to that was lost.
    """
    from mtlfleet.store import AttemptWriter, end_attempt, newest_attempt

    site = cell["site"]
    place = (site.root, site.study, cell["id"])
    newest = newest_attempt(*place)
    if newest is not None and newest["state"] == "running":
        number = int(newest["attempt"])
    elif newest is not None and state == "lost":
        return str(newest["state"]) if newest["state"] in OUTCOMES else state
    else:
        writer = AttemptWriter.claim(*place, restored_step=0, restored_checkpoint=None, world_size=cell["world"])
        writer.abandon()
        number = writer.attempt
    end_attempt(*place, number, state=state, reason=reason)
    return state


def _reason(fault: Fault) -> str:
    where = f"rank {fault.rank}: " if fault.rank >= 0 else ""
    return f"{where}{fault.message}\n{fault.trace}".rstrip()
