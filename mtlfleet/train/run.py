"""One trial, start to end, on one rank: no Ray, no SQL. Runs in process, under torchrun and in a gang alike."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mtlfleet.datasets.base import Split
from mtlfleet.engine import GradientEngine, StepInfo, average_buffers, kept_buffers
from mtlfleet.engine.contract import Context
from mtlfleet.plan.streams import stream
from mtlfleet.plan.trial import Trial
from mtlfleet.store import AttemptWriter, checkpoint_key, new_checkpoint, prune_checkpoints
from mtlfleet.strategies.base import Phase
from mtlfleet.train import checkpoint
from mtlfleet.train.build import Parts, Site, build, seed_torch
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.environment import environment
from mtlfleet.train.evaluate import Measured, evaluate, mean_skill
from mtlfleet.train.feed import Feed
from mtlfleet.train.forward import After, Passed, forward
from mtlfleet.train.lookahead import Foresight
from mtlfleet.train.optimizers import Optimizers, refuse_second_optimizer, rest_unreached
from mtlfleet.train.phases import enter, frozen, phase_at
from mtlfleet.train.progress import Position, Progress
from mtlfleet.train.records import Records

CHECKPOINT_SECONDS = 30.0  # between checkpoints of a trial that does not name a number of steps


class TrialRun:
    """A trial on this rank. ``begin``, then ``advance`` until it is finished; ``pause`` leaves it resumable."""

    def __init__(self, trial: Trial, site: Site, comm: Communicator) -> None:
        self.trial = trial
        self.site = site
        self.comm = comm

    def begin(self, facts: Mapping[str, object] | None = None) -> Progress:
        """Build everything, restore the newest checkpoint that counts, claim the attempt (rank 0)."""
        self.parts: Parts = build(self.trial, self.site, self.comm.device)
        parts = self.parts
        self.recipe = recipe = self.trial.recipe.drawing(parts.method.drawn)
        refuse_second_optimizer(parts.method, recipe)
        train = parts.splits[Split.TRAIN]
        self.total = recipe.total_steps(len(train))
        self.eval_interval = recipe.eval_interval(len(train))
        names = tuple(task.name for task in parts.tasks)
        self.feed = Feed(
            train, names, recipe.global_batch, self.trial.seed, self.comm.rank, self.comm.world, parts.dataset.augment
        )
        self.phases = parts.strategy.phases(self.total)
        self.phase: Phase | None = None
        self.frozen = frozen(parts.model)
        self.engine = GradientEngine(
            parts.model, parts.method, process_group=self.comm.group, seed=self.trial.seed, tasks=names
        )
        self.turns = parts.method.turns(len(names))
        self._enter(self.phases[0])
        self.foresight = Foresight(self) if parts.method.outer_batches else None
        self.position = Position(loss_sum=[0.0] * len(names))
        self.best: dict[str, Tensor] | None = None
        self.records = Records(self)
        self.started = self.saved_at = time.monotonic()
        self._restore_and_claim(facts or {})
        return self._progress("running")

    def _restore_and_claim(self, facts: Mapping[str, object]) -> None:
        place = (self.site.root, self.site.study, self.trial.id)
        found = checkpoint.newest(*place) if self.comm.rank == 0 else None
        key: str | None = self.comm.share(found[0] if found else None)
        if key is not None:
            self._restore(found[1] if found else checkpoint.read(self.site.root, key))
        self.writer: AttemptWriter | None = None
        if self.comm.rank == 0:
            # Claimed after loading: the step written down is the step that was really restored.
            self.writer = AttemptWriter.claim(
                *place,
                restored_step=self.position.step,
                restored_checkpoint=key,
                world_size=self.comm.world,
                facts={**facts, "environment": environment(self.site.origin, self.comm.device)},
            )
        self.attempt: int = self.comm.share(self.writer.attempt if self.writer else None)

    def advance(self, seconds: float = 1.0) -> Progress:
        """Train to the first evaluation or checkpoint boundary at least ``seconds`` away, or to the end.

        Rank 0's clock decides where to pause and tells the others; what is computed does not depend on it.
        """
        until = time.monotonic() + seconds
        while self.position.step < self.total and not self._out_of_patience():
            if not self._stretch():
                return self._end("diverged", f"{self.position.skips} steps in a row had non-finite numbers")
            if self.position.step < self.total and not self._out_of_patience():  # rows of the end must still count
                late, save = self.comm.share((time.monotonic() >= until, self._checkpoint_due()))
                if save:
                    self.save()
                if late:
                    return self._progress("running")
        if self.best is None and self.trial.recipe.keep == "best":
            return self._end("diverged", "no evaluation on validation was finite")
        self._finish()
        return self._end("done", "")

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        return patience is not None and self.position.unimproved >= patience

    def pause(self) -> None:
        """Leave a checkpoint of this moment and say that the attempt was interrupted."""
        if self.position.step:
            self.save()
        if self.writer is not None:
            self._close("interrupted", "drained")

    def _stretch(self) -> bool:
        """Steps up to the next boundary, then an evaluation if one is due. False when the method has diverged."""
        step, every = self.position.step, self.trial.recipe.checkpoint_every
        ends = [self.total, (step // self.eval_interval + 1) * self.eval_interval]
        if every:
            ends.append((step // every + 1) * every)
        for _ in range(min(ends) - step):
            self._step()
            if self.position.skips > self.trial.recipe.max_skips:
                return False
        if self.position.step % self.eval_interval == 0 or self.position.step == self.total:
            self._evaluate()
        return True

    def _context(self, step: int) -> Context:
        name = phase_at(self.phases, step).name
        return Context(phase=name, epoch=self.epoch(step), step=step, total_steps=self.total)

    def epoch(self, step: int) -> int:
        """Passes over the training split done before a step, whatever a step takes of it."""
        return self.feed.epoch(step * self.engine.batches)

    def _enter(self, phase: Phase) -> None:
        """Be in a phase: what trains in it, and optimizers of its own if it has others than the one before."""
        if phase is self.phase:
            return
        if self.phase is None or phase.optimizers != self.phase.optimizers:
            count = self.turns if self.parts.method.own_optimizers else 1
            self.optimizers = Optimizers(self.recipe, self.parts.model, count, phase.optimizers)
        enter(self.parts.model, phase, self.frozen)
        self.phase = phase

    def _step(self) -> None:
        step = self.position.step
        self._enter(phase_at(self.phases, step))
        self.optimizers.set_rate(step, self.total)
        batches = self.engine.batches
        self.position.samples += sum(self.feed.size(step * batches + place) for place in range(batches))
        if self.foresight is not None:
            self.foresight.look(step)
            self.position.samples += self.foresight.samples(step)
        infos = [self._turn(step, turn) for turn in range(self.turns)]
        self.position.step += 1
        for info in infos:
            if info.skipped:
                self.position.skips += 1
                if self.foresight is not None:
                    self.foresight.undo()
                self.records.skipped(info.status)
                return
        self.position.skips = 0
        info = infos[0]
        if self.engine.observes:
            self._observe(step)
        for k, loss in enumerate(info.losses.tolist()):
            self.position.loss_sum[k] += loss
        self.position.loss_count += 1
        self.records.step(info)

    def _turn(self, step: int, turn: int) -> StepInfo:
        """One optimizer step on the step's batches; without one when a number was not finite."""
        batches, draws = self.engine.batches, f"forward/{turn}" if turn else "forward"
        forwards = [self.losses(step * batches + place, step, draws) for place in range(batches)]
        after = After(self.parts.model, forwards, self.comm, uneven=self.feed.size(step * batches) < self.comm.world)
        losses, features = [one.losses for one in forwards], [one.shared for one in forwards]
        if not after.finite:  # the step is skipped as any other with such numbers is
            losses = [{task: loss * math.nan for task, loss in one.items()} for one in losses]
        watch = self.records.watch(step + 1, turn)
        info = self.engine.step(losses, epoch=self.epoch(step), features=features, watch=watch)
        if info.skipped:
            return info
        if self.turns > 1:
            rest_unreached(self.parts.model, self.engine.reach, info.weights)
        after.add()
        if self.trial.recipe.clip_norm is not None:
            self.engine.clip_(self.trial.recipe.clip_norm)
        self.optimizers.step(turn)
        return info

    def _observe(self, step: int) -> None:
        """The step's losses again, after it: same samples, same dropout, and running statistics as if nothing had
        been, unless the method asks for another pass in train mode."""
        place = step * self.engine.batches + self.engine.batches - 1
        anew = self.parts.method.reforward == "train_mode"
        with torch.no_grad(), nullcontext() if anew else kept_buffers(self.parts.model):
            losses = self.losses(place, step, "observe" if anew else "forward").losses
            self.engine.observe(losses, epoch=self.epoch(step))

    def losses(self, place: int, step: int, draws: str = "forward", feed: Feed | None = None) -> Passed:
        """A forward pass of a feed's batch ``place``.

        Dropout and its kin draw from torch's global generator: it is set for this batch, so a resumed run draws alike.
        """
        seed_torch(stream(self.trial.seed, draws, place, self.comm.rank), self.comm.device)
        return forward((feed or self.feed).at(place), self.parts, self._context(step), self.comm, self.phase)

    def _evaluate(self) -> None:
        """Validation metrics; keep the weights if no earlier checkpoint was better."""
        average_buffers(self.parts.model, self.engine.exchange)
        found = self._measure(Split.VAL)
        score = mean_skill(found, self.parts.tasks)
        self.position.unimproved += 1
        if score > self.position.best_score:
            self.position.unimproved = 0
            self.position.best_score, self.position.best_step = score, self.position.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.parts.model.state_dict().items()}
        self.records.measured(Split.VAL, found)
        self.records.losses()
        self.position.loss_sum, self.position.loss_count = [0.0] * len(self.feed.tasks), 0

    def _measure(self, split: Split) -> tuple[Measured, ...]:
        ctx = self._context(max(0, self.position.step - 1))
        return evaluate(self.parts.model, self.parts.splits[split], self.parts.tasks, ctx, self.comm)

    def _finish(self) -> None:
        """Go back to the checkpoint that validation chose and measure it; test is read here, once, or never."""
        chosen = self.position.step
        if self.trial.recipe.keep == "best" and self.best is not None:
            self.parts.model.load_state_dict(self.best)
            chosen = self.position.best_step
        self.records.weights()
        for split in (Split.VAL, Split.TEST) if self.trial.phase == "final" else (Split.VAL,):
            found = self._measure(split)
            self.records.measured(split, found, final=True)
        self.records.ended(chosen)

    def _checkpoint_due(self) -> bool:
        every = self.trial.recipe.checkpoint_every
        if every:
            return self.position.step % every == 0
        return time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS

    def save(self) -> None:
        """Checkpoint this moment. Rows first, durable; then the checkpoint: what it covers is never lost with it."""
        states = self.comm.collect(checkpoint.random_state())
        engine = self.engine.state_dict()
        for name in self.parts.method.shards:  # each rank holds its own columns of these: every rank's are kept
            engine["method"][name] = self.comm.collect(engine["method"][name])
        self.saved_at = time.monotonic()
        if self.writer is None:
            return
        self.writer.flush()
        state = {
            "optimizer": self.optimizers.state_dict(),
            "engine": engine,
            "position": vars(self.position).copy(),
            "random": states,
        }
        step, place = self.position.step, (self.site.root, self.site.study, self.trial.id)
        with new_checkpoint(*place, step, self.attempt) as folder:
            saved = checkpoint.save(folder, self.parts.model.state_dict(), self.best, state)
        prune_checkpoints(*place, self.attempt, keep=2)
        self.writer.checkpoint(step, checkpoint_key(*place[1:], step, self.attempt), saved.size_bytes, saved.sha256)

    def _restore(self, loaded: checkpoint.Loaded) -> None:
        weights, best, state = loaded
        self.parts.model.load_state_dict(weights)
        self.best = {name: tensor.to(self.comm.device) for name, tensor in best.items()} if best else None
        self.position = Position(**state["position"])
        self._enter(phase_at(self.phases, max(0, self.position.step - 1)))  # whose optimizers these are
        self.optimizers.load_state_dict(state["optimizer"])
        for name in self.parts.method.shards:
            state["engine"]["method"][name] = state["engine"]["method"][name][self.comm.rank]
        self.engine.load_state_dict(state["engine"])
        checkpoint.set_random_state(state["random"][self.comm.rank])

    def _progress(self, state: str) -> Progress:
        return Progress(self.position.step, self.total, state, self.attempt, self.position.best_score)

    def _end(self, state: str, reason: str) -> Progress:
        if self.writer is not None:
            self._close(state, reason)
            prune_checkpoints(self.site.root, self.site.study, self.trial.id, self.attempt, keep=0)
        return self._progress(state)

    def _close(self, state: str, reason: str) -> None:
        assert self.writer is not None
        spent = time.monotonic() - self.started
        self.writer.close(state, reason, self.position.step, spent, spent * self.comm.world)


def run_trial(trial: Trial, site: Site, comm: Communicator, facts: Mapping[str, Any] | None = None) -> Progress:
    """A whole trial in this process."""
    run = TrialRun(trial, site, comm)
    progress = run.begin(facts)
    while not progress.finished:
        progress = run.advance()
    return progress
