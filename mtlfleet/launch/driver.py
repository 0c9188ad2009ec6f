"""A launch from plan to outcome: what is missing runs, what runs is written down, what was written can be asked."""

from __future__ import annotations

import fcntl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.launch import documents
from mtlfleet.launch.drain import LOCK, Drain
from mtlfleet.launch.progress import Board, Display, display
from mtlfleet.launch.queue import OUTCOMES, STUCK, Queue
from mtlfleet.plan import Study, Trial
from mtlfleet.store import Ingester, trial_states
from mtlfleet.store.place import at

if TYPE_CHECKING:
    from mtlfleet.train.build import Site

INGEST_S = 5.0


@dataclass(frozen=True)
class Options:
    """Site settings of one launch; none of them enters a key."""

    address: str = "local"
    max_concurrent: int | None = None
    progress: str = "auto"
    rerun: frozenset[str] = frozenset()  # states to run again: failed, oom
    wanted: Callable[[Trial], bool] = field(default=lambda _: True)


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    states: Mapping[str, int]
    hopeless: Mapping[str, str]
    stopped: int  # exit code of the signal that stopped it, 0 if none did
    seconds: float
    ran: int

    @property
    def exit_code(self) -> int:
        """0 all done (divergence is an outcome); 1 failed or missing cells; 130 or 143 stopped, resumable."""
        if self.stopped:
            return self.stopped
        return 0 if set(self.states) <= OUTCOMES and not self.hopeless else 1


def launch(study: Study, options: Options) -> Outcome:
    """Run what the study still lacks. Raises EnvironmentProblem when the cluster cannot hold it or a launch is under
    way."""
    root, started = study.root, time.monotonic()
    screen = display(options.progress)
    with _only_launch(study.folder), Drain(study.folder, screen.say) as drain:
        at(root).verify()
        documents.write_definitions(study, root)
        queue = Queue(
            study,
            lambda ids: trial_states(root, study.name, ids),
            rerun=options.rerun,
            wanted=options.wanted,
            root=root,
        )
        documents.write_trials(study, root, queue.trials)
        if queue.waiting:
            with redirect_stdout(sys.stderr):  # where Ray prints what its raylet says of a dead process
                ran = _run(study, queue, options, screen, drain)
        else:
            _lock(study, screen)
            ran = 0
        with Ingester(root, max_bytes=study.publish_max_bytes) as ingester:
            try:
                ingester.run_once()
            finally:  # a damaged segment is told at the end, and hides nothing else
                ingester.publish()
        wanted = [trial for trial in queue.trials if options.wanted(trial)]
        states = Counter(trial_states(root, study.name, [trial.id for trial in wanted]).values())
        hopeless = {"/".join(cell): why for cell, why in queue.hopeless.items()}
        return Outcome(states, hopeless, drain.code, time.monotonic() - started, ran)


def _lock(study: Study, screen: Display) -> None:
    locked = documents.lock_claims(study.claims, study.name, study.sha256, study.root)
    if locked:
        screen.say(f"locked {len(locked)} claim{'s' if len(locked) != 1 else ''}: {', '.join(locked)}")


def _run(study: Study, queue: Queue, options: Options, screen: Display, drain: Drain) -> int:
    from mtlfleet.launch import cluster, tune
    from mtlfleet.train.build import Site
    from mtlfleet.train.environment import Origin

    resources = study.resources
    if options.max_concurrent is not None:
        from dataclasses import replace

        resources = replace(resources, max_concurrent=options.max_concurrent)
    base = study.path.parent
    site = Site(study.root, study.name, study.plugins, base, keep_weights=study.keep_weights, origin=Origin.here(base))
    _refuse_what_cannot_be_built(queue.trials, site)
    screen.say("starting Ray" if options.address == "local" else f"joining Ray at {options.address}")
    found = cluster.connect(options.address)
    try:
        slots = found.slots(resources)
        _lock(study, screen)  # not before it is known that this study can run here, nor after its first run
        watch = Watch(study, queue, screen, drain, slots)
        name = f"{study.name}-{time.strftime('%Y%m%dT%H%M%S')}"
        with _ingesting(study, screen):
            screen.start(watch.board)
            try:
                tune.fit(name, watch.hooks(), site, resources, slots, study.folder / ".tune" / name)
            finally:
                screen.stop()
        return watch.ran
    finally:
        cluster.disconnect()


def _refuse_what_cannot_be_built(trials: Sequence[Trial], site: Site) -> None:
    """What planning could not see without running a plug-in's code or a method's: its error once, before Ray starts,
    instead of in every trial. Raises PluginError or OutOfDomain."""
    from mtlfleet.train.build import build_method

    for spec in {trial.architecture.name: trial.architecture for trial in trials}.values():
        if spec.fingerprint:
            site.catalogue.load("architecture", spec.use)
    for spec in {trial.method.name: trial.method for trial in trials}.values():
        if spec.fingerprint:
            site.catalogue.load("method", spec.use)
        elif spec.heads or spec.scale:
            build_method(site, spec)


