"""What each way of sharing promises beyond the contract: sizes, isolation, gates, masks, branches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlfleet import registry
from mtlfleet.engine.contract import Batch, Context
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.plan.tasks import Task

TASKS = tuple(Task(name, outputs, "regression", ("rmse",), 1.0) for name, outputs in (("a", 1), ("b", 3), ("c", 2)))
SHAPE = (5,)
WIDTH = 6
TRUNK = (5 * 6 + 6) + (6 * 6 + 6)  # two layers
HEADS = sum(6 * t.outputs + t.outputs for t in TASKS)
LATER = Context(step=50, total_steps=100)


def build(name: str, tasks: tuple[Task, ...] = TASKS, seed: int = 1, **params: Any) -> Any:
    torch.manual_seed(seed)
    return registry.build("architecture", name, **{"width": WIDTH, **params}).build(tasks, SHAPE)


def batch(size: int = 7) -> Batch:
    return Batch(torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(2)), {}, {}, torch.arange(size))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def moved(model: nn.Module, predictions: Tensor) -> set[str]:
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(predictions.sum(), list(named.values()), allow_unused=True, retain_graph=True)
    return {name for name, g in zip(named, grads, strict=True) if g is not None and g.abs().sum() > 0}


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("hps", {}, TRUNK + HEADS),
        ("cross_stitch", {}, 3 * TRUNK + HEADS + 9 * 6),
        ("nddr", {}, 3 * TRUNK + HEADS + 3 * (18 * 6 + 12)),
        ("mmoe", {"experts": 5}, 5 * TRUNK + HEADS + 3 * (5 * 5 + 5)),
        ("mmoe", {"experts": 5, "one_gate": True}, 5 * TRUNK + HEADS + (5 * 5 + 5)),
        ("cgc", {"shared_experts": 2}, 5 * TRUNK + HEADS + 3 * (5 * 3 + 3)),
        ("ple", {}, 4 * TRUNK + HEADS + 3 * (5 * 2 + 2) + (5 * 4 + 4) + 3 * (6 * 2 + 2)),
        ("dselect_k", {"experts": 4, "k": 2}, 4 * TRUNK + HEADS + 3 * 2 * (2 + 1)),
        ("ltb", {}, 3 * TRUNK + HEADS + 2 * 9),
        ("smtl", {}, 4 * TRUNK + HEADS + 3),
    ],
)  # fmt: skip
def test_the_number_of_parameters_is_the_one_on_paper(name: str, params: dict[str, Any], expected: int) -> None:
    assert count(build(name, **params)) == expected


EXPECTED: dict[str, dict[str, str]] = {
    "cross_stitch": {
        "trunks.a.0.first.1.weight": "shared", "trunks.a.1.first.0.weight": "task:a", "joints.0.b.weights": "task:b",
    },
    "nddr": {"trunks.b.0.first.1.weight": "shared", "joints.0.c.project.weight": "task:c"},
    "mmoe": {"experts.0.0.first.1.weight": "shared", "gates.a.linear.weight": "gate:a"},
    "cgc": {"shared.0.0.first.1.weight": "shared", "own.b.0.0.first.1.weight": "task:b", "gates.b.linear.bias":
    "gate:b"}, "ple": {
        "levels.0.own.a.0.first.1.weight": "shared", "levels.1.own.a.0.first.0.weight": "task:a",
        "levels.0.gates.a.linear.weight": "gate:a", "levels.0.shared_gate.linear.weight": "gate",
    },
    "dselect_k": {"experts.3.0.first.1.weight": "shared", "selectors.c.codes": "gate:c"},
    "ltb": {"columns.2.0.first.1.weight": "shared", "choices.0.a": "gate", "choices.1.a": "gate:a"},
    "mtan": {"stages.0.first.1.weight": "shared", "carries.0.layer.0.weight": "shared",
             "masks.b.0.inner.0.weight": "task:b"},
    "smtl": {"public.0.first.1.weight": "shared", "private.a.0.first.1.weight": "task:a", "gates.a": "gate:a"},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_roles_are_as_the_design_says(name: str) -> None:
    roles = build(name).roles()
    assert {place: roles[place] for place in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", ["cross_stitch", "nddr"])
def test_the_first_mixture_keeps_the_scale(name: str) -> None:
    """Rows sum to one: features that all tasks share pass unchanged (LibMTL's ones multiply them by T)."""
    model = build(name)
    features = [torch.rand(4, WIDTH)] * 3
    joint = model.joints[0]["a"]
    mixed = joint(features) if name == "cross_stitch" else joint.project(torch.cat(features, 1))
    torch.testing.assert_close(mixed, features[0])


def test_cross_stitch_without_others_is_single_task_learning() -> None:
    model = build("cross_stitch", others=0.0)
    alone = build("cross_stitch", tasks=TASKS[:1])
    torch.testing.assert_close(model(batch(), Context()).predictions["a"], alone(batch(), Context()).predictions["a"])


@pytest.mark.parametrize("gate", ["encoder", "decoder"])
def test_a_shut_gate_is_single_task_learning_and_an_open_one_hard_sharing(gate: str) -> None:
    model = build("smtl", gate=gate)
    private = {t: model.heads[t](model.private[t](batch().inputs)) for t in model.tasks}
    shut = model(batch(), Context(phase="private")).predictions
    assert all(torch.equal(shut[t], private[t]) for t in model.tasks)
    assert not any(name.startswith(("public", "gates")) for name in moved(model, shut["a"]))
    with torch.no_grad():
        for a in model.gates.values():
            a.fill_(math.inf)
    opened = model(batch(), Context()).predictions
    for t in model.tasks:
        torch.testing.assert_close(opened[t], model.heads[t](model.public(batch().inputs)))


def test_the_gate_s_gradient_is_the_one_on_paper() -> None:
    """d y / d a = s alpha (1 - alpha) <dy/dz, z_S - z_t>."""
    model = build("smtl", gate_speed=2.0)
    with torch.no_grad():
        model.gates["b"].fill_(0.3)
    found = torch.autograd.grad(model(batch(), Context()).predictions["b"].sum(), model.gates["b"])[0]
    public, own = model.public(batch().inputs), model.private["b"](batch().inputs)
    alpha = 1 / (1 + math.exp(-0.6))
    slope = model.heads["b"].weight.sum(0)
    expected = 2.0 * alpha * (1 - alpha) * ((public - own) @ slope).sum()
    torch.testing.assert_close(found, expected)


def test_a_lite_model_is_the_same_after_dropping_what_it_does_not_use() -> None:
    model = build("smtl", lite=True)
    with torch.no_grad():
        model.gates["a"].fill_(1.0)
        model.gates["b"].fill_(-1.0)
    model.eval()
    before, size = model(batch(), Context()).predictions, count(model)
    model.export()
    after = model(batch(), Context()).predictions
    assert all(torch.equal(before[t], after[t]) for t in model.tasks)
    assert count(model) == size - TRUNK - 3 and set(model.roles()) == {n for n, _ in model.named_parameters()}


def test_no_task_needs_the_public_encoder_after_export_when_all_gates_are_shut() -> None:
    model = build("smtl", lite=True)
    with torch.no_grad():
        for a in model.gates.values():
            a.fill_(-1.0)
    assert count(model.export().eval()) == 3 * TRUNK + HEADS
    model(batch(), Context())


def test_masks_lie_between_zero_and_one_and_open_ones_leave_the_shared_trunk() -> None:
    model = build("mtan")
    u = torch.randn(7, WIDTH)
    mask = model.masks["a"][0](u, None)
    assert mask.min() > 0 and mask.max() < 1 and mask.shape == (7, WIDTH)
    with torch.no_grad():
        for attention in (m for masks in model.masks.values() for m in masks):
            attention.outer[-1].weight.zero_()
            attention.outer[-1].bias.fill_(1e4)
    x = batch().inputs
    for stage in model.stages:
        x = stage(x)
    for task, prediction in model(batch(), Context()).predictions.items():
        torch.testing.assert_close(prediction, model.heads[task](x))


def test_attention_of_one_task_is_not_moved_by_another() -> None:
    model = build("mtan")
    names = moved(model, model(batch(), Context()).predictions["a"])
    assert any(n.startswith("masks.a") for n in names) and not any(n.startswith(("masks.b", "heads.b")) for n in names)


def test_branches_average_while_warming_up_and_choose_in_evaluation() -> None:
    model = build("ltb", warmup=0.2)
    logits = torch.tensor([0.0, 2.0, -1.0])
    torch.testing.assert_close(model.weights(logits, Context(step=10, total_steps=100)), torch.full((3,), 1 / 3))
    draws = torch.stack([model.weights(logits, LATER) for _ in range(200)])
    torch.testing.assert_close(draws.sum(1), torch.ones(200))
    assert draws.mean(0).argmax() == 1 and draws.std(0).min() > 0.01
    model.eval()
    assert model.weights(logits, LATER).tolist() == [0.0, 1.0, 0.0]


def test_identical_logits_branch_the_tree_as_told() -> None:
    """A node that nobody reads gets no gradient in evaluation mode."""
    model = build("ltb").eval()
    with torch.no_grad():
        for choice in model.choices[0].values():
            choice[2] = 5.0
    names = moved(model, torch.cat(list(model(batch(), LATER).predictions.values()), 1))
    assert any(n.startswith("columns.2.0") for n in names)
    assert not any(n.startswith(("columns.0.0", "columns.1.0")) for n in names)


def test_selectors_are_a_distribution_over_all_experts_and_their_entropy_joins_the_loss() -> None:
    model = build("dselect_k", experts=8, k=3, entropy=0.5)
    weights, entropy = model.selectors["a"]()
    assert weights.shape == (8,) and weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert weights.std() < 0.02  # near uniform at the start
    assert entropy.item() == pytest.approx(3 * math.log(8), rel=0.01)
    extras = model(batch(), Context()).extras
    assert set(extras) == {"loss/a", "loss/b", "loss/c"}
    assert extras["loss/a"].item() == pytest.approx(0.5 * entropy.item())
    grads = torch.autograd.grad(
        extras["loss/b"], [model.selectors["b"].codes, model.selectors["a"].codes], allow_unused=True
    )
    assert grads[0] is not None and grads[1] is None  # every task's, not the last one's only
    with torch.no_grad():
        model.selectors["a"].codes.copy_(torch.tensor([[1.0, -1.0, 1.0]] * 3))
    assert model.selectors["a"]()[0].tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0])  # bits 1, 0, 1


