"""What every method is given alike: regularisation in the search, samples, validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtlfleet.plan import Study

Write = Callable[..., Path]


def test_standard_regularisation_is_tuned_for_every_method_and_the_sum_is_one_line(study: Write) -> None:
    """Kurin et al.: weight decay, dropout and early stopping belong to the search space of all, not of the new one."""
    found = Study.load(
        study(
            ("  cagrad:\n", "  unitary: {use: sum}\n  cagrad:\n"),
            (
                "space: {train.lr: {log_uniform: [1e-3, 1e-2]}}",
                (
                    "space: {train.lr: {log_uniform: [1e-3, 1e-2]}, train.weight_decay: {choice: [0.0, 1e-4, 1e-3]}, "
                    "architecture.dropout: {choice: [0.0, 0.25, 0.5]}}"
                ),
            ),
            ("steps: 300}", "steps: 300, patience: 3}"),
        )
    )
    tuned = found.tune_trials()
    assert {t.recipe.patience for t in tuned} == {3}
    by_method = {
        name: [
            (t.recipe.lr, t.recipe.weight_decay, t.architecture.params["dropout"])
            for t in tuned
            if t.method.name == name and t.task in ("*", "task_0")
        ]
        for name in ("unitary", "cagrad", "stl", "ls")
    }
    assert len(by_method["unitary"]) == 4
    assert len({(decay, dropout) for _, decay, dropout in by_method["unitary"]}) == 4
    assert all(given == by_method["unitary"] for given in by_method.values())


def test_a_plan_says_how_many_steps_a_budget_of_samples_leaves(study: Write) -> None:
    from mtlfleet.launch.documents import _row

    found = Study.load(
        study(("  cagrad:\n", "  modo: {}\n  two: {use: modo@two_batches}\n  auto_lambda: {}\n  cagrad:\n"))
    )
    steps = {t.method.name: _row(found, t)["steps"] for t in found.tune_trials()}
    assert steps == {"stl": 300, "ls": 300, "cagrad": 300, "modo": 100, "two": 150, "auto_lambda": 150}


def test_training_on_what_selects_is_said(study: Write) -> None:
    quiet = Study.load(study(("  cagrad:\n", "  auto_lambda: {}\n  cagrad:\n")))
    told = Study.load(
        study(("  cagrad:\n", "  auto_lambda: {params: {val_source: val}}\n  cagrad:\n"), name="other.yaml")
    )
    assert "W505" not in {finding.code for finding in quiet.warnings.warnings}
    assert "W505" in {finding.code for finding in told.warnings.warnings}