class Watch:
    """Stands between the scheduler's loop and the queue: hands out trials, listens, redraws."""

    def __init__(self, study: Study, queue: Queue, screen: Display, drain: Drain, slots: int) -> None:
        self.study, self.queue, self.screen, self.drain = study, queue, screen, drain
        self.trials: dict[str, Trial] = {}
        self.live: set[str] = set()
        self.ran = 0
        self.known = len(queue.trials)
        self.board = Board(study.name, expected(study, queue), slots)
        for trial in queue.trials:
            state = queue.states.get(trial.id, "missing")
            if queue.wanted(trial) and state in OUTCOMES | STUCK and state not in queue.rerun:
                self._count(trial, state)
                self.board.cached += 1

    def hooks(self) -> Any:
        from mtlfleet.launch.tune import Hooks

        return Hooks(
            next=self.next,
            live=lambda: len(self.live),
            started=self.started,
            result=self.result,
            ended=self.ended,
            tick=self.screen.tick,
            draining=lambda: self.drain.requested,
        )

    def next(self) -> Trial | None:
        try:
            trial = self.queue.next()
            if len(self.queue.trials) != self.known:
                # Written before the first of them starts: what runs is always in the plan.
                documents.write_trials(self.study, self.study.root, self.queue.trials)
                self.known = len(self.queue.trials)
        except EnvironmentProblem as problem:  # nothing can be chosen or planned; what runs may still leave checkpoints
            self.drain.give_up(f"the results cannot be reached: {problem.message}")
            return None
        if trial is not None:
            self.trials[trial.id] = trial
            self.live.add(trial.id)
        return trial

    def started(self, key: str) -> None:
        self.board.running[key] = (self.trials[key], time.monotonic(), 0, 0)
        self.screen.event("started", self.trials[key])

    def result(self, key: str, result: Mapping[str, Any]) -> None:
        trial, since, *_ = self.board.running.get(key, (self.trials[key], time.monotonic(), 0, 0))
        state = str(result["state"])
        if not result.get("done"):
            self.board.running[key] = (trial, since, int(result["step_done"]), int(result["total_steps"]))
            return
        detail = str(result.get("why", "")).partition("\n")[0]
        if state == "failed":
            detail += f"\n          mtlfleet logs {trial.id}"
        self._over(trial, state, detail or f"{time.monotonic() - since:.1f} s")
        if result.get("store_lost"):
            self.drain.give_up(f"the results cannot be written: {detail}")

    def ended(self, key: str, error: str) -> None:
        """Tune is through with a trial; if no outcome was reported, it was stopped or its gang was lost."""
        if key not in self.live:
            return
        if error:
            self._over(self.trials[key], "lost", error.strip().splitlines()[-1])
        else:
            self.live.discard(key)
            self.board.running.pop(key, None)

    def _over(self, trial: Trial, state: str, detail: str) -> None:
        self.live.discard(trial.id)
        self.board.running.pop(trial.id, None)
        self.queue.finished(trial.id, state)
        self.ran += 1
        self._count(trial, state)
        self.screen.event(state, trial, detail)

    def _count(self, trial: Trial, state: str) -> None:
        (self.board.done if state in OUTCOMES else self.board.bad)[trial.method.name] += 1


def expected(study: Study, queue: Queue) -> dict[str, int]:
    """Trials per method, counting the final ones of every cell before their configuration is known."""
    count: Counter[str] = Counter()
    finals = study.final_trials(dict.fromkeys(study.cells(), 0))
    for trial in (*study.tune_trials(), *finals):
        if queue.wanted(trial):
            count[trial.method.name] += 1
    return {spec.name: count[spec.name] for spec in study.methods if count[spec.name]}


@contextmanager
def _only_launch(root: Path) -> Iterator[None]:
    """One launch per store on this machine: two would schedule the same cells twice (harmless, but a waste)."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a+")
    except OSError as error:
        raise EnvironmentProblem(
            f"the results folder {root} cannot be written: {error.strerror}",
            help="choose another place with storage.root",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EnvironmentProblem(
                f"another launch works on {root}", help="wait for it, or end it with `mtlfleet stop STUDY`"
            ) from None
        yield


@contextmanager
def _ingesting(study: Study, screen: Display) -> Iterator[None]:
    """Fold segments into DuckDB while trials run. A failure is told, and the ingestion after the run repeats the
    work."""
    over = threading.Event()

    def work() -> None:
        ingester: Ingester | None = None
        with ExitStack() as opened:
            while not over.wait(INGEST_S):
                try:
                    if ingester is None:
                        ingester = opened.enter_context(Ingester(study.root, max_bytes=study.publish_max_bytes))
                    ingester.run_once()
                except Exception as error:
                    screen.say(f"ingestion failed and will be tried again: {error}")

    thread = threading.Thread(target=work, name="ingester", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
