"""Verdicts as sentences one may quote: effect, interval, p, n, power, and what would decide an open one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtlfleet.plan.claims import Estimand
from mtlfleet_analysis.verdict import Verdict


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without exponents for ordinary sizes; a real minus sign.

    >>> number(-0.12345), number(1234.5), number(None)
    ('−0.123', '1234', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    if abs(value) < 1e-12:  # what is left of a sum that should be zero
        return "0"
    size = math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, digits - 1 - size)}f}" if -5 < size < 6 else f"{value:.{digits - 1}e}"
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    text = number(value, digits)
    return f"+{text}" if text not in ("0", "n/a") and not text.startswith("−") else text


def declared(value: float) -> str:
    """A number someone wrote down, as written.

    >>> declared(0.5), declared(0.05)
    ('0.5', '0.05')
    """
    return f"{value:g}".replace("-", "−")


def p_text(value: float | None) -> str:
    """``p = 0.012``, or ``p < 0.0001``.

    >>> p_text(0.00001), p_text(0.25)
    ('p < 0.0001', 'p = 0.250')
    """
    if value is None:
        return "p n/a"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.3f}" if value >= 0.001 else f"p = {value:.4f}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short_unit(unit: str) -> str:
    return "pp" if unit == "percentage points" else unit


def interval(verdict: Verdict) -> str:
    if verdict.ci_low is None or not math.isfinite(verdict.ci_low):
        return "no interval: one seed per dataset"
    return f"95 % CI [{number(verdict.ci_low)}, {number(verdict.ci_high)}]"


def baseline_text(verdict: Verdict) -> str:
    names = verdict.claim.baseline.best_of
    if verdict.claim.baseline.sweep:
        preference = _preference(verdict)
        return f"every point of the sweep {names[0]} … {names[-1]}{preference}"
    if len(names) == 1:
        return names[0]
    chosen = {c["baseline"] for c in verdict.detail["choices"]}
    joined = ", ".join(names[:-1]) + f" and {names[-1]}"
    only = next(iter(chosen)) if len(chosen) == 1 else None
    return f"{only}, the best of {joined} on validation" if only else f"the best of {joined}"


def _preference(verdict: Verdict) -> str:
    """The declared preference that speaks loudest, where there are several."""
    rows = verdict.detail.get("front", {}).get("preferences", [])
    if not rows or (len(rows) == 1 and rows[0]["w"] == "equal"):
        return ""
    best = min(rows, key=lambda row: row["p"])
    return f" under the preference {', '.join(f'{task} {declared(w)}' for task, w in best['w'].items())}"


def sentence(verdict: Verdict) -> str:
    """The whole statement."""
    if verdict.verdict == "invalid":
        return f"Not judged: {'; '.join(g.partition(': ')[2] for g in verdict.guards)}."
    finding = _safety(verdict) if verdict.claim.estimand.kind == "every_task" else _finding(verdict)
    return f"{finding} ({_numbers(verdict)}).{_early(verdict)}{_open(verdict)}{_tasks(verdict)}{_marks(verdict)}"


def _safety(verdict: Verdict) -> str:
    """Safe on every task, harmful on one, or neither shown."""
    margin = f"{declared(verdict.claim.margin)} {short_unit(verdict.unit)}"
    who = f"{verdict.claim.method} against {baseline_text(verdict)}"
    worst = (
        f"{verdict.detail['worst_task']}, the weakest, changes by {signed(verdict.effect)} {short_unit(verdict.unit)}"
    )
    said = {
        "supported": f"Safe: {who} loses less than {margin} on every task",
        "refuted": f"Unsafe: {who} loses more than {margin} on some task",
        "inconclusive": f"Not shown safe: {who}, at most {margin} lost on every task",
        "observed": f"Observed, not registered before its runs: {who} on every task, {verdict.label}",
    }
    return f"{said[verdict.verdict]}; {worst}"


def _tasks(verdict: Verdict) -> str:
    """The tasks that stand on their own behind a supported average."""
    found = verdict.detail.get("follow_ups", [])
    if not found or verdict.verdict != "supported":
        return ""
    alone = [row["task"] for row in found if row["supported"]]
    return f" On its own (Holm over {len(found)} tasks): {', '.join(alone) or 'no task'}."


def _finding(verdict: Verdict) -> str:
    claim, label = verdict.claim, verdict.label
    unit, method = short_unit(verdict.unit), claim.method
    base = baseline_text(verdict) + _on_the_way(claim.estimand)
    by = f"{number(abs(verdict.effect or 0.0))} {unit}"
    margin = f"{declared(claim.margin)} {unit}"
    mean = f"effect {signed(verdict.effect)} {unit}"
    if verdict.verdict == "observed":
        return f"Observed, not registered before its runs: {method} against {base}, {mean}, {label}"
    if verdict.verdict == "inconclusive":
        asked = {
            "superiority": f"{method} improves on {base}",
            "non_inferiority": f"{method} is at most {margin} worse than {base}",
            "equivalence": f"{method} and {base} are equivalent within {margin}",
            "no_better_than": f"{method} is less than {margin} better than {base}",
        }[claim.alternative]
        return f"Not decided whether {asked}: {mean}"
    if verdict.verdict == "supported":
        return {
            "superiority": f"{method} improves on {base} by {by}"
            + (f", real but below the margin of {margin}" if label == "negligible" else ""),
            "non_inferiority": f"{method} is at most {margin} worse than {base}: {mean}",
            "equivalence": f"{method} and {base} are equivalent within {margin}: {mean}",
            "no_better_than": f"{method} is less than {margin} better than {base}: {mean}",
        }[claim.alternative]
    if label == "equivalent":
        return f"{method} does not improve on {base}; the two are equivalent within {margin}: {mean}"
    if label == "worse":
        return f"{method} is worse than {base} by {by}"
    if label == "better":
        return f"{method} is better than {base} by {by}, more than {margin}"
    return f"{method} does not improve on {base} by as much as {margin}: {mean}"


def _on_the_way(estimand: Estimand) -> str:
    """What is compared where it is no score of the chosen checkpoint."""
    if estimand.kind == "time_to_target":
        return f" in the time to {estimand.task}.{estimand.metric} {declared(estimand.target or 0.0)} on validation"
    if estimand.kind == "compute_matched":
        return f" on validation after {declared(estimand.device_s or 0.0)} device seconds with tuning"
    return ""


def correction(verdict: Verdict) -> str:
    """What the claim's p was corrected by, within its family."""
    return "BH" if verdict.verdict == "observed" else {"holm": "Holm", "max_t": "max-T"}[verdict.claim.correction]


