"""What runs next: tuning trials first, a cell's final trials as soon as its own search is over.

No Ray here and no clock: the queue is a function of the study and of the states and validation numbers in the store,
so a launch that died goes on with the same finals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from mtlfleet.launch.selection import Values, choose, mean_values, read_values, reference_cells
from mtlfleet.plan import Cell, Study, Trial
from mtlfleet.plan.place import Root

OUTCOMES = frozenset({"done", "diverged"})  # never run again
STUCK = frozenset({"failed", "oom"})  # run again only on request


class Queue:
    """The trials of a study that are still to run, in order, and the configurations chosen so far."""

    def __init__(
        self,
        study: Study,
        states: Callable[[Iterable[str]], Mapping[str, str]],
        *,
        rerun: frozenset[str] = frozenset(),
        wanted: Callable[[Trial], bool] = lambda _: True,
        root: Root | None = None,
    ) -> None:
        self.study = study
        self.root = root or study.root
        self.rerun = rerun
        self.wanted = wanted
        self._read_states = states
        self.tuning: dict[Cell, list[Trial]] = {}
        for trial in study.tune_trials():
            self.tuning.setdefault(cell_of(trial), []).append(trial)
        self.finals: dict[Cell, tuple[Trial, ...]] = {}
        self.selected: dict[Cell, int] = {}
        self.hopeless: dict[Cell, str] = {}
        self.values: dict[str, Values] = {}
        self.states: dict[str, str] = {}
        self._owed: set[str] = set()  # queued or running
        self._pending: deque[Trial] = deque()
        self._admit([t for t in study.tune_trials() if wanted(t)])
        self.settle()

    def _admit(self, trials: Iterable[Trial]) -> None:
        fresh = [trial for trial in trials if trial.id not in self.states]
        self.states.update(self._read_states([trial.id for trial in fresh]))
        queued = [trial for trial in fresh if self._must_run(trial)]
        self._owed.update(trial.id for trial in queued)
        self._pending.extend(queued)

    def _must_run(self, trial: Trial) -> bool:
        state = self.states[trial.id]
        return state not in OUTCOMES and (state not in STUCK or state in self.rerun)

    def settle(self) -> bool:
        """Choose for every cell whose search is over; True when new final trials came of it."""
        chosen_before = len(self.selected)
        waiting = [c for c in self.study.cells() if c not in self.selected and c not in self.hopeless]
        # Single-task cells first: what the others are compared with must be chosen before them.
        for cell in sorted(waiting, key=lambda c: c.task == "*"):
            self._settle_cell(cell)
        if len(self.selected) == chosen_before:
            return False
        known = {trial.id for trials in self.finals.values() for trial in trials}
        fresh = [t for t in self.study.final_trials(self.selected) if t.id not in known]
        for trial in fresh:
            self.finals[cell_of(trial)] = (*self.finals.get(cell_of(trial), ()), trial)
        self._admit([trial for trial in fresh if self.wanted(trial)])
        return True

    def _settle_cell(self, cell: Cell) -> None:
        trials = self.tuning.get(cell, [])
        if not trials:
            self.selected[cell] = 0
            return
        if any(self._open(trial) for trial in trials):
            return
        references = reference_cells(self.study, cell)
        if not all(c in self.selected for c in references):
            return
        done = [t.id for t in trials if self.states[t.id] == "done" and t.id not in self.values]
        self.values.update(read_values(self.root, self.study.name, done))
        reference = mean_values(
            self.values[t.id] for c in references for t in self.tuning.get(c, ()) if self._chosen(c, t)
        )
        index = choose(self.study, cell, trials, self.values, reference)
        if index is None:
            self.hopeless[cell] = f"all {len(trials)} tuning runs diverged or failed"
        else:
            self.selected[cell] = index

    def _open(self, trial: Trial) -> bool:
        """Whether a trial's last word is still to come."""
        return trial.id in self._owed or self.states.get(trial.id) not in OUTCOMES | STUCK

    def _chosen(self, cell: Cell, trial: Trial) -> bool:
        return trial.config_index == self.selected.get(cell) and trial.id in self.values

    def next(self) -> Trial | None:
        """The next trial to start, or None when nothing can start now."""
        if not self._pending:
            self.settle()
        return self._pending.popleft() if self._pending else None

    def finished(self, trial: str, state: str) -> None:
        """A trial's outcome. A state that launch re-runs (lost) keeps its cell open until the next launch."""
        self.states[trial] = state
        self._owed.discard(trial)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial known so far, tuning first."""
        tune = [trial for trials in self.tuning.values() for trial in trials]
        return (*tune, *(trial for trials in self.finals.values() for trial in trials))

    @property
    def waiting(self) -> int:
        return len(self._pending)


def cell_of(trial: Trial) -> Cell:
    return Cell(trial.method.name, trial.dataset.name, trial.architecture.name, trial.task)
