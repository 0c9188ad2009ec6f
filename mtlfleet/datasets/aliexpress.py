"""AliExpress: will a shown product be clicked, and bought?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.columns import categories, joined, numbers, read_csv, standard, text
from mtlfleet.datasets.prepared import Pack, Prepared, carve_groups
from mtlfleet.errors import EnvironmentProblem

CATEGORIES = 16


@dataset("aliexpress")
@dataclass(frozen=True, kw_only=True)
class AliExpress(Prepared):
    """Click and conversion of shown products, of one country's search log.

    The folder holds ``train.csv`` and ``test.csv`` as MTReclib has them: a header; a first column that is no feature
    (here it groups what was shown together); sixteen categories; numbers; click and conversion. Searches of a tenth
    of the training rows become validation. For backbone tabular: ``categories: 16``.

    Shapes      inputs float32 ``[n, 16 + numbers]``, a category that training never saw is 0; targets float32 ``[n]``.
    Source      Li et al., Improving Multi-Scenario Learning to Rank in E-commerce, CIKM 2020; columns as in MTReclib.
    Departures  MTReclib stops early on the test AUC and counts categories over train only, so that new ones fail;
                numbers are standardised by the training rows.

    Parameters
    ----------
    root:       the folder.
    val_share:  of the training rows that become validation, whole searches.
    data_seed:  of that choice.
    """

    root: str
    val_share: float = 0.1
    data_seed: int = 0

    def _tables(self) -> dict[str, Any]:
        return {part: read_csv(Path(self.root) / f"{part}.csv", header=True) for part in ("train", "test")}

    def findings(self) -> Iterator[str]:
        widths = {}
        for part in ("train", "test"):
            try:
                table = read_csv(Path(self.root) / f"{part}.csv", header=True)
                widths[part] = table.num_columns
                if table.num_columns < CATEGORIES + 4:
                    yield f"{part}.csv: {table.num_columns} columns, expected at least {CATEGORIES + 4}"
                    continue
                for column in table.column_names[-2:]:
                    strange = set(text(table, column)) - {"0", "1", "0.0", "1.0"}
                    if strange:
                        yield f"{part}.csv: label {column} holds {min(strange)!r}, expected 0 or 1"
                for column in table.column_names[1 + CATEGORIES : -2]:
                    numbers(table, column)
            except EnvironmentProblem as error:
                yield error.message
        if len(set(widths.values())) > 1:
            yield f"train.csv has {widths['train']} columns, test.csv {widths['test']}"

    def pack(self) -> Mapping[Split, Pack]:
        tables = self._tables()
        names = tables["train"].column_names
        rows = carve_groups(text(tables["train"], names[0]), self.val_share, self.data_seed)

        def parts(read: Any, column: int) -> list[np.ndarray]:
            whole = read(tables["train"], names[column])
            return [whole[rows[0]], whole[rows[1]], read(tables["test"], tables["test"].column_names[column])]

        columns = [categories(*parts(text, k)) for k in range(1, 1 + CATEGORIES)]
        columns += [standard(*parts(numbers, k)) for k in range(1 + CATEGORIES, len(names) - 2)]
        labels = {task: parts(numbers, len(names) + k) for task, k in (("click", -2), ("conversion", -1))}
        return {
            split: Pack(inputs, {task: y[place].astype(np.float32) for task, y in labels.items()})
            for place, (split, inputs) in enumerate(zip(Split, joined(columns), strict=True))
        }

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:  # noqa: ARG002
        return tuple(Task(name, 1, "binary", ("auc", "logloss"), 0.5) for name in ("click", "conversion"))