def _numbers(verdict: Verdict) -> str:
    detail = verdict.detail
    p = p_text(verdict.p_value)
    if detail["family_size"] > 1:
        p += f", {correction(verdict)} {p_text(verdict.p_adjusted)}"
    sets = verdict.n_datasets
    models = len({p[1] for p in detail["pairs"]})
    design = (
        f"{verdict.n_pairs} pairs, {counted(detail['seeds'], 'seed')} × {counted(sets, 'dataset')}{families(verdict)}"
    )
    if models > 1:
        design += f" × {counted(models, 'architecture')}"
    power = ""
    if verdict.power is not None:
        power = f"; power {verdict.power:.2f} at the margin {declared(verdict.claim.margin)}"
    return f"{interval(verdict)}; {p}{_looked(verdict)}; {design}{power}"


def families(verdict: Verdict) -> str:
    """How many families the datasets are, where they are fewer."""
    count = verdict.detail.get("dataset_families", verdict.n_datasets)
    return f" ({count} {'family' if count == 1 else 'families'})" if count < verdict.n_datasets else ""


def _looked(verdict: Verdict) -> str:
    """The look of a schedule, or the e-value of an open one."""
    look = verdict.detail["look"]
    if look["kind"] == "group_sequential":
        return f", look {look['number']} of {look['of']}"
    return f", e = {number(verdict.detail['e_value'])}" if look["kind"] == "anytime" else ""


