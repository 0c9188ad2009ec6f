"""What ``plan`` says of each claim before its runs and once some have run; a launch that looks while it goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mtlfleet.cli import main
from mtlfleet.cli.looks import until_decided
from mtlfleet.errors import UsageError
from mtlfleet.launch.documents import lock_claims, write_definitions, write_trials
from mtlfleet.launch.driver import Options, Outcome
from mtlfleet.plan import Study, Trial
from mtlfleet.store import AttemptWriter, Ingester, trial_states

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


def planned(*claims: str, study: str = STUDY) -> dict[str, list[str]]:
    """The lines that ``plan`` prints below each claim."""
    Path("study.yaml").write_text(study + "".join(claims), encoding="utf-8")
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


LOOKS = "stopping: {kind: group_sequential, looks: [5, 8, 12], alpha: [0.01, 0.015, 0.025]}"


def test_every_look_says_whether_it_can_decide(folder: Path) -> None:
    assert planned(claim("looks", LOOKS))["looks"][:3] == [
        "5 seeds: smallest p 0.031, needed 0.01: cannot decide",
        "8 seeds: smallest p 0.0039, needed 0.015: can decide",
        "12 seeds: smallest p 0.00024, needed 0.025: can decide",
    ]


def run_some(study: Study, wanted: Callable[[Trial], bool], factor: float = 0.98) -> int:
    """Final runs, as a launch leaves them; pcgrad's error is ``factor`` of the others', a run's noise by its seed."""
    write_definitions(study, study.root)
    finals = study.final_trials(dict.fromkeys(study.cells(), 0))
    write_trials(study, study.root, finals)
    states = trial_states(study.root, study.name, [trial.id for trial in finals])
    missing = [trial for trial in finals if wanted(trial) and states[trial.id] == "missing"]
    for trial in missing:
        _run(study, trial, factor)
    with Ingester(study.root) as ingester:
        ingester.run_once()
        ingester.publish()
    return len(missing)


def _run(study: Study, trial: Trial, factor: float) -> None:
    writer = AttemptWriter.claim(
        study.root, study.name, trial.id, restored_step=0, restored_checkpoint=None, world_size=1, facts={}
    )
    better = factor if trial.method.name == "pcgrad" else 1.0
    jitter = (trial.seed * (7 if trial.method.name == "pcgrad" else 3)) % 5
    for split in ("val", "test"):
        for task in trial.tasks:
            writer.metric(40, 1.0, split, task, "rmse", better * (0.5 + 0.01 * jitter), final=True)
    writer.close("done", "", 40, 1.0, 1.0)


def test_pairs_in_the_store_replace_the_assumption(folder: Path) -> None:
    one = claim("mean", "estimand: {kind: delta_m}"), claim("own", "estimand: {kind: metric, metric: task_0.rmse}")
    before = planned(*one)
    run_some(Study.load("study.yaml"), lambda trial: trial.seed <= 4)
    after = planned(*one)
    assert "assumed" in before["mean"][1] and "not known" in before["own"][1]
    assert "(noise 4 pairs of this store, " in after["mean"][1]
    assert "(noise 4 pairs of this store, " in after["own"][1]
    ahead = json.loads(CliRunner().invoke(main, ["plan", "study.yaml", "--json"]).stdout)["claims"]
    assert [p["noise"] for p in ahead] == ["4 pairs of this store"] * 2
    assert ahead[0]["pair_sd"] > 0 and ahead[0]["power"] is not None


EARLY = "estimand: {kind: metric, metric: task_0.rmse}, "
EARLY += "stopping: {kind: group_sequential, looks: [5, 6, 8], alpha: [0.01, 0.02, 0.02]}"
SMALL = STUDY.replace("  stl: {use: stl}\n", "").replace("count: 12", "count: 8")
SMALL = re.sub(r"  ls-.*\n", "", SMALL)


def launched(factor: float, *claims: str) -> tuple[list[int], list[str]]:
    """How many runs each launch made until the claims were decided, and what is then said of them."""
    planned(*claims, study=SMALL)
    made: list[int] = []
    study = Study.load("study.yaml")

    def launch(study: Study, options: Options) -> Outcome:
        if not made:
            lock_claims(study.claims, study.name, study.sha256, study.root)
        made.append(run_some(study, options.wanted, factor))
        return Outcome({"done": made[-1]}, {}, 0, 0.0, made[-1])

    until_decided(study, Options(), launch)
    result = CliRunner().invoke(main, ["claims", "study.yaml", "--json"])
    return made, [v["sentence"] for v in json.loads(result.stdout)["verdicts"]]


def test_a_launch_stops_at_the_look_that_decides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exploratory = claim("aside", "estimand: {kind: metric, metric: task_1.rmse}, exploratory: true")
    made, (sentence, _) = launched(0.7, claim("looks", EARLY), exploratory)
    assert made == [2 * 5, 2 * 1]
    assert "Decided at look 2 of 3, after 6 seeds per dataset; later seeds do not change it." in sentence
    said = capsys.readouterr().err
    assert "5 seeds: still open: looks\n" in said, "an exploratory claim is not waited for"
    assert "every claim is decided after 6 of 8 seeds; 4 trials have not run and need not" in said


def test_a_launch_goes_on_while_a_claim_is_open(folder: Path) -> None:
    once = claim("once", "estimand: {kind: metric, metric: task_1.rmse}")
    made, sentences = launched(0.7, claim("looks", EARLY), once)
    assert made == [10, 2, 4]
    assert "Decided at look 2 of 3" in sentences[0] and "look" not in sentences[1]


def test_a_launch_that_failed_ends_there(folder: Path) -> None:
    planned(claim("looks", EARLY), study=SMALL)
    failed = Outcome({"failed": 1}, {}, 0, 0.0, 1)
    calls: list[Options] = []

    def launch(_: Study, options: Options) -> Outcome:
        calls.append(options)
        return failed

    assert until_decided(Study.load("study.yaml"), Options(), launch) is failed
    assert len(calls) == 1


def test_without_looks_there_is_nothing_to_wait_for(folder: Path) -> None:
    planned(claim("mean", ""))
    with pytest.raises(UsageError, match="no claim of this study is looked at more than once"):
        until_decided(Study.load("study.yaml"), Options(), lambda *_: pytest.fail("launched"))
    result = CliRunner().invoke(main, ["launch", "study.yaml", "--until-decided", "--dry-run"])
    assert result.exit_code == 2
