"""What one step did, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mtlfleet.engine.agreement import Agreement
    from mtlfleet.engine.opening import View
    from mtlfleet.engine.watching import Effect


@dataclass(frozen=True)
class StepInfo:
    """What one step did. Tensors are CPU float64 and equal on every rank.

    losses [K]; weights [K] or None (elementwise methods); gram [K, K] or None (not asked for); ``update_norm`` the
    Euclidean norm of the shared gradient; ``status`` the method's word; ``skipped`` when a non-finite number was found,
    in which case no ``.grad`` is set and the method's state is as before; ``skips`` how many such steps this one is the
    last of, in a row. ``bytes_sent`` by this rank in its collectives, its micro-batches' included.

    ``backward`` says how the gradients were computed: ``"weighted"`` (one pass), ``"sequential"``, ``"heads first"``,
    ``"batched"``, ``"factored"`` with the layers that were; ``approximation`` is None for exact steps, else ``"ub"``,
    ``"sketch"``, ``"stale"``, or ``"first"``: weights (and gram) of the first micro-batch only. ``loss_scale`` is the
    factor the losses carried in half precision (1 without). ``report``: what the method tells of itself, numbers per
    task [K] by name. ``descents`` [K]: the products of the (last batch's) task gradients with the shared gradient as
    written, where ``step`` was asked to watch; else None, and ``gram @ weights`` tells them where both are there.
    """

    tasks: tuple[str, ...]
    losses: Tensor
    weights: Tensor | None
    gram: Tensor | None
    update_norm: float
    status: str
    skipped: bool
    bytes_sent: int
    backward: str = "sequential"
    approximation: str | None = None
    loss_scale: float = 1.0
    skips: int = 0
    report: Mapping[str, Tensor] = field(default_factory=dict)
    descents: Tensor | None = None

    @property
    def norms(self) -> Tensor | None:
        """[K] norms of the averaged task gradients."""
        return None if self.gram is None else self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """[K, K] cosines between averaged task gradients; zero where a gradient is zero."""
        norms = self.norms
        if norms is None or self.gram is None:
            return None
        scale = norms[:, None] * norms[None, :]
        return torch.where(scale > 0, self.gram / scale.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def reported(method: Any, state: Any) -> Mapping[str, Tensor]:
    """What the method tells of itself, if it tells anything."""
    report = getattr(method, "report", None)
    return {} if report is None else report(state)


def made(view: View, agreed: Agreement, report: Mapping[str, Tensor], seen: Effect | None, **facts: Any) -> StepInfo:
    """Of a view that the method has looked at; ``seen``: what a watcher saw; ``facts``: the fields as they are."""
    return StepInfo(
        tasks=agreed.tasks,
        losses=view.losses,
        weights=view.weights,
        gram=seen.gram if view.seen_gram is None and seen is not None else view.seen_gram,
        descents=None if seen is None else seen.descents,
        backward=agreed.told(view.way),
        report=report,
        **facts,
    )
