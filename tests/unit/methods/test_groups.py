"""Methods that look at parts of the model, each by itself."""

from __future__ import annotations

import pytest
import torch

from mtlfleet import methods
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Step
from mtlfleet.engine.reference import DenseGradients
from mtlfleet.errors import EngineRefused
from mtlfleet.methods.base import OutOfDomain

F2 = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
FD = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
GROUPS = {"trunk.0.weight": slice(0, 2), "trunk.0.bias": slice(2, 5), "trunk.2.weight": slice(5, 7)}
ROWS = torch.cat([F2, FD, F2.flip(0)], 1)  # conflicts of its own in each part


def run(name: str, steps: int, rows: torch.Tensor = ROWS, **params):
    """The updates of some steps on gradients that turn, and the last state."""
    method, found = methods.build(name, **params), []
    state = method.init(len(rows))
    for number in range(steps):
        grads = DenseGradients(rows + 0.3 * number, groups=GROUPS)
        state, status = method.step(grads, state, Step(number, seed=5))
        assert status == ("warmup" if name == "galw" else "ok")
        found.append(grads.direction())
    return found, state


def test_the_vaccine_for_each_tensor_is_the_vaccine_of_each_tensor_alone() -> None:
    found, state = run("gradvac", 3, groups="tensor", beta=0.5)
    for place, columns in enumerate(GROUPS.values()):
        part = methods.build("gradvac", beta=0.5)
        alone = part.init(2)
        for number in range(3):
            grads = DenseGradients((ROWS + 0.3 * number)[:, columns])
            alone, _ = part.step(grads, alone, Step(number, seed=5))
            torch.testing.assert_close(found[number][columns], grads.direction())
        torch.testing.assert_close(state.cosines[place], alone.cosines)


def test_first_weights_of_each_part_by_hand() -> None:
    """Targets are zero: each part is pcgrad's, (2, 1.5) and (20/9, 30/19); a layer is its tensors together."""
    (found,), state = run("gradvac", 1, groups="tensor", beta=0.01)
    weights = ((2.0, 1.5), (20 / 9, 30 / 19), (1.5, 2.0))
    for (alpha, beta), columns in zip(weights, GROUPS.values(), strict=True):
        torch.testing.assert_close(found[columns], alpha * ROWS[0, columns] + beta * ROWS[1, columns])
    assert state.cosines.shape == (3, 2, 2)
    (layers,), _ = run("gradvac", 1, groups="layer")
    both = torch.cat([F2, FD], 1)
    torch.testing.assert_close(layers[:5], methods.combine("pcgrad", both))
    (whole,), _ = run("gradvac", 1)
    torch.testing.assert_close(whole, methods.combine("pcgrad", ROWS))
    assert not torch.allclose(layers, found)
    assert not torch.allclose(whole, layers)


def test_targets_per_part_survive_a_checkpoint() -> None:
    method = methods.build("gradvac", groups="layer", beta=0.3)
    _, state = run("gradvac", 2, groups="layer", beta=0.3)
    again = method.unpack(method.pack(state), 2)
    torch.testing.assert_close(again.cosines, state.cosines)


def test_gradnorm_looks_at_the_last_layer_as_the_paper() -> None:
    """By hand: in the last layer norms are sqrt 2 and 1, in the first (1, sqrt 18) and (sqrt 2, sqrt 38) together."""
    last = run("gradnorm", 1)[1].weights.first / 0.1
    assert last.tolist() == pytest.approx([2**0.5, -1.0])
    first = run("gradnorm", 1, layer="trunk.0")[1].weights.first / 0.1
    assert first.tolist() == pytest.approx([-(19**0.5), 40**0.5])
    whole = run("gradnorm@libmtl", 1)[1].weights.first / 0.1
    assert whole.tolist() == pytest.approx([-(21**0.5), 41**0.5])


def test_galw_watches_the_last_layer() -> None:
    """Norms of the last layer after three steps: the two gradients swap places with the columns."""
    state = run("galw", 3)[1]
    steps = [ROWS[:, 5:] + 0.3 * number for number in range(3)]
    norms = torch.stack([rows.norm(dim=1) for rows in steps])
    torch.testing.assert_close(state.start, norms[0])
    torch.testing.assert_close(state.norms, (norms / norms[0]).sum(0))
    other = run("galw", 3, layer="all")[1]
    assert not torch.allclose(other.norms, state.norms)


@pytest.mark.parametrize("name", ["gradnorm", "galw"])
def test_a_layer_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(OutOfDomain, match="head") as refusal:
        run(name, 1, layer="head")
    assert "trunk.0, trunk.2" in " ".join(refusal.value.notes)


def network(width: int = 5) -> tuple[torch.nn.Module, dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(1)
    trunk = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, width))
    heads = torch.nn.ModuleDict({t: torch.nn.Linear(width, 1) for t in "ab"})
    x = torch.randn(6, 3)
    z = trunk(x)
    losses = {"a": (heads["a"](z) ** 2).mean(), "b": (heads["b"](z) - 1).abs().mean()}
    return torch.nn.ModuleDict({"trunk": trunk, "heads": heads}), losses, z


def test_the_engines_layers_are_the_models() -> None:
    model, losses, _ = network()
    last = model["trunk"][2]
    rows = [torch.autograd.grad(losses[t], [last.weight, last.bias], retain_graph=True) for t in "ab"]
    norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in rows])
    engine = GradientEngine(model, "gradnorm")
    engine.step(losses)
    slope = engine.state.weights.first / 0.1
    torch.testing.assert_close(slope.abs(), norms.double(), rtol=1e-5, atol=0)
    model, losses, _ = network()
    grads = {t: torch.autograd.grad(losses[t], list(model["trunk"].parameters()), retain_graph=True) for t in "ab"}
    GradientEngine(model, methods.build("gradvac", groups="tensor")).step(losses)
    for parameter, a, b in zip(model["trunk"].parameters(), grads["a"], grads["b"], strict=True):
        expected = methods.combine("pcgrad", torch.stack([a.flatten(), b.flatten()]))
        torch.testing.assert_close(parameter.grad.flatten(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{"backward": "factored"}, {"approximate": "ub"}, {"approximate": "sketch"}])
def test_ways_without_parts_say_so(options: dict) -> None:
    model, _, _ = network(width=200)  # worth factoring
    engine = GradientEngine(model, "gradnorm", **options)
    z = model["trunk"](torch.ones(6, 3))
    losses = {t: (model["heads"][t](z) ** 2).mean() for t in "ab"}
    with pytest.raises(EngineRefused, match="per layer"):
        engine.step(losses, features=z)
    with pytest.raises(EngineRefused, match="task gradients themselves"):
        GradientEngine(model, methods.build("gradvac", groups="layer"), **options)
