"""SARCOS: inverse dynamics of a robot arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.prepared import Pack, Prepared, carve_groups
from mtlfleet.errors import EnvironmentProblem

FILES = {"train": ("sarcos_inv.mat", "sarcos_inv"), "test": ("sarcos_inv_test.mat", "sarcos_inv_test")}
INPUTS, TORQUES, BLOCK = 21, 7, 100


@dataset("sarcos")
@dataclass(frozen=True, kw_only=True)
class Sarcos(Prepared):
    """Seven torques of an arm from its seven positions, velocities and accelerations; 44,484 and 4,449 moments.

    The folder holds ``sarcos_inv.mat`` and ``sarcos_inv_test.mat`` as published, each with a matrix of 28 columns.
    Neighbouring rows are neighbouring moments: validation takes whole blocks of 100.

    Math        inputs and torques standardised with the mean and standard deviation of the training rows only.
    Shapes      inputs float32 ``[n, 21]``; targets float32 ``[n]`` for ``torque_1`` ... ``torque_7``.
    Source      Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006; as a multi-task problem in Hu et
                al., Revisiting Scalarization in Multi-Task Learning, NeurIPS 2023.

    Parameters
    ----------
    root:       the folder.
    val_share:  of the training rows that become validation.
    data_seed:  of that choice.
    """

    root: str
    val_share: float = 0.2
    data_seed: int = 0

    def _matrix(self, part: str) -> np.ndarray:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        name, key = FILES[part]
        path = Path(self.root) / name
        try:
            found: np.ndarray = np.asarray(loadmat(path)[key], np.float64)
        except FileNotFoundError:
            raise EnvironmentProblem(f"{path}: missing") from None
        except (MatReadError, ValueError, KeyError, TypeError, OSError, EOFError, NotImplementedError) as error:
            raise EnvironmentProblem(f"{path}: no matrix {key} in it, or cut short: {error}") from None
        return found

    def findings(self) -> Iterator[str]:
        for part, (name, _) in FILES.items():
            try:
                found = self._matrix(part)
            except EnvironmentProblem as error:
                yield error.message
                continue
            if found.ndim != 2 or found.shape[1] != INPUTS + TORQUES:
                yield f"{Path(self.root) / name}: shape {list(found.shape)}, expected [n, {INPUTS + TORQUES}]"
            elif not np.isfinite(found).all():
                yield f"{Path(self.root) / name}: numbers that are not finite"

    def pack(self) -> Mapping[Split, Pack]:
        whole = self._matrix("train")
        train, val = carve_groups(np.arange(len(whole)) // BLOCK, self.val_share, self.data_seed)
        mean, spread = whole[train].mean(0), whole[train].std(0)
        spread[spread == 0] = 1.0
        parts = {Split.TRAIN: whole[train], Split.VAL: whole[val], Split.TEST: self._matrix("test")}
        packs = {}
        for split, rows in parts.items():
            scaled = ((rows - mean) / spread).astype(np.float32)
            packs[split] = Pack(scaled[:, :INPUTS], {f"torque_{k + 1}": scaled[:, INPUTS + k] for k in range(TORQUES)})
        return packs

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:  # noqa: ARG002
        return tuple(Task(f"torque_{k + 1}", 1, "regression", ("rmse", "mse", "r2"), 1.0) for k in range(TORQUES))
