"""Our methods where others expect an aggregator of a Jacobian, as TorchJD's ``jac_to_grad`` does."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mtlfleet.engine.reference import DenseGradients
from mtlfleet.methods import build
from mtlfleet.methods.base import OutOfDomain, Step


class MethodAggregator(nn.Module):
    """A method as a module: a Jacobian [K, P] in, the combined gradient [P] out; its state moves on with each call.

    >>> import torch
    >>> MethodAggregator("pcgrad")(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5000, 1.5000])
    """

    def __init__(self, name: str, *, seed: int = 0, **params: Any) -> None:
        """``name`` and ``params`` as for ``methods.build``. Raises UnknownName, and OutOfDomain for ``stl`` and
        methods that look at several batches."""
        super().__init__()
        self.method = build(name, **params)
        if self.method.single_task:
            raise OutOfDomain(f"{name} trains one task: there is nothing to aggregate")
        if self.method.drawn > 1:
            raise OutOfDomain(f"{name} looks at {self.method.drawn} batches a step: an aggregator is given one")
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget the state: the next call is a first step."""
        self.calls = 0
        self.state: Any = None
        self.weights: Tensor | None = None

    def forward(self, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
        """``losses`` [K] for methods that look at them; ones otherwise. ``weights`` then holds the weights used, or
        None."""
        if self.calls == 0:
            self.state = self.method.init(matrix.shape[0])
        grads = DenseGradients(matrix, losses)
        self.state, _ = self.method.step(grads, self.state, Step(self.calls, 0, self.seed))
        self.calls += 1
        self.weights = grads.weights
        return grads.direction()
