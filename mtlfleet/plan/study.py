"""A study file as one frozen value: its grid, its trials in a fixed order, its claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from mtlfleet.errors import Findings, StudyInvalid
from mtlfleet.plan.claims import Claim
from mtlfleet.plan.document import ReadingError, read_document
from mtlfleet.plan.draft import Draft
from mtlfleet.plan.grid import included
from mtlfleet.plan.mirrors import Mirror, mirrors
from mtlfleet.plan.place import Root
from mtlfleet.plan.problems import Problems, render
from mtlfleet.plan.rules import check_rules
from mtlfleet.plan.schema import StudyFile
from mtlfleet.plan.science import claim_of, recipe_of, science_of, seeds_of, storage_root
from mtlfleet.plan.shape import read_shape
from mtlfleet.plan.space import Space, configurations
from mtlfleet.plan.tasks import Facts
from mtlfleet.plan.trial import Phase, Recipe, Spec, Trial, digest
from mtlfleet.registry import Catalogue


class Cell(NamedTuple):
    """The unit that is tuned and selected: ``task`` is ``*``, or the one task of a single-task run."""

    method: str
    dataset: str
    architecture: str
    task: str = "*"


@dataclass(frozen=True)
class Resources:
    """What one trial occupies. ``workers`` is science (it enters every key); the rest belongs to the site."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    max_concurrent: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What a study file says, checked and complete. ``sha256`` covers the science, never labels or site settings."""

    name: str
    path: Path
    root: Root  # where the results are: a folder, or the URL of a place in a bucket
    publish_max_bytes: int
    keep_weights: bool
    title: str
    report_title: str
    spec: Mapping[str, Any] = field(repr=False)
    methods: tuple[Spec, ...]
    datasets: tuple[Spec, ...]
    architectures: tuple[Spec, ...]
    strategy: Spec
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    trials_per_method: int
    select: str
    recipe: Recipe
    resources: Resources
    claims: tuple[Claim, ...]
    labels: Mapping[str, str]
    plugins: tuple[str, ...]
    catalogue: Catalogue = field(repr=False)
    facts: Mapping[str, Facts] = field(repr=False)
    warnings: Findings = field(repr=False)
    single_task_methods: frozenset[str]
    _file: StudyFile = field(repr=False)
    _common: Space = field(repr=False)
    _own: Mapping[str, Space] = field(repr=False)

    @property
    def folder(self) -> Path:
        """What stays on this machine: locks, the report. The results' folder, or ``runs/<study>`` beside the file."""
        return self.root if isinstance(self.root, Path) else self.path.absolute().parent / "runs" / self.name

    @classmethod
    def load(cls, path: Path | str) -> Study:
        """Read, check and complete a study file.

        The facts of the study's datasets are read, which imports a dataset that comes from a plug-in; no other
        plug-in code runs. Raises StudyInvalid with every mistake at once.
        """
        study, findings = _read(Path(path), import_plugins=True)
        if study is None:
            error = StudyInvalid(findings, str(path))
            error.add_note(render(findings))
            raise error
        return study

    @cached_property
    def sha256(self) -> str:
        return digest(self.spec)

    @property
    def searched(self) -> bool:
        """Whether there is a tuning phase."""
        return self._file.search is not None

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """Trackers that get a copy when a launch ends."""
        return mirrors(self._file.mirrors.model_dump(), self.path.parent)

    def label(self, method: str) -> str:
        """A method's name for people."""
        return self.labels.get(method, method)

    def cells(self) -> tuple[Cell, ...]:
        """Every cell, by dataset and architecture (the shape of a trial), then as methods stand in the file."""
        return self._cells

    @cached_property
    def _cells(self) -> tuple[Cell, ...]:
        found = []
        for dataset in self.datasets:
            names = [t.name for t in self.facts[dataset.name].tasks]
            for architecture in self.architectures:
                for method in self.methods:
                    if not included(self._file, method.name, dataset.name, architecture.name):
                        continue
                    single = method.name in self.single_task_methods
                    tasks = names if single or len(names) == 1 else ["*"]
                    found += [Cell(method.name, dataset.name, architecture.name, task) for task in tasks]
        return tuple(found)

    def configs(self, cell: Cell) -> tuple[dict[str, Any], ...]:
        """The candidates of a cell, as ``{"train.lr": ..., "method.c": ...}``; ``({},)`` without a search.

        The same number for every method, unless its whole space holds fewer (then a claim about it is refused).
        """
        return self._configs[cell.method]

    @cached_property
    def _configs(self) -> Mapping[str, tuple[dict[str, Any], ...]]:
        if not self.searched:
            return {m.name: ({},) for m in self.methods}
        seed = min(self.tuning_seeds)
        return {
            m.name: configurations(self._common, self._own[m.name], self.trials_per_method, seed) for m in self.methods
        }

    def trial(self, cell: Cell, index: int, seed: int, phase: Phase) -> Trial:
        """One run of configuration ``index`` of a cell."""
        method, dataset, architecture, recipe = self._resolved(cell, index)
        tasks = (cell.task,) if cell.task != "*" else tuple(t.name for t in self.facts[cell.dataset].tasks)
        return Trial(
            method=method,
            dataset=dataset,
            architecture=architecture,
            strategy=self.strategy,
            recipe=recipe,
            tasks=tasks,
            seed=seed,
            phase=phase,
            world=self.resources.workers,
            config_index=index,
        )

    def _resolved(self, cell: Cell, index: int) -> tuple[Spec, Spec, Spec, Recipe]:
        key = (cell[:3], index)
        if key not in self._resolutions:
            self._resolutions[key] = self._resolve(cell, index)
        return self._resolutions[key]

    @cached_property
    def _resolutions(self) -> dict[tuple[tuple[str, ...], int], tuple[Spec, Spec, Spec, Recipe]]:
        return {}

    def _resolve(self, cell: Cell, index: int) -> tuple[Spec, Spec, Spec, Recipe]:
        settings: dict[str, Any] = {}
        for override in self._file.overrides:
            if override.when.matches(cell.method, cell.dataset, cell.architecture):
                settings |= override.set
        settings |= self.configs(cell)[index]
        train = {k.removeprefix("train."): v for k, v in settings.items() if k.startswith("train.")}
        recipe = self.recipe
        if "steps" in train or "epochs" in train:
            recipe = replace(recipe, steps=None, epochs=None)
        return (
            _with(self._by_name["method", cell.method], settings, "method."),
            self._by_name["dataset", cell.dataset],
            _with(self._by_name["architecture", cell.architecture], settings, "architecture."),
            replace(recipe, **train) if train else recipe,
        )

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], Spec]:
        groups = (("method", self.methods), ("dataset", self.datasets), ("architecture", self.architectures))
        return {(kind, spec.name): spec for kind, specs in groups for spec in specs}

    def tune_trials(self) -> tuple[Trial, ...]:
        """The tuning phase: each cell x configuration x tuning seed; empty without a search."""
        if not self.searched:
            return ()
        return self._ordered(
            [self.trial(cell, i, seed, "tune") for i in range(len(self.configs(cell))) for seed in self.tuning_seeds]
            for cell in self.cells()
        )

    def final_trials(self, selected: Mapping[Cell, int]) -> tuple[Trial, ...]:
        """The final phase: each cell's chosen configuration x seed. Without a search every cell has just one; with
        one, cells that are not in ``selected`` are left out."""
        chosen = [(c, selected.get(c, None if self.searched else 0)) for c in self.cells()]
        return self._ordered([self.trial(c, i, s, "final") for s in self.seeds] for c, i in chosen if i is not None)

    def _ordered(self, columns: Iterable[Sequence[Trial]]) -> tuple[Trial, ...]:
        """Trials of one shape together, within it round-robin over the cells: an early stop is fair."""
        shapes: dict[tuple[str, str], list[Sequence[Trial]]] = {}
        for column in columns:
            if column:
                shapes.setdefault((column[0].dataset.name, column[0].architecture.name), []).append(column)
        rows = chain.from_iterable(chain.from_iterable(zip_longest(*group)) for group in shapes.values())
        return tuple(trial for trial in rows if trial is not None)