def test_the_extra_loss_reaches_training(tmp_path: Any) -> None:
    """Entropy as the only force on a selector: the trainer must add it to the task's loss, before weighting."""
    from mtlfleet.datasets.base import Split
    from mtlfleet.train.communicator import Communicator
    from mtlfleet.train.feed import Feed
    from mtlfleet.train.forward import forward

    data = registry.build("dataset", "synthetic_regression", train=64)
    tasks = data.facts().tasks
    model = registry.build("architecture", "dselect_k", width=4, entropy=10.0).build(tasks, (16,))
    feed = Feed(data.split(Split.TRAIN), tuple(t.name for t in tasks), 16, 0, 0, 1)

    class Parts:
        dataset = data

    parts: Any = Parts()
    parts.tasks, parts.model = tasks, model
    found = forward(feed.at(0), parts, Context(), Communicator()).losses
    given = feed.at(0).batch
    plain = data.loss(tasks[0], model(given, Context()).predictions["task_0"], given)
    extra = 10.0 * model.selectors["task_0"]()[1]
    torch.testing.assert_close(found["task_0"], plain + extra)


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("dselect_k", {"experts": 6}, "power of two"),
        ("ltb", {"tau": 0.1}, "tau_end"),
        ("smtl", {"gate": "both"}, "encoder or decoder"),
        ("hps", {"backbone_params": {"chanels": 3}}, "no parameter 'chanels'"),
        ("mmoe", {"experts": 0}, "at least 1"),
        ("hps", {"head": "deep"}, "plain or deeplab"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(name, **params)


def test_a_dense_task_on_a_vector_names_backbones_that_give_maps() -> None:
    with pytest.raises(ValueError, match="segnet, resnet"):
        registry.build("architecture", "hps").build((Task("d", 1, "depth", ("abs_err",), 1.0),), (1, 8, 8))


def resnet(**params: Any) -> nn.Module:
    torch.manual_seed(3)
    module: nn.Module = registry.build("backbone", "resnet", width=8, **params).build((3, 32, 32))[0]
    return module


def test_weights_come_from_a_file_by_torchvision_s_names_or_not_at_all(tmp_path: Any) -> None:
    given = {}
    for name, value in resnet(norm="batch").state_dict().items():
        stage, part, rest = name.split(".", 2)
        if stage == "0":
            given[rest] = value + 1
        elif part == "rest":
            given[f"layer{stage}.1.{rest}"] = value + 1
        else:
            given[f"layer{stage}.{rest}"] = value + 1
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.weight"} <= set(given)
    file = tmp_path / "weights.pth"
    torch.save({**given, "fc.weight": torch.zeros(2, 2)}, file)
    for norm in ("batch", "frozen"):
        loaded = resnet(norm=norm, weights_path=str(file)).state_dict()
        fresh = resnet(norm="batch").state_dict()
        assert all(torch.equal(loaded[n], fresh[n] + 1) for n in fresh if "tracked" not in n)
    with pytest.raises(EnvironmentProblem, match="the study names 00"):
        resnet(norm="batch", weights_path=str(file), weights_sha256="00")
    with pytest.raises(EnvironmentProblem, match="does not hold"):
        resnet(norm="batch", depth=34, weights_path=str(file))
    with pytest.raises(EnvironmentProblem, match="never downloaded"):
        resnet(norm="batch", weights_path=str(tmp_path / "none.pth"))


def test_frozen_statistics_do_not_move_in_training(tmp_path: Any) -> None:
    weights = {}
    for name, value in resnet(norm="batch").state_dict().items():
        stage, part, rest = name.split(".", 2)
        weights[rest if stage == "0" else f"layer{stage}.{'1.' if part == 'rest' else ''}{rest}"] = value
    torch.save(weights, tmp_path / "w.pth")
    module = resnet(norm="frozen", weights_path=str(tmp_path / "w.pth")).train()
    x = torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    together, alone = module(x), module(x[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any("bn" in name for name, _ in module.named_parameters())


def test_dilation_keeps_the_map_large() -> None:
    x = torch.randn(2, 3, 32, 32)
    assert resnet(depth=50)(x).shape == (2, 256, 1, 1)
    assert resnet(depth=50, dilated=True)(x).shape == (2, 256, 4, 4)


def test_messages_equal_a_loop_over_pairs() -> None:
    """The edge-conditioned mean, one pair and one matrix at a time; absent atoms change nothing; order neither."""
    torch.manual_seed(0)
    module = registry.build("backbone", "gnn", width=4, depth=2, hidden=3).build((5, 19))[0].double()
    x = torch.zeros(1, 5, 19, dtype=torch.float64)
    x[0, :3, :11] = torch.rand(3, 11).double()
    x[0, :3, 11:14] = torch.randn(3, 3).double()
    x[0, 0, 15] = x[0, 1, 14] = 2
    net = module[0].first
    h, edges, pairs = net.unfold(x)
    layer = net.round
    expected = []
    for i in range(3):
        total = torch.zeros(4, dtype=torch.float64)
        for j in range(3):
            if i != j:
                total += layer.gate(edges[0, i, j]).view(4, 4) @ h[0, j]
        expected.append(torch.relu(total / 2 + layer.root(h[0, i])))
    found = layer.update(torch.stack(expected), h[0, :3])
    torch.testing.assert_close(layer(h, edges, pairs)[0, :3], found)
    order = [2, 0, 1, 3, 4]
    turned = torch.cat((x[:, order, :14], x[:, order, 14:][:, :, order]), 2)
    torch.testing.assert_close(module(turned), module(x))
    wide = torch.zeros(1, 7, 21, dtype=torch.float64)
    wide[:, :5, :19] = x
    torch.testing.assert_close(net(wide), net(x))


def test_a_bert_reads_its_weights_from_a_folder(tmp_path: Any) -> None:
    pytest.importorskip("transformers", reason="the extra [text]")
    torch.manual_seed(0)
    drawn, shape = registry.build("backbone", "bert", width=16, rows=50, dropout=0.0).build((6,))
    drawn[0].first.model.save_pretrained(tmp_path)
    loaded, same = registry.build("backbone", "bert", weights_path=str(tmp_path), dropout=0.0).build((6,))
    ids = torch.tensor([[1, 7, 9, 2, 0, 0]])
    assert shape == same == (16,)
    torch.testing.assert_close(loaded.eval()(ids), drawn.eval()(ids))
    padded = torch.cat((ids, torch.zeros(1, 3, dtype=torch.long)), 1)
    torch.testing.assert_close(drawn(padded), drawn(ids), rtol=1e-4, atol=1e-5)
    with pytest.raises(EnvironmentProblem, match="there is no config"):
        registry.build("backbone", "bert", weights_path=str(tmp_path / "none")).build((6,))
