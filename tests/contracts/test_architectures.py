"""What every architecture promises on every dataset, and every backbone behind it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.architectures.base import Architecture, Backbone
from mtlfleet.datasets.base import Dataset, Split
from mtlfleet.engine.contract import Batch, Context, Output
from mtlfleet.plan.tasks import DENSE

ARCHITECTURES = sorted(registry.builtin("architecture"))
BACKBONES = sorted(registry.builtin("backbone"))
SHAPES: dict[str, tuple[int, ...]] = {
    "mlp": (3, 5, 4),
    "cnn": (3, 9, 6),
    "segnet": (3, 16, 24),
    "resnet": (3, 33, 40),
    "gnn": (6, 20),
    "tabular": (5,),
    "bag": (9,),
    "bert": (9,),
}
SMALL: dict[str, dict[str, Any]] = {  # what suits a dataset, small
    "synthetic_regression": {"backbone": "mlp", "width": 8},
    "multidigits": {"backbone": "cnn", "width": 8, "backbone_params": {"channels": 4}},
    "densedigits": {"backbone": "segnet", "width": 4, "depth": 2, "head_hidden": 4},
}
PARAMS = {"densedigits": {"train": 12, "val": 8, "test": 8}, "synthetic_regression": {"tasks": 3}}
PAIRS = list(product(ARCHITECTURES, SMALL))


def dataset(name: str) -> Dataset:
    built = registry.build("dataset", name, **PARAMS.get(name, {}))
    assert isinstance(built, Dataset)
    return built


def batch(data: Dataset, size: int = 6) -> Batch:
    arrays = data.split(Split.TRAIN).fetch(np.arange(size))
    assert isinstance(arrays.inputs, np.ndarray)
    targets = {name: torch.from_numpy(values) for name, values in arrays.targets.items()}
    present = {name: torch.ones(size, dtype=torch.bool) for name in targets}
    return Batch(torch.from_numpy(arrays.inputs), targets, present, torch.from_numpy(arrays.index))


def build(architecture: str, data: Dataset, tasks: int | None = None, seed: int = 5, **more: Any) -> nn.Module:
    built = registry.build("architecture", architecture, **SMALL[data.name], **more)
    assert isinstance(built, Architecture)
    facts = data.facts()
    torch.manual_seed(seed)
    return built.build(facts.tasks[:tasks], facts.input_shape)


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Dataset]:
    architecture, name = request.param
    data = dataset(name)
    return build(architecture, data), data


def losses(model: nn.Module, data: Dataset) -> dict[str, Tensor]:
    given = batch(data)
    torch.manual_seed(0)
    output: Output = model(given, Context())
    return {task.name: data.loss(task, output.predictions[task.name], given) for task in data.facts().tasks}


def test_one_prediction_per_task_in_its_shape(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    given = batch(data)
    output = model(given, Context())
    tasks = data.facts().tasks
    assert list(output.predictions) == [task.name for task in tasks]
    assert isinstance(given.inputs, Tensor)
    for task in tasks:
        pixels = given.inputs.shape[2:] if task.kind in DENSE else ()
        assert output.predictions[task.name].shape == (6, task.outputs, *pixels)
        assert output.predictions[task.name].isfinite().all()


def reach(model: nn.Module, by_task: dict[str, Tensor]) -> dict[str, set[str]]:
    """Which tasks' losses give each parameter a gradient: a backward pass per task, not a walk over the graph."""
    parameters = dict(model.named_parameters())
    found: dict[str, set[str]] = {name: set() for name in parameters}
    for task, loss in by_task.items():
        grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                found[name].add(task)
    return found


