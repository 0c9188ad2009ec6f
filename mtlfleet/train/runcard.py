"""The conventions a trial ran under, as they really were: what makes two methods' numbers comparable, or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from mtlfleet.engine import StepInfo
from mtlfleet.methods.private import Private

if TYPE_CHECKING:
    from mtlfleet.train.run import TrialRun


def run_card(run: TrialRun, info: StepInfo) -> dict[str, Any]:
    """After a step, when it is known what is shared. Plain values, the same on every rank; view ``run_cards``.

    ``heads``, ``weight_sum``: see ``Method``; ``scale``: what the study lays over the method's own.
    ``shared_parameters``: reached by two tasks or more; ``own_parameters``: by one, summed. ``private``: the state that
    an Adam of the method's own trains, with its learning rates and no weight decay but the method's. ``forward_passes``
    and ``samples`` are per step, of the global batch.
    """
    method, reach, recipe = run.parts.method, run.engine.reach, run.recipe
    rates = {name: value for name, value in run.trial.method.params.items() if name.startswith("lr_")}
    packed = method.pack(run.engine.state) or {}
    return {
        "heads": method.heads,
        "weight_sum": method.weight_sum,
        "scale": run.trial.method.scale or "native",
        "shared": "reached by two tasks or more" if len(reach.tasks) > 1 else "all of the one task",
        "shared_parameters": sum(p.numel() for p in reach.shared),
        "own_parameters": sum(p.numel() for p in reach.own_parameters),
        "agreement": "losses and products summed over ranks in float64; draws keyed by seed, purpose and step",
        "exchange": run.engine.exchange.mode,
        "guard": f"a step with a non-finite number is skipped whole; more than {recipe.max_skips} in a row: diverged",
        "private": {"state": sorted(_private(run.engine.state)), **rates},
        "state": sorted(packed),
        "shards": list(method.shards),
        "needs": method.needs.value,
        "backward": info.backward,
        "clip_norm": recipe.clip_norm,
        "shared_norm": method.shared_norm,
        "optimizer": recipe.optimizer,
        "budget": recipe.budget,
        "steps": run.total,
        "batches": method.batches,
        "outer_batches": method.outer_batches,
        "outer_split": method.outer_split if method.outer_batches else None,
        "turns": run.turns,
        "forward_passes": method.batches * run.turns + int(method.observes) + 4 * method.outer_batches,
        "samples": method.drawn * recipe.global_batch,
    }


def _private(state: Any, name: str = "") -> Iterator[str]:
    """Names of the parts of a state that are trained by an Adam of their own."""
    if isinstance(state, Private):
        yield name or "weights"
    elif is_dataclass(state):
        for f in fields(state):
            yield from _private(getattr(state, f.name), f.name)
