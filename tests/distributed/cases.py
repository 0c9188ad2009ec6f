"""A small network with every kind of parameter, a global batch, and what each method should make of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mtlfleet import methods
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Needs, Step
from mtlfleet.engine.reference import DenseGradients

TASKS = ("alpha", "beta", "gamma")
STEPS = 3
BATCH = 13  # not divisible by 2 or 4: ranks are uneven


class Net(nn.Module):
    """Shared trunk, a layer two of three tasks share, heads, one frozen and one unused parameter.

    With ``single`` all heads read the trunk's output, as methods at the representation need it.
    """

    def __init__(self, single: bool = False) -> None:
        super().__init__()
        self.single = single
        self.trunk = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
        self.pair = nn.Linear(5, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.trunk(x)) * self.frozen

    def behind(self, z: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Per-sample losses [B] by task."""
        paired = z if self.single else torch.tanh(self.pair(z))
        features = {"alpha": paired, "beta": paired, "gamma": z}
        return {t: (self.heads[t](features[t]) - (k + 1) * y).square().mean(1) for k, t in enumerate(TASKS)}

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return self.behind(self.features(x), y)


def net(single: bool = False) -> Net:
    torch.manual_seed(5)
    return Net(single)


def data(step: int, batch: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(100 + step + 1000 * batch)
    return torch.randn(BATCH, 6, generator=drawn), torch.randn(BATCH, 2, generator=drawn)


def build(name: str) -> methods.Method:
    return methods.build(name, weights=(0.2, 0.5, 0.3)) if name == "linear" else methods.build(name)


def names() -> list[str]:
    return [name for name in methods.names() if name != "stl"]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def descend(model: nn.Module, found: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found:
                parameter -= 0.05 * found[name]
    model.zero_grad(set_to_none=True)


def by_engine(
    rank: int, world: int, chosen: list[str], wire: str = "fp32", exchange: str = "auto"
) -> dict[str, list[dict[str, Tensor]]]:
    """Each method, three steps of the engine on this rank's part of each global batch; gradients by step."""
    found: dict[str, list[dict[str, Tensor]]] = {}
    mine = torch.from_numpy(np.array_split(np.arange(BATCH), world)[rank])
    for name in chosen:
        method = build(name)
        model = net(method.needs is Needs.REPRESENTATION)
        engine = GradientEngine(model, method, wire=wire, exchange=exchange, seed=3)
        found[name] = []
        for step in range(STEPS):
            told, zs = [], []
            for x, y in (data(step, batch) for batch in range(method.batches)):
                zs.append(model.features(x[mine]))
                local = model.behind(zs[-1], y[mine])
                told.append({task: each.mean() * (len(mine) * world / BATCH) for task, each in local.items()})
            info = engine.step(told if len(told) > 1 else told[0], epoch=step, features=zs if model.single else None)
            assert not info.skipped, info.status
            found[name].append(gradients(model))
            descend(model, found[name][-1])
    return found


def by_oracle(name: str) -> list[dict[str, Tensor]]:
    """The same from the whole Jacobian in one process, written with autograd alone."""
    method = build(name)
    model = net(method.needs is Needs.REPRESENTATION)
    state, found = method.init(len(TASKS)), []
    shared = [
        (n, p) for n, p in model.named_parameters() if n.startswith("trunk" if model.single else ("trunk", "pair"))
    ]
    for step in range(STEPS):
        dense, losses = _dense(model, method.batches, step, shared)
        state, _ = method.step(dense, state, Step(step, step, 3))
        step_grads = {
            n: part.view_as(p).clone()
            for (n, p), part in zip(shared, dense.direction().split([p.numel() for _, p in shared]), strict=True)
        }
        weights = dense.own if dense.own is not None else dense.weights if method.heads == "weighted" else None
        for k, task in enumerate(TASKS):
            own = list(model.heads[task].named_parameters())
            weight = 1.0 if weights is None else float(weights[k])
            each = torch.autograd.grad(losses[k], [p for _, p in own], retain_graph=True)
            step_grads |= {f"heads.{task}.{n}": g * weight for (n, _), g in zip(own, each, strict=True)}
        found.append(step_grads)
        descend(model, step_grads)
    return found


def _dense(
    model: Net, batches: int, step: int, shared: list[tuple[str, nn.Parameter]]
) -> tuple[DenseGradients, list[Tensor]]:
    """Whole Jacobians of a step's batches, and the losses of the last."""
    parameters, jacobians = [p for _, p in shared], []
    for batch in range(batches):
        x, y = data(step, batch)
        z = model.features(x)
        losses = [each.mean() for each in model.behind(z, y).values()]
        jacobians.append(_jacobian(losses, parameters))
    at_z = None
    if model.single:
        each = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses])
        at_z = (z.detach(), each, _jacobian(list(z.flatten()), parameters))
    groups, cursor = {}, 0
    for name, parameter in shared:
        groups[name] = slice(cursor, cursor := cursor + parameter.numel())
    told = torch.stack(losses)
    return DenseGradients(jacobians[-1], told, groups=groups, earlier=jacobians[:-1], representation=at_z), losses


def _jacobian(outputs: list[Tensor], parameters: list[nn.Parameter]) -> Tensor:
    rows = []
    for output in outputs:
        found = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        parts = zip(found, parameters, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts]))
    return torch.stack(rows)


def relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any tensor, relative to that tensor's norm."""
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    return max(float((one[n] - other[n]).norm() / other[n].norm().clamp_min(1e-12)) for n in one)
