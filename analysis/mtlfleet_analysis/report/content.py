"""What the page says, as plain values: every number already a string, every figure already drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mtlfleet_analysis.curves import RunScore, dataset_ranks, run_scores, tuning_curves
from mtlfleet_analysis.evidence import Evidence
from mtlfleet_analysis.fronts import fronts
from mtlfleet_analysis.readings import changes, tradeoffs
from mtlfleet_analysis.report import claim_figures, curve_figures, front_figures, method_figures, queries, tables
from mtlfleet_analysis.report.cards import card
from mtlfleet_analysis.report.drawing import Figure, figure
from mtlfleet_analysis.report.palette import badge
from mtlfleet_analysis.sentences import number
from mtlfleet_analysis.verdict import Verdict

PAIR = (
    "Validation. Circles: configurations a baseline tried, without those far from every final run; a line joins those "
    "that no other one beats. Dashed: a declared sweep of weights, in their order. Crosses: seeds of the final runs; "
    "filled: their means. Up and right is better."
)
MANY = "Validation, mean over seeds; each axis runs from the worst to the best method. Up is better."
MATRIX = "Validation, two tasks at a time: circles are configurations tried, crosses seeds, filled points their means."
FRONT = (
    "Test, percent change of each task against single-task learning, failed runs scored worst. Each straight line is a "
    "declared preference through the best point of the sweep; a claim has to be past the band beside it, eps wide: "
    "that no point of the sweep dominates a method proves nothing."
)
PREFERRED = (
    "Test, percent change of the tasks under the declared preference, failed runs scored worst; crosses: seeds. The "
    "line is the best point of the sweep; a claim has to be past the band beside it, eps wide."
)


def content(evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All variables of ``page.html``."""
    scores = run_scores(evidence)
    return {
        "title": evidence.title or evidence.study,
        "study": evidence.study,
        "summary": _summary(evidence),
        "tally": _tally(verdicts),
        "claims": tables.claim_table(verdicts),
        "cards": [card(evidence, v, i) for i, v in enumerate(verdicts)],
        "forests": _forests(verdicts),
        "board": tables.board(evidence),
        "external": tables.external(evidence),
        "twins": tables.twins(evidence),
        "tradeoffs": _tradeoffs(evidence, verdicts),
        "fronts": _fronts(evidence, verdicts),
        "heats": _heats(evidence),
        "profiles": _profiles(evidence, scores),
        "tuning": _tuning(evidence),
        "ranks": _ranks(evidence),
        "strips": _strips(evidence, scores),
        "gradients": _gradients(evidence),
        "failures": tables.failures(evidence),
        "budget": tables.budget(evidence),
        "sensitivity": tables.sensitivity(verdicts),
        "provenance": tables.provenance(evidence, verdicts),
        "sql": queries.of_figures(evidence.study),
    }


def _summary(evidence: Evidence) -> list[tuple[str, str]]:
    final = evidence.phase("final")
    ended = sum(r.state in ("done", "diverged", "oom") for r in final)
    facts = [
        (str(len(evidence.methods)), "methods"),
        (str(len(evidence.datasets)), "datasets"),
        (str(len(evidence.architectures)), "architectures"),
        (str(len(evidence.seeds)), "seeds"),
        (f"{ended}/{len(final)}", "final runs ended"),
        (str(sum(r.attempts > 0 for r in evidence.phase("tune"))), "tuning runs"),
    ]
    return [(n, word[:-1] if n == "1" and word.endswith("s") else word) for n, word in facts]


