"""What every architecture promises on every dataset, and every backbone behind it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.architectures.base import Architecture, Backbone
from mtlfleet.datasets.base import Dataset, Split
from mtlfleet.engine.contract import Batch, Context, Output

ARCHITECTURES = sorted(registry.builtin("architecture"))
DATASETS = sorted(registry.builtin("dataset"))
BACKBONES = sorted(registry.builtin("backbone"))
SHAPES: dict[str, tuple[int, ...]] = {"mlp": (3, 5, 4), "cnn": (3, 9, 6)}
PAIRS = list(product(ARCHITECTURES, DATASETS))


def batch(data: Dataset, size: int = 6) -> Batch:
    arrays = data.split(Split.TRAIN).fetch(np.arange(size))
    targets = {name: torch.from_numpy(values) for name, values in arrays.targets.items()}
    present = {name: torch.ones(size, dtype=torch.bool) for name in targets}
    return Batch(torch.from_numpy(arrays.inputs), targets, present, torch.from_numpy(arrays.index))


def build(architecture: str, data: Dataset, tasks: int | None = None) -> nn.Module:
    built = registry.build("architecture", architecture)
    assert isinstance(built, Architecture)
    facts = data.facts()
    torch.manual_seed(5)
    return built.build(facts.tasks[:tasks], facts.input_shape)


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Dataset]:
    architecture, dataset = request.param
    data = registry.build("dataset", dataset)
    return build(architecture, data), data


def losses(model: nn.Module, data: Dataset) -> dict[str, Tensor]:
    given = batch(data)
    output: Output = model(given, Context())
    return {task.name: data.loss(task, output.predictions[task.name], given) for task in data.facts().tasks}


def test_one_prediction_per_task_in_its_shape(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    output = model(batch(data), Context())
    tasks = data.facts().tasks
    assert list(output.predictions) == [task.name for task in tasks]
    for task in tasks:
        assert output.predictions[task.name].shape == (6, task.outputs)
        assert output.predictions[task.name].isfinite().all()
    assert output.features["shared"].shape[0] == 6


def test_roles_are_what_gradients_reach(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    by_task = losses(model, data)
    roles = model.roles()  # type: ignore[operator]
    parameters = dict(model.named_parameters())
    assert set(roles) == set(parameters)
    reached: dict[str, set[str]] = {name: set() for name in parameters}
    for task, loss in by_task.items():
        grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                reached[name].add(task)
    assert all(reached.values()), "a parameter that no task's loss reaches"
    for name, role in roles.items():
        assert reached[name] == ({role.removeprefix("task:")} if role.startswith("task:") else set(by_task))
    assert "shared" in roles.values()


def test_every_loss_moves_the_trunk(pair: tuple[nn.Module, Dataset]) -> None:
    model, data = pair
    roles = model.roles()  # type: ignore[operator]
    trunk = [p for name, p in model.named_parameters() if roles[name] == "shared"]
    for loss in losses(model, data).values():
        grads = torch.autograd.grad(loss, trunk, retain_graph=True)
        assert sum(float(g.square().sum()) for g in grads) > 0


def test_a_sample_does_not_see_its_neighbours(pair: tuple[nn.Module, Dataset]) -> None:
    """In training mode: ranks cut a batch differently, and the result must not care."""
    model, data = pair
    model.train()
    given = batch(data)
    together = model(given, Context()).predictions
    assert isinstance(given.inputs, Tensor)
    for i in range(6):
        alone = Batch(given.inputs[i : i + 1], {}, {}, given.index[i : i + 1])
        for task, prediction in model(alone, Context()).predictions.items():
            torch.testing.assert_close(prediction[0], together[task][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "dataset"), PAIRS)
def test_the_seed_decides_the_weights(architecture: str, dataset: str) -> None:
    data = registry.build("dataset", dataset)
    built = registry.build("architecture", architecture)
    models = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        models.append(list(built.build(data.facts().tasks, data.facts().input_shape).parameters()))
    assert all(torch.equal(a, b) for a, b in zip(models[0], models[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(models[0], models[2], strict=True))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("params", [{"depth": 1, "width": 7}, {"depth": 3, "width": 16, "dropout": 0.5}])
def test_a_backbone_gives_features_of_the_width_it_says(name: str, params: dict[str, float]) -> None:
    built = registry.build("backbone", name, **params)
    assert isinstance(built, Backbone)
    module, width = built.build(SHAPES[name])
    features = module(torch.randn(4, *SHAPES[name]))
    assert features.shape == (4, width) and width == params["width"]
    kinds = {type(m) for m in module.modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._NormBase) for kind in kinds)
    assert (nn.Dropout in kinds) == ("dropout" in params)
