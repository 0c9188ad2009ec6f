from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlfleet.methods.base import Decision, Losses, LossWeighting, Step, Weights, method


@method("rlw")
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomLossWeighting(LossWeighting[None]):
    r"""Weights drawn anew at every step: a test of whether clever weights beat noisy ones.

    ``distribution``: ``normal`` softmax of N(0, 1); ``uniform`` softmax of U(0, 1); ``random_normal`` softmax of N(m,
    s) with m, s drawn once per run; ``dirichlet`` flat on the simplex; ``bernoulli`` a random non-empty subset in
    equal parts; ``constrained_bernoulli`` one task. ``scale``: weights sum to K (``sum_k``) or to one (``sum_one``).

    Math        :math:`\alpha = s\,\tilde w`, :math:`\tilde w` in the simplex, s = K or 1.
    Shapes      losses ``[K]`` -> weights ``[K]``; state: none, draws are keyed by (seed, step).
    Source      Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022.
    Departures  Weights sum to K, so that the step is as long as that of ``sum``; ``rlw@native`` sums to one as the
                authors' code.
    Properties  common_scaling

    >>> from mtlfleet import methods
    >>> methods.weights("rlw", torch.eye(4), distribution="constrained_bernoulli").sort().values
    tensor([0., 0., 0., 4.], dtype=torch.float64)
    """

    distribution: Literal["normal", "uniform", "random_normal", "dirichlet", "bernoulli", "constrained_bernoulli"] = (
        "normal"
    )
    scale: Literal["sum_k", "sum_one"] = "sum_k"

    presets: ClassVar[dict[str, dict[str, str]]] = {"native": {"scale": "sum_one"}}

    @property
    def weight_sum(self) -> str:  # type: ignore[override]
        return "tasks" if self.scale == "sum_k" else "one"

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:  # noqa: ARG002
        drawn = self._draw(len(losses), at)
        return Decision(Weights(drawn * (len(losses) if self.scale == "sum_k" else 1)), None)

    def _draw(self, tasks: int, at: Step) -> Tensor:
        """[K] in the simplex."""
        generator = at.generator("rlw")
        match self.distribution:
            case "normal":
                return torch.softmax(_normal(tasks, generator), 0)
            case "uniform":
                return torch.softmax(_uniform(tasks, generator), 0)
            case "random_normal":
                once = Step(seed=at.seed).generator("rlw.moments")
                mean, spread = _uniform(tasks, once), _uniform(tasks, once)
                return torch.softmax(mean + spread * _normal(tasks, generator), 0)
            case "dirichlet":
                drawn = torch.empty(tasks, dtype=torch.float64).exponential_(generator=generator)
                return drawn / drawn.sum()
            case "bernoulli":
                chosen = _bits(tasks, generator)
                while not chosen.any():
                    chosen = _bits(tasks, generator)
                return chosen / chosen.sum()
            case "constrained_bernoulli":
                one = int(torch.randint(tasks, (), generator=generator))
                return torch.nn.functional.one_hot(torch.tensor(one), tasks).to(torch.float64)


def _normal(tasks: int, generator: torch.Generator) -> Tensor:
    return torch.randn(tasks, generator=generator, dtype=torch.float64)


def _uniform(tasks: int, generator: torch.Generator) -> Tensor:
    return torch.rand(tasks, generator=generator, dtype=torch.float64)


def _bits(tasks: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (tasks,), generator=generator).to(torch.float64)
