"""Contracts of datasets and architectures, as findings: what ``check`` says of a plug-in's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlfleet.architectures.base import Batch, Context
from mtlfleet.datasets.base import Arrays, Dataset, Samples, Split
from mtlfleet.datasets.losses import mean_loss
from mtlfleet.plan.tasks import Task
from mtlfleet.registry import Catalogue

TASKS = (
    Task("a", 3, "classification", ("accuracy",), 0.4),
    Task("b", 1, "regression", ("rmse",), 1.0),
)
INPUTS = (6,)


def dataset_findings(data: Dataset) -> list[str]:
    """What a dataset in memory breaks of its contract."""
    facts = data.facts()
    found = []
    if data.facts() != facts:
        found.append("facts differ from call to call")
    sizes = {
        Split.TRAIN: facts.train_size,
        Split.VAL: facts.extras.get("val_size"),
        Split.TEST: facts.extras.get("test_size"),
    }
    seen: dict[bytes, Split] = {}
    for split in Split:
        samples = data.split(split)
        if sizes[split] is not None and len(samples) != sizes[split]:
            found.append(f"{split.value}: {len(samples)} samples, facts say {sizes[split]}")
        if not len(samples):
            found.append(f"{split.value}: no samples")
            continue
        arrays = samples.fetch(np.arange(min(len(samples), 256)))
        found += [f"{split.value}: {line}" for line in _array_findings(arrays, facts.tasks, facts.input_shape)]
        if isinstance(arrays.inputs, np.ndarray):
            for row in arrays.inputs:
                if seen.setdefault(row.tobytes(), split) is not split:
                    found.append(f"{split.value}: a sample that is in {seen[row.tobytes()].value} too")
                    break
        found += [f"{split.value}: {line}" for line in _order_findings(samples)]
    return found


def _array_findings(arrays: Arrays, tasks: tuple[Task, ...], shape: tuple[int, ...]) -> list[str]:
    found = []
    inputs = arrays.inputs if isinstance(arrays.inputs, Mapping) else {"inputs": arrays.inputs}
    for name, x in inputs.items():
        if x.shape[1:] != tuple(shape):
            found.append(f"{name}: shape {list(x.shape[1:])}, facts say {list(shape)}")
        if not np.isfinite(x).all():
            found.append(f"{name}: numbers that are not finite")
    for task in tasks:
        if task.name not in arrays.targets:
            found.append(f"no target for task {task.name}")
            continue
        y = arrays.targets[task.name]
        wants = np.int64 if task.kind in ("classification", "segmentation") else np.float32
        if y.dtype != wants:
            found.append(f"target {task.name} is {y.dtype}, expected {np.dtype(wants)}")
        elif wants is np.int64 and (y.max(initial=0) >= task.outputs or y.min(initial=0) < -1):
            found.append(f"target {task.name} has labels {y.min()} to {y.max()}, expected 0 to {task.outputs - 1}")
    return found


def _order_findings(samples: Samples) -> list[str]:
    picked = np.array([len(samples) - 1, 0, 0])
    some, all_ = samples.fetch(picked), samples.fetch(np.arange(len(samples)))
    if isinstance(some.inputs, Mapping) or isinstance(all_.inputs, Mapping):
        return []
    if not np.array_equal(some.inputs, all_.inputs[picked]):
        return ["fetch does not give the samples that were asked for, in their order"]
    return [] if np.array_equal(some.index, picked) else ["index does not say which samples these are"]


def _batch(size: int) -> Batch:
    g = torch.Generator().manual_seed(0)
    targets = {"a": torch.randint(3, (size,), generator=g), "b": torch.randn(size, generator=g)}
    there = {name: torch.ones(size, dtype=torch.bool) for name in targets}
    return Batch(torch.randn(size, *INPUTS, generator=g), targets, there, torch.arange(size))


def architecture_findings(catalogue: Catalogue, name: str) -> list[str]:
    """What an architecture breaks of its contract, on two tasks and six features."""
    built = catalogue.load("architecture", name)(**catalogue.parameters("architecture", name, {}))
    models: list[Any] = []
    for seed in (1, 1):
        torch.default_generator.manual_seed(seed)
        models.append(built.build(TASKS, INPUTS))
    model, found = models[0], []
    if not all(map(torch.equal, models[0].parameters(), models[1].parameters())):
        found.append("the same seed gives other weights")
    batch = _batch(6)
    predictions = model(batch, Context()).predictions
    found += [
        f"prediction of {task.name}: expected shape [6, {task.outputs}]"
        for task in TASKS
        if task.name not in predictions or predictions[task.name].shape != (6, task.outputs)
    ]
    if found:
        return found
    found += _role_findings(model, {task.name: mean_loss(task, predictions[task.name], batch) for task in TASKS})
    alone = Batch(batch.inputs[:1] if isinstance(batch.inputs, Tensor) else batch.inputs, {}, {}, batch.index[:1])
    model.eval()
    together = model(batch, Context()).predictions
    found += [
        f"prediction of {task}: a sample's depends on its neighbours in the batch"
        for task, prediction in model(alone, Context()).predictions.items()
        if not torch.allclose(prediction[0], together[task][0], rtol=1e-4, atol=1e-5)
    ]
    single = built.build(TASKS[:1], INPUTS)
    if list(single(batch, Context()).predictions) != ["a"]:
        found.append("one task alone does not give one prediction: single-task references need it")
    return found


def _role_findings(model: Any, losses: dict[str, Tensor]) -> list[str]:
    parameters = dict(model.named_parameters())
    roles = model.roles()
    if set(roles) != set(parameters):
        return ["roles() does not name every parameter exactly once"]
    reached: dict[str, set[str]] = {name: set() for name in parameters}
    for task, loss in losses.items():
        grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                reached[name].add(task)
    found = []
    for name, role in roles.items():
        task = role.partition(":")[2]
        if not reached[name]:
            found.append(f"{name}: no task's loss reaches it")
        elif task and reached[name] != {task}:
            found.append(f"{name} is declared {role}, but {', '.join(sorted(reached[name]))} reach it")
        elif role == "shared" and len(reached[name]) < len(losses) and len(reached[name]) == 1:
            found.append(f"{name} is declared shared, but only {next(iter(reached[name]))} reaches it")
    return found
