"""docs/methods.md, made from the catalogue: what every method is, costs, takes, and does unlike its source."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

from mtlfleet.cli.catalogue import docstring
from mtlfleet.declarations import REQUIRED, Entry
from mtlfleet.docstrings import sections
from mtlfleet.registry import builtin

FAMILIES = {
    "loss": (
        "Weights from the losses",
        """One backward pass and one all-reduce of the gradients, as plain data-parallel training. `galw` and
`autoscale` take one backward pass per task in their first epoch. `auto_lambda` takes five forward and three backward
passes over two batches, and three all-reduces.""",
    ),
    "gram": (
        "Weights from the Gram matrix of the task gradients",
        """One backward pass per task; task gradients are exchanged in shards, (K + 1) / 2 times the bytes of one
all-reduce, and K x K numbers are summed over ranks. `moco`, and `db_mtl` with beta > 0, keep K numbers per parameter,
in shards too. `modo` and `sdmgrad` look at three batches a step: three forward passes and 2 K + 1 backward passes;
under `train.budget: samples`, the default, they make a third of the steps.""",
    ),
    "representation": (
        "At the representation that all tasks read",
        """One backward pass per task through its head, one through the trunk; one all-reduce of the gradients, and of
K x K numbers or of K per coordinate of the representation. Models with features per task have no such tensor and are
refused.""",
    ),
    "elementwise": (
        "A rule for each coordinate",
        """One backward pass per task, exchanged in shards; nothing else is sent, but for K numbers by
`excess_mtl`, which also keeps K numbers per parameter, and two by `graddrop@kurin`.""",
    ),
    "optimizer": (
        "Optimizer states per task",
        """One backward pass per task, exchanged in shards; one to three numbers per task and parameter are kept, in
shards too. Needs `train.optimizer: sgd` without momentum.""",
    ),
    "foreign": (
        "Methods of other libraries",
        "As their own: one backward pass for scalarizers, one per task for weightings of the Gram matrix.",
    ),
    "wrapper": ("Around another method", "What the method inside costs; less where weights are reused."),
}
INTRODUCTION = """# Methods

Made by `mtlfleet methods list --markdown` from the sources; a test holds it to them. K is the number of tasks, G the
matrix of inner products of the task gradients over the shared parameters, alpha a method's weights. `name@preset` sets
what one source's code does. `mtlfleet methods check NAME` runs the contracts on a method, or on a plug-in's file.

In a study, `cagrad: {heads: weighted, scale: sum_k}` lays conventions over any method that has weights: whether task
parameters see them (`heads`: `unweighted`, `weighted`), and how long the update is (`scale`: `native`; `sum_k`, weights
that sum to K; `unit_norm`; `match_sum_norm`, as long as the plain sum). Where one has no meaning it is refused (E416).
What each trial ran under (heads, scale, sum of weights, private parameters, guard, clip, batches, passes a step) is in
the store's view `run_cards`.

| method | family | what it is |
| --- | --- | --- |"""
_MATH = re.compile(r":math:`([^`]*)`")
_ANNOTATED = re.compile(r"Annotated\[([^,\[\]]+), ((?:G|L)[et]\([^)]*\)(?:, (?:G|L)[et]\([^)]*\))*)\]")
_SIGNS = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    entries = builtin("method")
    yield INTRODUCTION
    for entry in entries.values():
        yield f"| [{entry.name}](#{entry.name}) | {entry.family} | {_cell(entry.summary)} |"
    for family, (title, cost) in FAMILIES.items():
        members = [entry for entry in entries.values() if entry.family == family]
        yield ""
        yield f"## {title}"
        yield ""
        yield cost
        for entry in members:
            yield ""
            yield from _method(entry)


def _method(entry: Entry) -> Iterator[str]:
    found = sections(inspect.cleandoc(docstring(entry)))
    yield f"### {entry.name}"
    yield ""
    yield _prose(entry.summary)
    for heading in ("Math", "Source", "Departures"):
        yield ""
        yield f"- **{heading}** {_prose(found.get(heading, ''))}"
    if entry.parameters:
        yield ""
        yield "| parameter | default | takes |"
        yield "| --- | --- | --- |"
        for p in entry.parameters:
            default = "required" if p.default is REQUIRED else json.dumps(p.default)
            yield f"| `{p.name}` | `{default}` | {_cell(_takes(p.annotation))} |"
    if entry.presets:
        yield ""
    for name, values in entry.presets.items():
        settings = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in values.items())
        yield f"- `{entry.name}@{name}` sets {settings}"


def _prose(text: str) -> str:
    """reStructuredText as Markdown: code in single ticks, formulas in GitHub's ticked dollars. Code is taken out first,
    so that its ticks are not mistaken for a formula's."""
    pieces = text.split("``")
    return "".join(f"`{piece}`" if i % 2 else _MATH.sub(r"$`\1`$", piece) for i, piece in enumerate(pieces))


def _takes(annotation: str) -> str:
    """An annotation in words: ``Annotated[float, Ge(0), Lt(1)]`` is "float >= 0, < 1"."""

    def bounds(found: re.Match[str]) -> str:
        limits = re.findall(r"(G|L)([et])\(([^)]*)\)", found[2])
        return f"{found[1]} " + ", ".join(f"{_SIGNS[a + b]} {value}" for a, b, value in limits)

    text = _ANNOTATED.sub(bounds, annotation)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " or "), text)
    return text.replace("None", "null").replace(" | ", " or ").replace("'", "`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
