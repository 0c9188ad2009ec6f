"""Census-Income (KDD): two questions about a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.columns import categories, joined, numbers, read_csv, standard, text
from mtlfleet.datasets.prepared import Pack, Prepared, carve
from mtlfleet.errors import EnvironmentProblem

COLUMNS, MARITAL, WEIGHT = 42, 7, 24
NUMBERS = (0, 5, 16, 17, 18, 30, 39)  # age, wage, gains, losses, dividends, employer's size, weeks worked
CATEGORIES = tuple(k for k in range(COLUMNS - 1) if k not in (*NUMBERS, MARITAL, WEIGHT))


@dataset("census")
@dataclass(frozen=True, kw_only=True)
class Census(Prepared):
    """Does a person earn more than 50,000 dollars, and was the person never married? 199,523 and 99,762 people.

    The folder holds ``census-income.data`` and ``census-income.test`` as UCI has them: 41 attributes and the label,
    separated by commas. Marital status is a task and no input, the instance weight is neither. A fifth of the training
    rows becomes validation. For backbone tabular: ``categories: 32``.

    Shapes      inputs float32 ``[n, 32 + 7]``, a category that training never saw is 0; targets float32 ``[n]``.
    Source      Lane & Kohavi, Census-Income (KDD), UCI 2000; as a two-task problem in Ma et al., MMoE, KDD 2018.
    Departures  MMoE's authors validate on half of the test file; here test stays whole.

    Parameters
    ----------
    root:       the folder.
    val_share:  of the training rows that become validation.
    data_seed:  of that choice.
    """

    root: str
    val_share: float = 0.2
    data_seed: int = 0

    def _table(self, part: str) -> Any:
        return read_csv(Path(self.root) / f"census-income.{part}", header=False)

    def findings(self) -> Iterator[str]:
        for part in ("data", "test"):
            try:
                table = self._table(part)
                if table.num_columns != COLUMNS:
                    yield f"census-income.{part}: {table.num_columns} columns, expected {COLUMNS}"
                    continue
                strange = {v.rstrip(".") for v in text(table, f"c{COLUMNS - 1}")} - {"- 50000", "50000+"}
                if strange:
                    yield f"census-income.{part}: label {min(strange)!r}, expected `- 50000.` or `50000+.`"
                for k in NUMBERS:
                    numbers(table, f"c{k}")
            except EnvironmentProblem as error:
                yield error.message

    def pack(self) -> Mapping[Split, Pack]:
        train, test = self._table("data"), self._table("test")
        rows = carve(train.num_rows, self.val_share, self.data_seed)

        def parts(read: Any, column: int) -> list[np.ndarray]:
            whole = read(train, f"c{column}")
            return [whole[rows[0]], whole[rows[1]], read(test, f"c{column}")]

        columns = [categories(*parts(text, k)) for k in CATEGORIES] + [standard(*parts(numbers, k)) for k in NUMBERS]
        income = [np.char.startswith(part, "50000+") for part in parts(text, COLUMNS - 1)]
        never = [part == "Never married" for part in parts(text, MARITAL)]
        return {
            split: Pack(inputs, {"income": a.astype(np.float32), "never_married": b.astype(np.float32)})
            for split, inputs, a, b in zip(Split, joined(columns), income, never, strict=True)
        }

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:  # noqa: ARG002
        return tuple(Task(n, 1, "binary", ("auc", "accuracy", "logloss"), 0.5) for n in ("income", "never_married"))