def _tally(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    found: dict[str, int] = {}
    for v in verdicts:
        found[v.title] = found.get(v.title, 0) + 1
    looks = {v.title: badge(v.verdict, v.label) for v in verdicts}
    return [{"count": str(n), "title": t, "glyph": looks[t][0], "look": looks[t][1]} for t, n in found.items()]


def _forests(verdicts: Sequence[Verdict]) -> list[Figure]:
    """One forest a unit, its rows by family."""
    found: list[Figure] = []
    measured = [v for v in verdicts if v.effect is not None and v.verdict != "invalid"]
    for i, unit in enumerate(dict.fromkeys(v.unit for v in measured)):
        rows = [v for v in measured if v.unit == unit]
        names = [f"{v.claim_id} {badge(v.verdict, v.label)[0]}" for v in rows]
        families = list(dict.fromkeys(v.claim.family for v in rows))
        order = [(v, n) for f in families for v, n in zip(rows, names, strict=True) if v.claim.family == f]
        spec = claim_figures.forest([v for v, _ in order], [n for _, n in order])
        description = f"Effects of {len(rows)} claims with 95 % intervals"
        found.append(
            figure(
                spec,
                f"forest{i}",
                description,
                "Effect with 95 % interval, one row a claim, families apart; the band is each claim's margin around "
                "zero. Glyph and shape say the verdict.",
            )
        )
    return found


def _title(evidence: Evidence, dataset: str, architecture: str) -> str:
    if len(evidence.architectures) == 1:
        return evidence.label(dataset)
    return f"{evidence.label(dataset)} · {evidence.label(architecture)}"


def _tradeoffs(evidence: Evidence, verdicts: Sequence[Verdict]) -> list[Figure]:
    found: list[Figure] = []
    sweeps = {name for v in verdicts for name in v.claim.baseline.best_of if not v.claim.baseline.sweep}
    declared = [v.claim.baseline.best_of for v in verdicts if v.claim.baseline.sweep]
    methods = list(evidence.methods)
    for i, t in enumerate(tradeoffs(evidence, sweeps, declared)):
        title = _title(evidence, t.dataset, t.architecture)
        description = f"Trade-off between {len(t.tasks)} tasks of {t.dataset} for {len(evidence.methods)} methods"
        if len(t.tasks) == 2:
            found.append(figure(method_figures.pareto(t, methods, title), f"front{i}", description, PAIR))
            continue
        found.append(figure(method_figures.parallel(t, methods, title), f"front{i}", description, MANY))
        if len(t.tasks) <= front_figures.MOST_TASKS:
            spec = front_figures.matrix(t, methods, title)
            found.append(figure(spec, f"matrix{i}", f"{description}, two at a time", MATRIX))
    return found


def _fronts(evidence: Evidence, verdicts: Sequence[Verdict]) -> list[Figure]:
    """Of every claim on a front, one figure a place, with what it prefers and what must be beaten."""
    found: list[Figure] = []
    methods = list(evidence.methods)
    for one in (f for v in verdicts for f in fronts(evidence, v)):
        where = one.tradeoff
        title = f"{one.claim}: {_title(evidence, where.dataset, where.architecture)}, eps {number(one.eps)} pp"
        two = len(where.tasks) == 2
        spec = (front_figures.front if two else front_figures.preferred)(one, methods, title)
        description = f"Claim {one.claim} on {where.dataset}: {one.method}, the sweep, and the declared preference"
        found.append(figure(spec, f"claimed{len(found)}", description, FRONT if two else PREFERRED))
    return found


def _heats(evidence: Evidence) -> list[Figure]:
    found: list[Figure] = []
    everything = changes(evidence)
    caption = "Percent against single-task learning on test; positive is better. Pale: the interval covers zero."
    for i, place in enumerate(dict.fromkeys((c.dataset, c.architecture) for c in everything)):
        here = [c for c in everything if (c.dataset, c.architecture) == place]
        methods = [m for m in evidence.methods if any(c.method == m for c in here)]
        spec = method_figures.heat(here, methods, _title(evidence, *place))
        found.append(figure(spec, f"heat{i}", f"Change against single-task learning on {place[0]}", caption))
    return found


def _profiles(evidence: Evidence, scores: Sequence[RunScore]) -> list[Figure]:
    caption = (
        "How large a share of a method's final runs improves on single-task learning by at least so much, over all "
        "places. A failed run reaches nothing, so its curve starts below 100 %."
    )
    if not scores:
        return []
    spec = curve_figures.profiles(scores, list(evidence.methods), "")
    return [figure(spec, "profile", f"Performance profiles over {len(scores)} final runs", caption)]


def _tuning(evidence: Evidence) -> list[Figure]:
    curves, methods = [c for c in tuning_curves(evidence) if len(c.values) > 1], list(evidence.methods)
    caption = (
        "Expected best validation score of k configurations drawn without replacement, mean over places, for k up to "
        "half of those tried: what a smaller tuning budget would have given; by trials, and by the device hours they "
        "took. Dashed: the whole budget of each method."
    )
    if not curves:
        return []
    return [
        figure(
            curve_figures.tuning(curves, methods, by, ""),
            f"evp-{by}",
            f"Expected best score by {by}",
            caption,
        )
        for by in ("trials", "hours")
    ]


def _ranks(evidence: Evidence) -> list[Figure]:
    found = dataset_ranks(evidence)
    if found is None:
        return []
    caption = (
        "Descriptive. Mean ranks depend on which other methods are in the study and have no size; a bar joins methods "
        "that Nemenyi's test does not tell apart."
    )
    spec = curve_figures.critical_difference(found, evidence.labels)
    return [figure(spec, "ranks", f"Mean ranks of {len(found.ranks)} methods", caption)]


def _places(items: Iterable[Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((x.dataset, x.architecture) for x in items))


def _strips(evidence: Evidence, scores: Sequence[RunScore]) -> list[Figure]:
    caption = (
        "Every final run on test; a line joins the runs of one seed. Lines that rise and fall together are what "
        "pairing by seed takes out. Crosses at the lower edge failed."
    )
    return [
        figure(
            curve_figures.strips(
                [s for s in scores if (s.dataset, s.architecture) == place],
                list(evidence.methods),
                _title(evidence, *place),
            ),
            f"strip{i}",
            f"Runs of each seed on {place[0]}",
            caption,
        )
        for i, place in enumerate(_places(scores))
    ]


def _gradients(evidence: Evidence) -> list[Figure]:
    captions = {
        "cosine": "Cosines of the tasks' gradients in the final runs: median and 10th to 90th percentile over seeds.",
        "weight": "Weights of the tasks in the final runs: median and 10th to 90th percentile over seeds.",
    }
    found = []
    for quantity, caption in captions.items():
        here = [t for t in evidence.traces if t.quantity == quantity]
        for i, place in enumerate(_places(here)):
            mine = [t for t in here if (t.dataset, t.architecture) == place]
            spec = curve_figures.traces(mine, list(evidence.methods), _title(evidence, *place), quantity)
            found.append(figure(spec, f"{quantity}{i}", f"{quantity} by step on {place[0]}", caption))
    return found
