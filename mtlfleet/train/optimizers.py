"""The recipe's optimizer and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.engine.discovery import Reach
from mtlfleet.methods.base import Method, OutOfDomain
from mtlfleet.plan.trial import Recipe
from mtlfleet.train.phases import roles


def build_optimizer(recipe: Recipe, parameters: Mapping[nn.Parameter, str]) -> torch.optim.Optimizer:
    """Parameters by role in one group; those of gates in another without weight decay, which would pull every gate to
    the middle whatever its task says. Decay is as the optimizer defines it (decoupled for ``adamw`` only)."""
    lr, decay = recipe.lr, recipe.weight_decay
    gates = [p for p, role in parameters.items() if role.partition(":")[0] == "gate"] if decay else []
    apart = {id(p) for p in gates}
    chosen: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in apart]}]
    if gates:
        chosen.append({"params": gates, "weight_decay": 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(chosen, lr=lr, momentum=recipe.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(chosen, lr=lr, weight_decay=decay, fused=True)


def refuse_second_optimizer(method: Method[Any], recipe: Recipe) -> None:
    """Raise OutOfDomain when a method that makes the update itself would have it adapted or averaged once more."""
    if method.owns_update and (recipe.optimizer != "sgd" or recipe.momentum):
        found = recipe.optimizer + (f" with momentum {recipe.momentum:g}" if recipe.optimizer == "sgd" else "")
        raise OutOfDomain(
            f"{method.name} is an optimizer with moments of its own; the recipe's {found} would change its updates",
            help="set train.optimizer: sgd and train.momentum: 0 for this method",
        )


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The rate of a step (0-based): linear warm-up, then what the recipe's schedule says.

    >>> learning_rate(Recipe(lr=1.0, steps=10, schedule="cosine"), 5, 10)
    0.5
    >>> halved_twice = Recipe(lr=1.0, steps=9, schedule="step", decay=0.5, decays=2)
    >>> [learning_rate(halved_twice, step, 9) for step in (0, 2, 3, 5, 6, 8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.lr
    past, rest = step - recipe.warmup_steps, max(1, total - recipe.warmup_steps)
    if recipe.schedule == "step":
        return recipe.lr * recipe.decay ** (past * (recipe.decays + 1) // rest)
    done = past / rest
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * done))


class Optimizers:
    """The optimizers of each turn of a batch: one set for all turns, or one each with moments of its own.

    A set has the recipe's optimizer, first, and one for each pattern of roles in ``rules`` (as in ``Phase``).
    """

    def __init__(
        self, recipe: Recipe, model: nn.Module, count: int, rules: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.recipes = [recipe, *(replace(recipe, **changes) for changes in (rules or {}).values())]
        parts: list[dict[nn.Parameter, str]] = [{} for _ in self.recipes]
        role_of = roles(model)
        for name, parameter in model.named_parameters():
            role = role_of[name]
            place = next((k for k, pattern in enumerate(rules or {}, 1) if fnmatchcase(role, pattern)), 0)
            parts[place][parameter] = role
        kept = [(own, part) for own, part in zip(self.recipes, parts, strict=True) if part]
        self.recipes = [own for own, _ in kept]
        self.sets = [[build_optimizer(own, part) for own, part in kept] for _ in range(count)]

    @property
    def each(self) -> list[torch.optim.Optimizer]:
        """All of them, turn after turn."""
        return [optimizer for one in self.sets for optimizer in one]

    def set_rate(self, step: int, total: int) -> None:
        """The learning rates of a step, each by its own recipe."""
        for one in self.sets:
            for recipe, optimizer in zip(self.recipes, one, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step, total)

    def step(self, turn: int) -> None:
        """One step of the turn's optimizers; then no parameter has a gradient."""
        for optimizer in self.sets[turn % len(self.sets)]:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.each]

    def load_state_dict(self, states: list[dict[str, Any]] | dict[str, Any]) -> None:
        """Inverse of ``state_dict``; a single state, as checkpoints had before there were turns, is that of one."""
        states = [states] if isinstance(states, dict) else states
        for optimizer, state in zip(self.each, states, strict=True):
            optimizer.load_state_dict(state)


def rest_unreached(model: nn.Module, reach: Reach, weights: Tensor | None) -> None:
    """Parameters that no task with a weight reaches get no gradient: momentum alone must not move them."""
    if weights is None:
        return
    active = [task for task, weight in zip(reach.tasks, weights.tolist(), strict=True) if weight]
    reached = frozenset().union(*(reach.names[task] for task in active))
    for name, parameter in model.named_parameters():
        if name not in reached:
            parameter.grad = None
