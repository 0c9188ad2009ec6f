"""What a study lays over a method whatever its own conventions are: ``heads`` and ``scale`` of its entry."""

from __future__ import annotations

from dataclasses import replace

from mtlfleet.declarations import Entry
from mtlfleet.plan.document import Document
from mtlfleet.plan.problems import Problems
from mtlfleet.plan.schema import MethodEntry
from mtlfleet.plan.trial import Spec

NORMS = ("unit_norm", "match_sum_norm")


def laid_over(spec: Spec, entry: Entry, asked: MethodEntry, document: Document, problems: Problems) -> Spec:
    """``spec`` with them; E416 where one has no meaning, as far as the method's own source tells without running it.

    A method with a parameter ``heads`` gets it there: said one way or the other, it is the same run.
    """
    heads, scale = asked.heads or "", "" if asked.scale == "native" else asked.scale
    if not heads and not scale:
        return spec
    said, value = ("heads", heads) if heads else ("scale", scale)
    place = document.key(("methods", spec.name, said))
    if heads and any(p.name == "heads" for p in entry.parameters):
        if asked.params.get("heads", heads) != heads:
            problems.add("E416", f"method `{spec.name}`: `heads` is said twice, and differently", place)
        return replace(spec, params={**spec.params, "heads": heads}, scale=scale)
    if why := _meaningless(entry, heads, scale):
        problems.add(
            "E416",
            f"method `{spec.name}`: `{said}: {value}` has no meaning for {entry.name}",
            place,
            notes=[why],
            help="leave it out for this method",
        )
    return replace(spec, heads=heads, scale=scale)


def _meaningless(entry: Entry, heads: str, scale: str) -> str:
    family = entry.family if entry.builtin else ""
    if entry.traits.get("owns_update") is True:
        return "its update is the optimizer's own"
    if entry.traits.get("weight_sum") == "none" and (scale or heads == "weighted"):
        return "its update is no weighting of tasks"
    if scale and entry.traits.get("own_optimizers") is True:
        return "it takes several optimizer steps a batch, each with tasks of its own"
    if scale in NORMS and family == "loss" and entry.traits.get("needs") is None:
        return "it looks at losses only, and a norm would need every task's gradient"
    if scale in NORMS and family == "representation":
        return "it weighs at the representation, where the norm of the shared gradient is not known"
    return ""
