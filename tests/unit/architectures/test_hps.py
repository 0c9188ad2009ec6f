from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mtlfleet.architectures.hps import HPS
from mtlfleet.engine.contract import Batch, Context
from mtlfleet.plan.tasks import Task

TASKS = tuple(Task(name, outputs, "regression", ("rmse",), 1.0) for name, outputs in (("a", 1), ("b", 3), ("c", 2)))


def weights(tasks: tuple[Task, ...], seed: int = 0, **params: object) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return HPS(**params).build(tasks, (1, 6, 6)).state_dict()  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.sampled_from(TASKS), min_size=1),
    st.permutations(TASKS),
    st.sampled_from(["mlp", "cnn"]),
    st.integers(0, 99),
)
def test_first_weights_do_not_depend_on_which_other_tasks_there_are(
    chosen: set[Task], order: list[Task], backbone: str, seed: int
) -> None:
    """So a multi-task model and its single-task references start from the same numbers."""
    some = weights(tuple(task for task in order if task in chosen), seed, backbone=backbone, head_hidden=5)
    every = weights(TASKS, seed, backbone=backbone, head_hidden=5)
    assert set(some) <= set(every)
    assert all(torch.equal(value, every[name]) for name, value in some.items())


def test_heads_of_equal_shape_start_differently() -> None:
    twins = (TASKS[0], Task("d", 1, "regression", ("rmse",), 1.0))
    drawn = weights(twins)
    assert not torch.equal(drawn["heads.a.weight"], drawn["heads.d.weight"])


def test_building_more_heads_leaves_the_global_generator_alike() -> None:
    after = []
    for tasks in (TASKS[:1], TASKS):
        weights(tasks)
        after.append(torch.rand(3))
    assert torch.equal(after[0], after[1])


def test_the_shared_feature_is_what_linear_heads_read() -> None:
    model = HPS(width=9).build(TASKS, (4,))
    batch = Batch(torch.randn(5, 4), {}, {}, torch.arange(5))
    output = model(batch, Context())
    z = output.features["shared"]
    assert z.shape == (5, 9)
    for name, head in model.heads.items():  # type: ignore[operator, union-attr]
        assert isinstance(head, nn.Linear)
        torch.testing.assert_close(output.predictions[name], z @ head.weight.T + head.bias)


def test_a_hidden_layer_belongs_to_its_task() -> None:
    model = HPS(head_hidden=5).build(TASKS, (4,))
    roles = model.roles()  # type: ignore[operator]
    assert sum(role == "task:a" for role in roles.values()) == 4


@pytest.mark.parametrize("params", [{"width": 0}, {"depth": -1}, {"dropout": 1.0}, {"head_hidden": -2}])
def test_impossible_parameters_are_refused_by_name(params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        HPS(**params)  # type: ignore[arg-type]


def test_images_are_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match="use mlp"):
        HPS(backbone="cnn").build(TASKS, (10,))
