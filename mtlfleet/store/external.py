"""Tables that others published, read for comparison. They become rows of ``external_metrics`` and nothing else: no
trial, no metric of a run, and so no part of any test.

The file is one JSON object::

    {"tables": [{"dataset": "nyuv2", "source": "...", "url": "...", "note": "...",
                 "metrics": [{"name": "mIoU", "task": "segmentation", "higher_is_better": true}, ...],
                 "baseline_row": "STL",
                 "rows": {"STL": [38.3, ...], "PCGrad": [38.06, ...]},
                 "published_delta_m": {"PCGrad": 3.97}}]}

``rows`` holds one value per metric, null where the source has none. ``delta_m`` is percent against ``baseline_row``,
flat mean over metrics, lower is better; what is not published is worked out from the rows. Other keys are ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlfleet.errors import UsageError

TABLE = "external_metrics"
DELTA_TOLERANCE = 0.05  # percentage points; what the rounding of published digits explains
_MAX_BYTES = 16 << 20
_MAX_TEXT = 2000


@dataclass(frozen=True)
class Published:
    """What a file holds, as rows of ``external_metrics``. ``doubts``: sentences about numbers that disagree."""

    rows: tuple[dict[str, Any], ...]
    doubts: tuple[str, ...]

    @property
    def sources(self) -> set[tuple[str, str]]:
        """(source, dataset) of each table."""
        return {(row["source"], row["dataset"]) for row in self.rows}


def read_published(path: Path, datasets: Mapping[str, str] | None = None) -> Published:
    """Read ``path``. ``datasets`` renames: the file's name of a dataset -> the study's.

    Raises UsageError saying what was expected where.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path} has {len(raw)} bytes, at most {_MAX_BYTES} are read")
    try:
        content = json.loads(raw, object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a table of published results: {error}") from None
    reading = _Reading(path, hashlib.sha256(raw).hexdigest(), datasets or {})
    tables = reading.typed(content, "tables", list, "")
    unknown = sorted(set(datasets or {}) - {t.get("dataset") for t in tables if isinstance(t, dict)})
    if unknown:
        raise UsageError(f"{path} has no dataset `{unknown[0]}`", help="--dataset NAME_IN_FILE=NAME_IN_STUDY")
    found = [reading.table(table, f"tables[{i}]") for i, table in enumerate(tables)]
    rows = tuple(row for rows, _ in found for row in rows)
    if not rows:
        raise UsageError(f"{path} holds no results")
    return Published(rows, tuple(doubt for _, doubts in found for doubt in doubts))


def merged(before: Iterable[Mapping[str, Any]], published: Published) -> list[Mapping[str, Any]]:
    """The rows of a store after an import: a table imported again replaces what it brought before."""
    kept = [row for row in before if (row["source"], row["dataset"]) not in published.sources]
    return sorted([*kept, *published.rows], key=lambda r: tuple(str(r[k]) for k in _ORDER))


_ORDER = ("dataset", "source", "method", "task", "metric")


def delta_m(values: Sequence[float | None], reference: Sequence[float | None], higher: Sequence[bool]) -> float | None:
    """Percent change against ``reference``, flat mean over metrics, lower is better; None unless every term exists.

    >>> round(delta_m([39.29, 0.5493], [38.3, 0.6754], [True, False]), 3)
    -10.628
    """
    terms = []
    for value, base, up in zip(values, reference, higher, strict=True):
        if value is None or base is None or base == 0.0:
            return None
        terms.append((-1.0 if up else 1.0) * (value - base) / abs(base))
    return 100.0 * math.fsum(terms) / len(terms) if terms else None


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key `{twice}` stands there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no published number; write null where there is none")


@dataclass(frozen=True)
class _Reading:
    """One file on its way to rows; every complaint names the place."""

    path: Path
    sha256: str
    datasets: Mapping[str, str]

    def typed(self, holder: Any, key: str, kind: type, where: str, *, default: Any = None) -> Any:
        place = f"{where}.{key}".lstrip(".")
        if not isinstance(holder, dict):
            raise UsageError(f"{self.path}: {where or 'the file'}: expected an object")
        value = holder.get(key, default)
        if not isinstance(value, kind):
            found = "nothing" if value is None else type(value).__name__
            raise UsageError(f"{self.path}: {place}: expected {_WORDS[kind]}, found {found}")
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            raise UsageError(f"{self.path}: {place}: {len(value)} characters, at most {_MAX_TEXT}")
        return value

    def table(self, table: Any, where: str) -> tuple[list[dict[str, Any]], list[str]]:
        name = self.typed(table, "dataset", str, where)
        metrics = self.typed(table, "metrics", list, where)
        facts = [
            (
                self.typed(m, "task", str, f"{where}.metrics[{i}]"),
                self.typed(m, "name", str, f"{where}.metrics[{i}]"),
                self.typed(m, "higher_is_better", bool, f"{where}.metrics[{i}]"),
            )
            for i, m in enumerate(metrics)
        ]
        shared = {
            "source": self.typed(table, "source", str, where),
            "url": self.typed(table, "url", str, where, default=""),
            "dataset": self.datasets.get(name, name),
            "note": self.typed(table, "note", str, where, default=""),
            "sha256": self.sha256,
        }
        named = self.typed(table, "rows", dict, where)
        lines = {method: self._line(values, len(facts), f"{where}.rows.{method}") for method, values in named.items()}
        reference = self._reference(table, lines, where)
        rows = [
            {**shared, "method": method, "task": task, "metric": metric, "direction": "max" if up else "min",
             "value": value, "recomputed": False, "reference": method == reference}
            for method, values in lines.items()
            for (task, metric, up), value in zip(facts, values, strict=True)
            if value is not None
        ]  # fmt: skip
        deltas, doubts = self._deltas(table, lines, [up for *_, up in facts], reference, where)
        rows += [
            {**shared, "method": method, "task": "*", "metric": "delta_m_pct", "direction": "min", "value": value,
             "recomputed": recomputed, "reference": method == reference}
            for method, (value, recomputed) in deltas.items()
        ]  # fmt: skip
        return rows, doubts

    def _line(self, values: Any, expected: int, where: str) -> list[float | None]:
        if not isinstance(values, list) or len(values) != expected:
            found = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
            raise UsageError(f"{self.path}: {where}: expected {expected} values, one per metric, found {found}")
        for value in values:
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UsageError(f"{self.path}: {where}: expected numbers or null, found {value!r}")
        return [None if value is None else float(value) for value in values]

    def _reference(self, table: Any, lines: Mapping[str, Any], where: str) -> str | None:
        if table.get("baseline_row") is None:
            return None
        reference: str = self.typed(table, "baseline_row", str, where)
        if reference not in lines:
            raise UsageError(f"{self.path}: {where}.baseline_row: no row is called `{reference}`")
        return reference

    def _deltas(
        self, table: Any, lines: Mapping[str, list[float | None]], higher: list[bool], reference: str | None, where: str
    ) -> tuple[dict[str, tuple[float, bool]], list[str]]:
        """method -> (delta_m, whether we worked it out); and where a published one is not what its row says."""
        stated = self.typed(table, "published_delta_m", dict, where, default={})
        found: dict[str, tuple[float, bool]] = {}
        doubts = []
        for method, values in lines.items():
            computed = delta_m(values, lines[reference], higher) if reference is not None else None
            (given,) = self._line([stated.get(method)], 1, f"{where}.published_delta_m.{method}")
            if given is not None:
                found[method] = (given, False)
                if computed is not None and abs(computed - given) > DELTA_TOLERANCE:
                    doubts.append(
                        f"{self.datasets.get(table['dataset'], table['dataset'])}, {method}: published delta_m"
                        f" {given:g}, its row gives {computed:.3f}"
                    )
            elif computed is not None:
                found[method] = (computed, True)
        return found, doubts


_WORDS = {list: "a list", dict: "an object", str: "text", bool: "true or false"}
