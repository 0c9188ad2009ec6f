"""One rank of a gang: a process that trains trial after trial and keeps its imports and its process group warm.

Whatever the trial's code raises is returned as a ``Fault``, classified where it happened: an exception that crosses a
process border says less. torch is imported inside methods, so that reserving a gang costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mtlfleet.errors import FleetError

if TYPE_CHECKING:
    from mtlfleet.train import Communicator, Progress, Site, TrialRun

T = TypeVar("T")

# What gloo and NCCL say when a peer is gone: collateral of another rank's death, never its cause.
_PEER_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "nccl communicator was aborted",
    "socket closed",
    "timed out waiting",
    "remote process exited",
)


@dataclass(frozen=True)
class Fault:
    """Why a rank could not go on. ``kind``: user (the trial's own code), oom, comm (a peer vanished), away (the store
    is), environment."""

    kind: str
    rank: int
    message: str
    trace: str = ""


class Rank:
    """The actor's class; wrapped by ``ray.remote`` in the gang."""

    def __init__(self, rank: int, world: int, threads: int) -> None:
        self.rank = rank
        self.world = world
        self.threads = threads
        self.comm: Communicator | None = None
        self.run: TrialRun | None = None
        self._log: logging.Handler | None = None
        self._keep_log: Callable[[], None] = lambda: None

    def host(self) -> tuple[str, int]:
        """Rank 0: open the store the group meets at; gives its address."""
        import ray.util
        import torch.distributed as dist

        address = ray.util.get_node_ip_address()
        self.meeting = dist.TCPStore(  # type: ignore[attr-defined]  # torch's stubs do not export it
            address, 0, self.world, is_master=True, wait_for_workers=False
        )
        return address, self.meeting.port

    def join(self, address: str, port: int, device: str, timeout_s: float) -> None:
        """Become a member of the process group; with one rank, just pick the device."""
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        from mtlfleet.train import Communicator
        from mtlfleet.train.communicator import pick_device

        torch.set_num_threads(self.threads)
        self.device = pick_device(device)
        if self.world == 1:
            self.comm = Communicator(device=self.device)
            return
        limit = timedelta(seconds=timeout_s)
        if self.rank != 0:
            self.meeting = dist.TCPStore(  # type: ignore[attr-defined]
                address, port, self.world, is_master=False, timeout=limit
            )
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=self.meeting, rank=self.rank, world_size=self.world, timeout=limit)
        self.comm = Communicator(self.rank, self.world, dist.group.WORLD, self.device)

    def begin(self, trial_json: str, site: Site, facts: Mapping[str, object]) -> Progress | Fault:
        """Start a trial: build, restore, claim."""
        from mtlfleet.plan.trial import Trial
        from mtlfleet.train import TrialRun

        def start() -> Progress:
            assert self.comm is not None, "join comes before begin"
            self._clean()
            self.run = TrialRun(Trial.from_json(trial_json), site, self.comm)
            progress = self.run.begin(facts)
            self._open_log(site, progress.attempt)
            logging.getLogger("mtlfleet").info("trial %s begins at step %d", self.run.trial.label, progress.step)
            return progress

        return self._guarded(start)

    def advance(self, seconds: float) -> Progress | Fault:
        """Train for about ``seconds``; the heartbeat of the gang."""

        def go() -> Progress:
            assert self.run is not None, "begin comes before advance"
            return self.run.advance(seconds)

        found = self._guarded(go)
        if isinstance(found, Fault) or found.finished:
            logging.getLogger("mtlfleet").info("trial ends: %s", found)
            self._end()
        return found

    def pause(self) -> Fault | None:
        """Checkpoint the running trial and let it go."""
        if self.run is None:
            return None
        found = self._guarded(self.run.pause)
        self._end()
        return found

    def _guarded(self, action: Callable[[], T]) -> T | Fault:
        with self._captured():
            try:
                return action()
            except Exception as error:
                kind = _kind(error)
                logging.getLogger("mtlfleet").exception("rank %d: %s", self.rank, kind)
                return Fault(kind, self.rank, f"{type(error).__name__}: {error}", traceback.format_exc())

    @contextlib.contextmanager
    def _captured(self) -> Iterator[None]:
        """What the trial prints goes to its own log."""
        if self._log is None or not isinstance(self._log, logging.StreamHandler):
            yield
            return
        with contextlib.redirect_stdout(self._log.stream), contextlib.redirect_stderr(self._log.stream):
            yield

    def _open_log(self, site: Site, attempt: int) -> None:
        from mtlfleet.store import keep_log, new_log

        assert self.run is not None
        place = (site.root, self.run.trial.id, attempt, self.rank)
        handler = logging.FileHandler(new_log(*place))
        self._keep_log = partial(keep_log, *place)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log = handler
        logger = logging.getLogger("mtlfleet")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").addHandler(handler)

    def _end(self) -> None:
        """Forget the trial; the process stays."""
        self.run = None
        if self._log is not None:
            logging.getLogger("mtlfleet").removeHandler(self._log)
            logging.getLogger("py.warnings").removeHandler(self._log)
            self._log.close()
            self._log = None
            try:
                self._keep_log()
            except (FleetError, OSError) as error:  # a log that stays on its machine costs no result
                logging.getLogger("mtlfleet").warning("the log of this trial was not kept: %s", error)

    def _clean(self) -> None:
        """Put the process-wide switches that a trial may have left turned back to torch's defaults."""
        import gc

        import numpy as np
        import torch

        self._end()
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(False)
        np.random.seed(0)
        random.seed(0)
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def pid(self) -> int:
        return os.getpid()


def _kind(error: BaseException) -> str:
    from mtlfleet.errors import EnvironmentProblem, StoreAway

    names = {cls.__name__ for cls in type(error).__mro__}
    text = str(error).lower()
    if "OutOfMemoryError" in names or isinstance(error, MemoryError):
        return "oom"
    if isinstance(error, StoreAway):
        return "away"
    if isinstance(error, EnvironmentProblem):
        return "environment"
    if isinstance(error, RuntimeError) and any(words in text for words in _PEER_LOST):
        return "comm"
    return "user"
