from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch

from mtlfleet import registry
from mtlfleet.methods.base import Decision, Gram, GramWeighting, Losses, Method, OutOfDomain, Step, Weights, method


@lru_cache(maxsize=64)
def _built(name: str, params: str) -> Method[Any]:
    return cast("Method[Any]", registry.build("method", name, **json.loads(params)))


@method("matched_sum")
@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedSum(GramWeighting[Any]):
    r"""The plain sum of the losses with another method's step length: a control for length without direction.

    ``like``: the method whose length is taken, ``mgda`` or ``cagrad@nash``; ``params``: its hyper-parameters. If the
    method beats a tuned sum and not this one, then its learning rate was better, and not its direction.

    Math        :math:`\alpha_k = \sqrt{\hat\alpha^T G \hat\alpha / 1^T G 1}` for the method's weights
                :math:`\hat\alpha`; zero where the gradients cancel.
    Shapes      gram ``[K, K]`` -> weights ``[K]``; state: the inner method's.
    Source      ours; the confound of step length: Kurin et al., In Defense of the Unitary Scalarization, NeurIPS 2022.
    Departures  None.
    Properties  common_scaling

    >>> from mtlfleet import methods
    >>> methods.weights("matched_sum", torch.tensor([[1.0, 0.0], [0.0, 1.0]]), like="mgda")
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    like: str = "mgda"
    params: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.inner, GramWeighting) or isinstance(self.inner, MatchedSum):
            raise OutOfDomain(
                f"matched_sum: `{self.like}` does not weigh task gradients by their Gram matrix",
                help="`mtlfleet methods list` shows families: use one of `gram`",
            )

    @property
    def inner(self) -> Method[Any]:
        """The method whose step length is taken. Raises UnknownName."""
        return _built(self.like, json.dumps(dict(self.params or {}), sort_keys=True))

    def init(self, tasks: int) -> Any:
        return self.inner.init(tasks)

    def weigh(self, gram: Gram, losses: Losses, state: Any, at: Step) -> Decision:
        """Raises what the inner method raises."""
        inner = cast("GramWeighting[Any]", self.inner)
        found, state, status = inner.weigh(gram, losses, state, at)
        wanted, own = (found @ gram @ found).clamp(min=0), gram.sum()
        length = torch.sqrt(wanted / own) if own > 0 else torch.zeros_like(wanted)
        return Decision(Weights(length.expand(len(losses)).clone()), state, status)

    def pack(self, state: Any) -> dict[str, Any] | None:
        return self.inner.pack(state)

    def unpack(self, packed: dict[str, Any] | None, tasks: int) -> Any:
        return self.inner.unpack(packed, tasks)
