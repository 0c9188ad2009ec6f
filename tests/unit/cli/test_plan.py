"""What ``plan`` says of each claim before its runs, and once some have run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mtlfleet.cli import main
from mtlfleet.launch.documents import write_definitions, write_trials
from mtlfleet.plan import Study, Trial
from mtlfleet.store import AttemptWriter, Ingester

STUDY = """\
schema: mtlfleet/study/1
study: ahead
methods:
  stl: {use: stl}
  ls: {use: linear}
  ls-2: {use: linear, params: {weights: [0.2, 0.8]}}
  ls-8: {use: linear, params: {weights: [0.8, 0.2]}}
  pcgrad: {use: pcgrad}
datasets:
  toy: {use: synthetic_regression, params: {tasks: 2}}
architectures:
  mlp: {use: hps, params: {backbone: mlp}}
seeds: {count: 12, base: 1}
train: {steps: 40, eval_every: 20}
claims:
"""
CLAIM = (
    "  - {{id: {id}, method: pcgrad, baseline: {{{base}}}, margin: 1.0, scope: these_datasets, family: {id}, {rest}}}\n"
)


def claim(name: str, rest: str, base: str = "method: ls") -> str:
    return CLAIM.format(id=name, rest=rest, base=base)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*claims: str) -> dict[str, list[str]]:
    """The lines that ``plan`` prints below each claim."""
    Path("study.yaml").write_text(STUDY + "".join(claims), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", "study.yaml"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        if head := re.match(r"claim (\S+): ", line):
            found[head[1]] = []
        elif found:
            found[next(reversed(found))].append(line.strip())
    return found


def test_the_power_says_what_noise_it_assumes(folder: Path) -> None:
    (look, power), *_ = planned(claim("mean", "estimand: {kind: delta_m}")).values()
    assert look == "12 seeds: smallest p 0.00024, needed 0.05: can decide"
    found = re.fullmatch(r"power (0\.\d\d) at the margin 1 \(noise (.*), 1\.2 a pair\); 0\.8 needs (\d+) seeds", power)
    assert found, power
    assert found[2] == "assumed: 1 pp between runs of a method, no promise; runs in the store replace it"
    assert 0.75 < float(found[1]) < 0.95 and 9 <= int(found[3]) <= 13
    equal = planned(claim("same", "alternative: equivalence"))["same"][1]
    assert " at no difference (noise assumed" in equal


def test_where_power_is_not_computed_it_says_so_and_why(folder: Path) -> None:
    found = planned(
        claim("safe", "estimand: {kind: every_task}, alternative: non_inferiority"),
        claim("front", "estimand: {kind: front_pref}", "sweep: [ls-2, ls, ls-8]"),
        claim("own", "estimand: {kind: metric, metric: task_0.rmse}"),
        claim("fast", "estimand: {kind: time_to_target, metric: task_0.rmse, target: 0.3}"),
    )
    for name, kind in (("safe", "every_task"), ("front", "front_pref")):
        assert found[name][-1] == f"power: not computed for {kind} claims, which ask several differences at once"
    assert found["own"][-1] == "power: not known before the runs (noise unknown in units of task_0.rmse)"
    assert found["fast"][-1] == "power: not known before the runs (noise unknown in units of device seconds)"
    assert all(lines[0].startswith("12 seeds: smallest p") for lines in found.values())


def test_every_look_says_whether_it_can_decide(folder: Path) -> None:
    looks = "stopping: {kind: group_sequential, looks: [5, 8, 12], alpha: [0.01, 0.015, 0.025]}"
    assert planned(claim("looks", looks))["looks"][:3] == [
        "5 seeds: smallest p 0.031, needed 0.01: cannot decide",
        "8 seeds: smallest p 0.0039, needed 0.015: can decide",
        "12 seeds: smallest p 0.00024, needed 0.025: can decide",
    ]


def run_some(study: Study, seeds: int) -> None:
    """Final runs of the first seeds, as a launch leaves them: pcgrad 2 % better, a run's noise by its seed."""
    write_definitions(study, study.root)
    finals = study.final_trials(dict.fromkeys(study.cells(), 0))
    write_trials(study, study.root, finals)
    for trial in finals:
        if trial.seed in study.seeds[:seeds]:
            _run(study, trial)
    with Ingester(study.root) as ingester:
        ingester.run_once()
        ingester.publish()


def _run(study: Study, trial: Trial) -> None:
    writer = AttemptWriter.claim(
        study.root, study.name, trial.id, restored_step=0, restored_checkpoint=None, world_size=1, facts={}
    )
    better = 0.98 if trial.method.name == "pcgrad" else 1.0
    jitter = (trial.seed * (7 if trial.method.name == "pcgrad" else 3)) % 5
    for split in ("val", "test"):
        for task in trial.tasks:
            writer.metric(40, 1.0, split, task, "rmse", better * (0.5 + 0.01 * jitter), final=True)
    writer.close("done", "", 40, 1.0, 1.0)


def test_pairs_in_the_store_replace_the_assumption(folder: Path) -> None:
    one = claim("mean", "estimand: {kind: delta_m}"), claim("own", "estimand: {kind: metric, metric: task_0.rmse}")
    before = planned(*one)
    run_some(Study.load("study.yaml"), 4)
    after = planned(*one)
    assert "assumed" in before["mean"][1] and "not known" in before["own"][1]
    assert "(noise 4 pairs of this store, " in after["mean"][1]
    assert "(noise 4 pairs of this store, " in after["own"][1]
    ahead = json.loads(CliRunner().invoke(main, ["plan", "study.yaml", "--json"]).stdout)["claims"]
    assert [p["noise"] for p in ahead] == ["4 pairs of this store"] * 2
    assert ahead[0]["pair_sd"] > 0 and ahead[0]["power"] is not None
