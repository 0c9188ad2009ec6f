"""A head policy and a scale laid over any method do what they say, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtlfleet import methods, testing
from mtlfleet.engine import GradientEngine
from mtlfleet.engine.gradients import Step
from mtlfleet.methods.base import Method, Needs, OutOfDomain
from mtlfleet.methods.conventions import NORMS, under
from mtlfleet.testing.cases import case, gradients

GIVEN = case("plain", 3, seed=4)
TOTAL = float(GIVEN.jacobian.sum(0).norm())
WEIGHTLESS = {"adatask", "graddrop", "graddrop_z", "moco"}


def stepped(method: Method) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """(update [P], weights [K], the word) of a first step."""
    grads = gradients(method, GIVEN, apart=False)
    _, word = method.step(grads, method.init(3), Step())
    return grads.direction(), grads.weights, word


def refused(name: str, scale: str) -> bool:
    plain = methods.build(name)
    several = plain.own_optimizers or plain.turns(2) > 1
    return name in WEIGHTLESS or several or (scale in NORMS and plain.needs in (Needs.LOSSES, Needs.REPRESENTATION))


@pytest.mark.parametrize("scale", ["sum_k", *NORMS])
@pytest.mark.parametrize("name", [n for n in methods.names() if n != "stl"])
def test_a_scale_holds_for_every_method_or_is_refused(name: str, scale: str) -> None:
    if refused(name, scale):
        with pytest.raises(OutOfDomain, match=f"scale: {scale}` has no meaning"):
            under(methods.build(name), scale=scale)
        return
    method, (plain, _, _) = under(methods.build(name), scale=scale), stepped(methods.build(name))
    update, weights, word = stepped(method)
    assert word != "unscaled"
    if scale == "sum_k":
        assert weights is not None and float(weights.sum()) == pytest.approx(3.0) and method.weight_sum == "tasks"
    else:
        assert float(update.norm()) == pytest.approx(1.0 if scale == "unit_norm" else TOTAL)
    torch.testing.assert_close(update / update.norm(), plain / plain.norm())  # the direction is the method's own


@pytest.mark.parametrize("name", ["cagrad", "nash_mtl@official", "uw", "mgda_ub", "excess_mtl"])
def test_the_contracts_hold_under_conventions(name: str) -> None:
    method = under(methods.build(name), heads="weighted", scale="sum_k")
    for contract in testing.ALWAYS:
        contract(method)


def test_a_step_without_a_length_is_left_and_told() -> None:
    method = under(methods.build("mgda"), scale="unit_norm")
    grads = gradients(method, replace(GIVEN, jacobian=torch.zeros(3, 40, dtype=torch.float64)))
    assert method.step(grads, None, Step())[1] == "unscaled" and not grads.direction().any()


def heads(name: str, policy: str, scale: str = "") -> tuple[list[torch.Tensor], torch.Tensor]:
    """Gradients of each task's own layer by the engine, and the weights of the step."""
    torch.manual_seed(0)
    trunk, own = torch.nn.Linear(4, 3), torch.nn.ModuleDict({t: torch.nn.Linear(3, 1) for t in "ab"})
    model = torch.nn.ModuleDict({"trunk": trunk, "own": own})
    engine = GradientEngine(model, under(methods.build(name), policy, scale))
    z = trunk(torch.ones(2, 4)).tanh()
    info = engine.step({t: (own[t](z) - 1 - k).square().mean() for k, t in enumerate("ab")}, features=z)
    assert info.weights is not None
    return [own[t].weight.grad.clone() for t in "ab"], info.weights


@pytest.mark.parametrize("name", ["cagrad", "famo", "fairgrad", "mgda_ub"])
def test_heads_see_their_weight_or_do_not(name: str) -> None:
    for scale in ("", "sum_k"):
        plain, _ = heads(name, "unweighted", scale)
        seen, weights = heads(name, "weighted", scale)
        for k in range(2):
            torch.testing.assert_close(seen[k], plain[k] * float(weights[k]))
        assert not torch.allclose(torch.cat(seen), torch.cat(plain))


@pytest.mark.parametrize("name", ["imtl", "imtl_ub", "db_mtl"])
def test_a_method_that_scales_heads_itself_refuses_another_policy(name: str) -> None:
    with pytest.raises(OutOfDomain, match=r"heads: weighted.*multiplied by"):
        stepped(under(methods.build(name), heads="weighted"))
    assert torch.isfinite(stepped(under(methods.build(name), scale="sum_k"))[0]).all()


def test_gradvac_by_layer_has_no_one_weight_per_task() -> None:
    with pytest.raises(OutOfDomain, match="group of parameters"):
        stepped(under(methods.build("gradvac", groups="layer"), scale="sum_k"))


def test_in_a_study_they_enter_the_key_and_the_run_card(tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
    import short_trials as trials

    from mtlfleet.store import open_store

    plain = trials.trial("cagrad", steps=2)
    asked = replace(plain, method=replace(plain.method, heads="weighted", scale="unit_norm"))
    assert asked.key != plain.key and type(asked).from_json(asked.to_json()) == asked
    asked = replace(asked, recipe=replace(asked.recipe, log_every=1))
    trials.finish(trials.start(tmp_path, asked))
    told = open_store(tmp_path).rows("select message from events where kind = 'run_card'")[0]["message"]
    assert '"heads": "weighted"' in told and '"scale": "unit_norm"' in told and '"weight_sum": "free"' in told
    norms = open_store(tmp_path).rows("select update_norm from task_gradients")
    assert [row["update_norm"] for row in norms] == pytest.approx([1.0, 1.0])


def test_said_as_a_parameter_or_beside_them_it_is_one_run(tmp_path: Path) -> None:
    from mtlfleet.plan import Study, check

    def written(*entries: str) -> Path:
        (tmp_path / "s.yaml").write_text(
            "schema: mtlfleet/study/1\nstudy: s\nmethods: {" + ", ".join(entries) + "}\n"
            "datasets: {toy: {use: synthetic_regression}}\narchitectures: {mlp: {use: hps}}\n"
            "seeds: [1]\ntrain: {steps: 5}\n"
        )
        return tmp_path / "s.yaml"

    def keys(*entries: str) -> list[str]:
        return [trial.key for trial in Study.load(written(*entries)).final_trials({})]

    before = keys("cagrad: {}", "nash_mtl: {params: {heads: weighted}}")
    after = keys("cagrad: {scale: native}", "nash_mtl: {heads: weighted}")
    assert before == after
    assert keys("cagrad: {scale: sum_k}", "nash_mtl: {scale: sum_k}") != before
    codes: Callable[[str], list[tuple[str, int]]] = lambda entry: [  # noqa: E731
        (d.code, d.place.line) for d in check(written(entry)).errors if d.place
    ]
    for entry in (
        "graddrop: {heads: weighted}", "adatask: {scale: sum_k}", "uw: {scale: unit_norm}", "io: {scale: sum_k}",
        "mgda_ub: {scale: match_sum_norm}", "nash_mtl: {heads: weighted, params: {heads: unweighted}}",
    ):  # fmt: skip
        assert ("E416", 3) in codes(entry), entry
    assert codes("graddrop: {heads: unweighted}") == []
    assert [d.code for d in check(written("cagrad: {scale: long}")).errors] == ["E105"]