def _with(spec: Spec, settings: Mapping[str, Any], prefix: str) -> Spec:
    own = {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
    return replace(spec, params={**spec.params, **own}) if own else spec


def check(path: Path | str, *, import_plugins: bool = False) -> Findings:
    """Every diagnostic about a study file; nothing is raised and no plug-in code runs unless asked for."""
    return _read(Path(path), import_plugins=import_plugins)[1]


def _read(path: Path, *, import_plugins: bool) -> tuple[Study | None, Findings]:
    problems = Problems()
    try:
        document = read_document(path, problems)
    except ReadingError:
        return None, problems.findings()
    shaped = read_shape(document, problems)
    if shaped is None:
        return None, problems.findings()
    draft = Draft(path, document, shaped, problems, import_plugins)
    draft.resolve()
    check_rules(draft)
    complete = not problems.any_error and set(draft.facts) == set(shaped.model.datasets)
    study = _assemble(draft) if complete else None
    if study is not None:
        _twins(study, draft)
    return (None if problems.any_error else study), problems.findings()


def _twins(study: Study, draft: Draft) -> None:
    """Two ids whose runs would have the same key: one run cannot stand for two arms."""
    seen: dict[str, Cell] = {}
    for cell in study.cells():
        for i in range(len(study.configs(cell))):
            first = seen.setdefault(study.trial(cell, i, study.seeds[0], "final").key, cell)
            if first[:3] != cell[:3]:
                kind = next(
                    k for k, a, b in zip(("method", "dataset", "architecture"), first, cell, strict=False) if a != b
                )
                one, two = (str(c[("method", "dataset", "architecture").index(kind)]) for c in (first, cell))
                draft.problems.add(
                    "E413",
                    f"{kind}s `{one}` and `{two}` contain the same configuration",
                    draft.document.key((kind + "s", two)),
                    caret=f"the same run as in `{one}`",
                    notes=["a run counts for one arm; equal configurations have equal keys"],
                )
                break


def _assemble(draft: Draft) -> Study:
    file, specs = draft.shaped.model, draft.specs

    def of(kind: str, names: Iterable[str]) -> tuple[Spec, ...]:
        return tuple(specs[kind, name] for name in names)

    title, search = file.title or file.study, file.search
    labels = {
        n: c.label for n, c in chain(file.methods.items(), file.datasets.items(), file.architectures.items()) if c.label
    }
    return Study(
        name=file.study,
        path=draft.path,
        root=storage_root(draft.path, file.study, file.storage.root),
        publish_max_bytes=file.storage.publish.max_bytes,
        keep_weights=file.storage.weights == "final",
        title=title,
        report_title=file.report.title or title,
        spec=science_of(draft),
        methods=of("method", file.methods),
        datasets=of("dataset", file.datasets),
        architectures=of("architecture", file.architectures),
        strategy=specs["strategy", "strategy"],
        seeds=seeds_of(file.seeds),
        tuning_seeds=tuple(search.seeds) if search else (),
        trials_per_method=search.trials_per_method if search else 1,
        select=search.select if search else "skill",
        recipe=recipe_of(file),
        resources=Resources(**file.resources.model_dump()),
        claims=tuple(claim_of(c, file.datasets) for c in file.claims),
        labels=labels,
        plugins=tuple(file.plugins),
        catalogue=draft.catalogue,
        facts=draft.facts,
        warnings=draft.problems.findings(),
        single_task_methods=frozenset(m for m in file.methods if draft.single_task(m)),
        _file=file,
        _common=draft.common,
        _own=draft.own,
    )