def test_roles_are_what_gradients_reach(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    by_task = losses(model, data)
    roles = model.roles()  # type: ignore[operator]
    reached = reach(model, by_task)
    assert set(roles) == set(reached)
    assert all(reached.values()), "a parameter that no task's loss reaches"
    for name, role in roles.items():
        kind, _, task = role.partition(":")
        assert kind in ("shared", "task", "gate", "aux")
        assert reached[name] == {task} if task else len(reached[name]) > 1
        assert name.startswith("heads.") <= (kind == "task")
    assert "shared" in roles.values()


def test_every_loss_moves_the_trunk(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    roles = model.roles()  # type: ignore[operator]
    trunk = [p for name, p in model.named_parameters() if roles[name] == "shared"]
    for loss in losses(model, data).values():
        grads = torch.autograd.grad(loss, trunk, retain_graph=True, allow_unused=True)
        assert sum(float(g.square().sum()) for g in grads if g is not None) > 0


def test_a_sample_does_not_see_its_neighbours(pair: tuple[nn.Module, Dataset]) -> None:
    """In training mode: ranks cut a batch differently, and the result must not care."""
    model, data = pair
    model.train()
    given = batch(data)
    torch.manual_seed(3)
    together = model(given, Context()).predictions
    assert isinstance(given.inputs, Tensor)
    for i in range(6):
        alone = Batch(given.inputs[i : i + 1], {}, {}, given.index[i : i + 1])
        torch.manual_seed(3)  # ltb draws its parents
        for task, prediction in model(alone, Context()).predictions.items():
            torch.testing.assert_close(prediction[0], together[task][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_decides_the_weights(architecture: str) -> None:
    data = dataset("multidigits")
    models = [dict(build(architecture, data, seed=seed).named_parameters()) for seed in (5, 5, 6)]
    drawn = [n for n, p in models[0].items() if p.dim() > 1 and p.std() > 0 and "joints" not in n]
    assert drawn and all(torch.equal(p, models[1][n]) for n, p in models[0].items())
    assert not any(torch.equal(models[0][n], models[2][n]) for n in drawn)


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_a_single_task_is_trained_by_the_same_architecture(architecture: str, name: str) -> None:
    """Its single-task reference: everything but the head counts as shared, as the engine sees it."""
    data = dataset(name)
    model = build(architecture, data, tasks=1)
    first = data.facts().tasks[0].name
    output = model(batch(data), Context())
    assert list(output.predictions) == [first]
    roles = model.roles()  # type: ignore[operator]
    assert set(roles.values()) <= {"shared", "gate", f"task:{first}"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tasks_in_another_order_are_the_same_tasks(architecture: str) -> None:
    """Outputs follow names: nothing is decided by a place, but for whose column a branching net starts with."""
    data = dataset("densedigits")
    built = registry.build("architecture", architecture, **SMALL["densedigits"])
    facts, given = data.facts(), batch(data)
    found = []
    for tasks in (facts.tasks, facts.tasks[::-1]):
        torch.manual_seed(1)
        model = built.build(tasks, facts.input_shape).eval()
        found.append(model(given, Context()).predictions)
    for task in facts.tasks:
        torch.testing.assert_close(found[0][task.name], found[1][task.name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_ten_steps_lower_the_loss(architecture: str, name: str) -> None:
    data = dataset(name)
    model = build(architecture, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(15):
        total = torch.stack(list(losses(model, data).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.97 * history[0]


def test_shared_inputs_are_asked_for_where_features_mix() -> None:
    data = dataset("multidigits")
    given = batch(data)
    assert isinstance(given.inputs, Tensor)
    own = Batch({"left": given.inputs, "right": given.inputs.flip(0)}, given.targets, given.present, given.index)
    for name in ARCHITECTURES:
        model = build(name, data).eval()
        if name in ("cross_stitch", "nddr", "ltb"):
            with pytest.raises(ValueError, match="an input per task"):
                model(own, Context())
            continue
        both, one = model(own, Context()).predictions, model(given, Context()).predictions
        torch.testing.assert_close(both["left"], one["left"])
        torch.testing.assert_close(both["right"], one["right"].flip(0))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_backbone_gives_features_of_the_shape_it_says(name: str, dropout: float) -> None:
    if name == "bert":
        pytest.importorskip("transformers", reason="the extra [text]")
    params = {"resnet": {"width": 8, "depth": 18}, "segnet": {"width": 4, "depth": 3}, "gnn": {"width": 8, "hidden": 4}}
    built = registry.build("backbone", name, **{"width": 16, "dropout": dropout, **params.get(name, {})})
    assert isinstance(built, Backbone)
    stages = built.stages(SHAPES[name])
    x = torch.rand(4, *SHAPES[name])
    if name in ("bag", "bert", "tabular"):
        x = (x * 50).floor()
    for stage in stages:
        early = stage.first(x)
        late = stage.rest(early)
        if name not in ("mlp", "cnn") or early.dim() == len(stage.early) + 1:
            assert early.shape[1:] == stage.early and late.shape[1:] == stage.late
        x = stage.down(late)
        assert x.shape == (4, *stage.shape)
    module, shape = built.build(SHAPES[name])
    assert shape == stages[-1].shape
    kinds = {type(m) for m in module.modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._NormBase) for kind in kinds)
    assert any(issubclass(kind, nn.modules.dropout._DropoutNd) for kind in kinds) >= bool(dropout)
