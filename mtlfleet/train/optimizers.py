"""The recipe's optimizer and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mtlfleet.methods.base import Method, OutOfDomain
from mtlfleet.plan.trial import Recipe


def build_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """One group, every parameter; weight decay as the optimizer defines it (decoupled for ``adamw`` only)."""
    lr, decay = recipe.lr, recipe.weight_decay
    chosen = [p for p in parameters if p.requires_grad]
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
    """The rate of a step (0-based): linear warm-up, then constant or half a cosine down to zero.

    >>> learning_rate(Recipe(lr=1.0, steps=10, schedule="cosine"), 5, 10)
    0.5
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
