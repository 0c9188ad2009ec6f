"""Whether an optimizer treats every number alone: only then may each rank step on a part of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlfleet.errors import EngineRefused

Make = Callable[[Any], Any]  # parameters, or groups of them -> an optimizer

STEPS = 3
CUT = 7  # numbers of the first part, of 24


def refuse_whole_tensors(make: Make, options: Sequence[dict[str, Any]], device: torch.device) -> None:
    """Raise EngineRefused unless the optimizer moves the halves of a tensor as it moves the whole one.

    Three optimizers are made for a small matrix: for all of it, and for each of two flat parts, as ranks would hold
    them. Norms, row means, orthogonal updates and quantities of the whole model differ between the two.
    """
    with torch.random.fork_rng(devices=[]):
        drawn = torch.Generator().manual_seed(7)
        start = torch.randn(4, 6, generator=drawn)
        # Gradients of very different size, so that the parts' norms and means are far from the whole one's.
        sizes = torch.logspace(-2, 1, 24).view(4, 6)
        gradients = [torch.randn(4, 6, generator=drawn) * sizes for _ in range(STEPS)]
        whole, name = _moved(make, options, start.to(device), [g.to(device) for g in gradients])
        try:
            parts = [
                _moved(
                    make, options, start.flatten()[part].to(device), [g.flatten()[part].to(device) for g in gradients]
                )[0]
                for part in (slice(CUT), slice(CUT, None))
            ]
        except Exception as problem:
            raise _refusal(name, f"it takes a matrix but not a flat part of it: {problem}") from problem
    if not torch.allclose(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-7):
        raise _refusal(name, "on two parts of a small matrix it moves elsewhere than on the whole one")


def _moved(
    make: Make, options: Sequence[dict[str, Any]], start: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, str]:
    """Where each group's parameter goes in some steps, [groups, numbers]; and the optimizer's name."""
    parameters = [nn.Parameter(start.clone()) for _ in options]
    optimizer = make(grouped(options, [[parameter] for parameter in parameters]))
    name = type(optimizer).__name__
    for group in optimizer.param_groups:  # a warm-up that starts at zero would hide everything
        group["lr"] = group["lr"] if float(group.get("lr", 1.0)) else 0.01
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient.clone()
        try:
            optimizer.step()
        except Exception as problem:
            raise _refusal(name, f"it cannot step on dense gradients alone: {problem}") from problem
    return torch.stack([parameter.detach().flatten() for parameter in parameters]).cpu(), name


def grouped(options: Sequence[dict[str, Any]], members: Sequence[list[nn.Parameter]]) -> Any:
    """What the optimizer is made of: the parameters, or a group of them for each set of options."""
    if len(options) == 1 and not options[0]:
        return members[0]
    return [{"params": mine, **chosen} for mine, chosen in zip(members, options, strict=True)]


def _refusal(name: str, why: str) -> EngineRefused:
    return EngineRefused(
        f"{name} cannot be sharded: it does not treat every number alone",
        notes=[why],
        help="shard an elementwise one (SGD, Adam, AdamW, NAdam, Adagrad, RMSprop, ...), or use this one unsharded",
    )
