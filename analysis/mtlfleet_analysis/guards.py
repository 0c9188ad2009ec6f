"""What must hold before a p-value may be read as a verdict. A guard that fires makes the claim invalid, not weak."""

from __future__ import annotations

from dataclasses import dataclass

from mtlfleet.plan.claims import ON_THE_WAY, Claim
from mtlfleet_analysis.budget import budgets, ratio
from mtlfleet_analysis.evidence import Evidence, Run
from mtlfleet_analysis.pairing import Pairing, places, seeds_of
from mtlfleet_analysis.scoring import outcomes, scale_of, wanted_readings

CHECKED = (
    "complete_pairs",
    "same_seeds",
    "equal_tuning",
    "equal_samples",
    "equal_compute",
    "same_device",
    "tuning_seeds_disjoint",
    "baseline_chosen_on_validation",
    "stl_in_study",
    "ratio_scale",
    "test_read_once",
    "scope",
    "margin",
)


@dataclass(frozen=True)
class Guard:
    """One guard that fired: its name, and what is wrong in a sentence."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def fired(evidence: Evidence, claim: Claim, pairing: Pairing) -> tuple[Guard, ...]:
    """Every guard that fired, in the order of ``CHECKED``."""
    messages = {
        "complete_pairs": _incomplete(evidence, claim, pairing),
        "same_seeds": _different_seeds(evidence, claim),
        "equal_tuning": _unequal_tuning(evidence, claim),
        "equal_samples": _unequal_samples(evidence, claim),
        "equal_compute": _unequal_compute(evidence, claim),
        "same_device": _different_devices(evidence, claim),
        "tuning_seeds_disjoint": _reused_seeds(evidence, claim),
        "baseline_chosen_on_validation": _unchosen(claim, pairing),
        "stl_in_study": _no_reference(evidence, claim),
        "ratio_scale": _interval_scale(evidence, claim),
        "test_read_once": _test_reads(evidence, claim),
        "scope": _scope(evidence, claim),
        "margin": _margin(claim),
    }
    return tuple(Guard(name, messages[name]) for name in CHECKED if messages[name])


def _arms(evidence: Evidence, claim: Claim) -> list[Run]:
    names, where = {claim.method, *claim.baseline.best_of}, set(places(evidence, claim))
    return [r for r in evidence.runs if r.method in names and (r.dataset, r.architecture) in where]


def _some(items: list[str], limit: int = 3) -> str:
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _incomplete(evidence: Evidence, claim: Claim, pairing: Pairing) -> str:
    wanted = len(places(evidence, claim)) * len(seeds_of(evidence, claim))
    if not wanted:
        return f"no final run of {claim.method} or {', '.join(claim.baseline.best_of)}"
    owed = sorted({f"{m}/{d}/{a}/s{s} ({state})" for m, d, a, s, state in pairing.missing})
    if not owed:
        return _emptied(pairing)
    return f"{len(pairing.pairs)} of {wanted} pairs are complete; missing {_some(owed)}"


def _emptied(pairing: Pairing) -> str:
    """Leaving failed runs out must not leave out a place, which would be another claim."""
    kept = {p.stratum for p in pairing.pairs}
    gone = sorted({f"{d}/{a}" for d, a in {p.stratum for p in pairing.excluded} - kept})
    return f"every pair has a failed run and was left out at {_some(gone)}" if gone else ""


def _different_seeds(evidence: Evidence, claim: Claim) -> str:
    seeds: dict[str, set[int]] = {}
    for run in _arms(evidence, claim):
        if run.phase == "final":
            seeds.setdefault(run.method, set()).add(run.seed)
    if len(set(map(frozenset, seeds.values()))) < 2:
        return ""
    return "final seeds differ: " + "; ".join(f"{m} {sorted(s)}" for m, s in sorted(seeds.items()))


def _unequal_tuning(evidence: Evidence, claim: Claim) -> str:
    """Each baseline was tuned as much as the method, or all of them together were."""
    if claim.parity == "waived":
        return ""
    found = budgets(evidence, claim, places(evidence, claim))
    mine, theirs = found[0].tuning_trials, [b.tuning_trials for b in found[1:]]
    if mine == sum(theirs) or all(mine == count for count in theirs):
        return ""
    return "tuning trials differ: " + ", ".join(f"{b.method} {b.tuning_trials}" for b in found)


def _unequal_samples(evidence: Evidence, claim: Claim) -> str:
    """Under a budget of steps, a method that draws several batches a step sees that many times the data."""
    if claim.parity == "waived":
        return ""
    drawn: dict[str, int] = {}
    for run in _arms(evidence, claim):
        if run.budget == "steps":
            drawn[run.method] = max(run.batches, drawn.get(run.method, 1))
    if len(set(drawn.values())) < 2:
        return ""
    return "budget of steps, and batches drawn in a step differ: " + ", ".join(
        f"{m} {n}" for m, n in sorted(drawn.items())
    )


def _unequal_compute(evidence: Evidence, claim: Claim) -> str:
    """Device seconds, tuning included, against each baseline; only where the claim declares a tolerance."""
    if claim.compute_tolerance is None:
        return ""
    mine, *theirs = budgets(evidence, claim, places(evidence, claim))
    used = mine.tuning_device_s + mine.final_device_s
    wrong = []
    for b in theirs:
        found = ratio(used, b.tuning_device_s + b.final_device_s)
        if found is None or abs(found - 1) > claim.compute_tolerance:
            wrong.append(f"{b.method} {'nothing' if found is None else f'x {found:.2f}'}")
    return f"device time differs by more than {claim.compute_tolerance:g}: {_some(wrong)}" if wrong else ""


def _different_devices(evidence: Evidence, claim: Claim) -> str:
    """Seconds of one device say nothing about those of another; only where the claim is about seconds."""
    if claim.compute_tolerance is None and claim.estimand.kind not in ON_THE_WAY:
        return ""
    found = sorted({run.device for run in _arms(evidence, claim) if run.device})
    return f"seconds of different devices: {_some(found)}" if len(found) > 1 else ""


def _reused_seeds(evidence: Evidence, claim: Claim) -> str:
    arms = _arms(evidence, claim)
    both = {r.seed for r in arms if r.phase == "tune"} & {r.seed for r in arms if r.phase == "final"}
    return f"seeds used for tuning and again as evidence: {sorted(both)}" if both else ""


def _unchosen(claim: Claim, pairing: Pairing) -> str:
    if claim.baseline.sweep:  # every point is tested; where nothing was tuned, no point has to be chosen
        return ""
    places_without = [f"{c.dataset}/{c.architecture}" for c in pairing.choices if c.baseline is None]
    if not places_without:
        return ""
    return f"no tuning run scores every baseline on validation at {_some(places_without)}"


def _no_reference(evidence: Evidence, claim: Claim) -> str:
    if not claim.estimand.relative:
        return ""
    if evidence.reference is None:
        return f"{claim.estimand.kind} needs single-task runs in the study: add a method with `use: stl`"
    runs = evidence.phase("final")
    owed: list[str] = []
    for dataset, architecture in places(evidence, claim):
        scale = scale_of(evidence, runs, dataset, "test")
        known = scale.reference.get(architecture, {})
        wanted = wanted_readings(scale, claim.estimand, evidence)
        owed += [f"{t}.{m} on {dataset}/{architecture}" for t, m in wanted if not known.get((t, m))]
    if owed:
        return f"no usable (finite, non-zero) single-task reference for {_some(owed)}"
    joined = outcomes([r for r in runs if r.method == evidence.reference], "test")
    where = set(places(evidence, claim))
    open_runs = [f"{d}/{a}/s{s}" for (_, d, a, s), o in joined.items() if (d, a) in where and not o.complete]
    return f"single-task runs are not finished: {_some(open_runs)}" if open_runs else ""


def _interval_scale(evidence: Evidence, claim: Claim) -> str:
    """Percent changes leave out metrics without a true zero; a task must not vanish that way."""
    if not claim.estimand.relative:
        return ""
    lost: list[str] = []
    for dataset in dict.fromkeys(d for d, _ in places(evidence, claim)):
        scale = scale_of(evidence, evidence.phase("final"), dataset, "test")
        kept = wanted_readings(scale, claim.estimand, evidence)
        asked = [claim.estimand.task] if claim.estimand.task else dict.fromkeys(t for t, _ in scale.ranked)
        lost += [f"{dataset}.{t}" for t in asked if t not in {k for k, _ in kept}]
    if not lost:
        return ""
    return f"no metric with a true zero, so no percent change, for task {_some(lost)}"


def _test_reads(evidence: Evidence, claim: Claim) -> str:
    names = {claim.method, *claim.baseline.best_of, evidence.reference}
    seen = [r for r in evidence.runs if r.method in names]
    tuned = [r.label or r.trial for r in seen if r.phase == "tune" and r.test_reads]
    if tuned:
        return f"tuning runs read the test split: {_some(tuned)}"
    often = [r.label or r.trial for r in seen if r.test_reads > 1]
    return f"test was read more than once by {_some(often)}" if often else ""


def _scope(evidence: Evidence, claim: Claim) -> str:
    if claim.scope == "these_datasets":
        return ""
    datasets = {d for d, _ in places(evidence, claim)}
    if len({claim.family_of(d) for d in datasets}) >= 2:
        return ""
    few = "one dataset" if len(datasets) < 2 else "one family of datasets"
    return f"datasets_like_these cannot be judged from {few}; say these_datasets or add some"


def _margin(claim: Claim) -> str:
    if claim.alternative == "equivalence" and not claim.margin > 0:
        return "equivalence needs a margin above zero"
    return "margin must not be negative" if claim.margin < 0 else ""