def _early(verdict: Verdict) -> str:
    """A decision before the last scheduled look."""
    look = verdict.detail["look"]
    early = look["kind"] == "group_sequential" and look["number"] < look["of"]
    if not early or verdict.verdict not in ("supported", "refuted"):
        return ""
    seeds = counted(look["seeds"], "seed")
    return (
        f" Decided at look {look['number']} of {look['of']}, after {seeds} per dataset; later seeds do not change it."
    )


def _open(verdict: Verdict) -> str:
    """What would decide an inconclusive claim."""
    if verdict.verdict != "inconclusive":
        return ""
    if verdict.label == "sweep too coarse":
        return _finer(verdict)
    look = verdict.detail["look"]
    if look["kind"] == "group_sequential" and look["number"] < look["of"]:
        return f" The next look is at {verdict.claim.stopping.looks[look['number']]} seeds (now {look['seeds']})."
    if look["kind"] == "anytime":
        return " More seeds may be added and looked at at no cost in error."
    if not verdict.claim.margin > 0:
        return " Declare a margin to learn how many seeds would decide it."
    needed, have = verdict.seeds_needed, verdict.detail["seeds"]
    if needed is not None and needed > have:
        return f" About {needed} seeds per dataset would decide it at the margin (now {have})."
    datasets = verdict.detail["datasets_needed"]
    if needed is None and datasets is not None:
        now = verdict.detail.get("dataset_families", verdict.n_datasets)
        return f" More seeds cannot decide it; about {datasets} datasets like these would (now {now})."
    if needed is None:
        return " No affordable number of seeds decides it at this margin."
    return " There was power enough at the margin: the effect seems to lie between zero and the margin."


def _finer(verdict: Verdict) -> str:
    """Which weights a sweep lacks."""
    front = verdict.detail["front"]
    grid = "cannot be measured" if front["eps_grid"] is None else f"is {number(front['eps_grid'])}"
    text = f" The sweep is too coarse: the bulge of its front between two points {grid}"
    added = sorted({tuple(w) for row in front["finer"] for w in row["weights"]})
    weights = "; ".join(", ".join(declared(x) for x in w) for w in added[:4])
    return text + (f"; weights to add: {weights}." if weights else ".")


def _untuned(trials: Mapping[str, int]) -> str:
    """A win over scalarization that nobody tuned is another claim than one over tuned scalarization."""
    names = [method for method, count in trials.items() if not count]
    if len(names) == len(trials):
        return " Nothing was tuned."
    return f" Not tuned: {', '.join(names)}." if names else ""


def _marks(verdict: Verdict) -> str:
    failures = verdict.detail["failures"]
    text = "".join(
        f" Amended: the wording locked @{a['number']} was replaced after {counted(a['runs'], 'final run')}."
        for a in verdict.detail["amended"]
    )
    if verdict.claim.failures == "exclude":
        text += (
            f" Failed runs left out with their pairs: {failures['method']} of the method, "
            f"{failures['baseline']} of the baseline ({verdict.claim.failures_reason})."
        )
    elif failures["method"] or failures["baseline"]:
        text += (
            f" Failed runs scored worst: {failures['method']} of the method, {failures['baseline']} of the baseline."
        )
    text += _untuned(verdict.detail["budget"]["tuning_trials"])
    if verdict.detail["parity"]["status"] == "waived":
        text += f" Equal tuning was waived: {verdict.detail['parity']['reason'] or 'no reason given'}."
    if verdict.fragile:
        other = [
            r["analysis"]
            for r in verdict.detail["sensitivity"]
            if r["able"] and r["verdict"] != verdict.detail["would_be"]
        ]
        text += f" Fragile; another verdict from: {', '.join(other)}."
    return text
