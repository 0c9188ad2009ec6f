"""Whether a metric that a study names exists where it is asked for."""

from __future__ import annotations

from mtlfleet.errors import Place, among, nearest
from mtlfleet.plan.draft import Draft
from mtlfleet.plan.hyperparameters import shown
from mtlfleet.plan.tasks import METRICS


def known_metric(
    draft: Draft, name: str, datasets: tuple[str, ...], place: Place, code: str, also: tuple[str, ...] = ()
) -> None:
    """Say so unless ``task.metric`` exists on all of these datasets and points somewhere."""
    for dataset in datasets:
        facts = draft.facts.get(dataset)
        if facts is None:
            continue
        known = [f"{t.name}.{m}" for t in facts.tasks for m in t.metrics]
        if name not in known:
            close = nearest(name, [*known, *also])
            draft.problems.add(
                code,
                f"dataset `{dataset}` has no metric `{shown(name)}`",
                place,
                caret=f"did you mean `{close}`?" if close else "",
                notes=[among([*also, *known], name)],
            )
            return
        if METRICS[name.partition(".")[2]].direction == "none":
            draft.problems.add("E209", f"metric `{name}` has no better and no worse", place)
            return
