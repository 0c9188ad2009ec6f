"""QM9: eleven properties of small molecules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.prepared import Pack, Prepared
from mtlfleet.datasets.splits import draws
from mtlfleet.errors import EnvironmentProblem

COLUMNS = {"mu": 0, "alpha": 1, "homo": 2, "lumo": 3, "r2": 5, "zpve": 6, "u0": 12, "u": 13, "h": 14, "g": 15, "cv": 11}
FEATURES, LABELS = 11, 19
ARRAYS = ("x", "pos", "edge_index", "edge_attr", "node_ptr", "edge_ptr", "y")


class Molecules(NamedTuple):
    """m molecules one after the other; molecule i has nodes node_ptr[i]:node_ptr[i + 1]; edges count from its first."""

    x: np.ndarray  # [N, 11]
    pos: np.ndarray  # [N, 3]
    edge_index: np.ndarray  # [2, E]
    edge_attr: np.ndarray  # [E, 4]
    node_ptr: np.ndarray  # [m + 1]
    edge_ptr: np.ndarray  # [m + 1]
    y: np.ndarray  # [m, 19]


def read_pyg(path: Path) -> Molecules:
    """PyTorch Geometric's ``raw/qm9_v3.pt``: a list of dicts of tensors, read with ``weights_only``."""
    import torch

    try:
        rows = torch.load(path, weights_only=True, map_location="cpu")
        parts = {name: [row[name].numpy() for row in rows] for name in ("x", "pos", "edge_index", "edge_attr", "y")}
    except Exception as error:  # an unpickler's errors are of every kind
        raise EnvironmentProblem(f"{path} is no list of molecules: {type(error).__name__}") from None
    return Molecules(
        np.concatenate(parts["x"]), np.concatenate(parts["pos"]), np.concatenate(parts["edge_index"], 1),
        np.concatenate(parts["edge_attr"]), np.cumsum([0, *map(len, parts["x"])]),
        np.cumsum([0, *(e.shape[1] for e in parts["edge_index"])]), np.concatenate(parts["y"]),
    )  # fmt: skip


def read_npz(path: Path) -> Molecules:
    """The neutral form: one array per field of ``Molecules``."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return Molecules(*(found[name] for name in ARRAYS))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise EnvironmentProblem(f"{path} does not hold {', '.join(ARRAYS)}: {error}") from None


@dataset("qm9")
@dataclass(frozen=True, kw_only=True)
class QM9(Prepared):
    """Eleven quantum-chemical properties of molecules of up to nine heavy atoms; 130,831 molecules.

    The folder holds ``raw/qm9_v3.pt`` as PyTorch Geometric downloads it, or ``qm9.npz`` with the arrays x ``[N,
    11]``, pos ``[N, 3]``, edge_index ``[2, E]`` (counted from a molecule's first atom), edge_attr ``[E, 4]``,
    node_ptr and edge_ptr ``[m + 1]``, y ``[m, 19]``. 10,000 molecules each are set aside for validation and test (a
    twelfth of a smaller file).

    Shapes      inputs float32 ``[n, A, 14 + A]`` as backbone gnn reads them, A the largest molecule; targets ``[n]``.
    Source      Ramakrishnan et al., Quantum chemistry structures and properties of 134 kilo molecules, Scientific Data
                2014; the eleven targets of Navon et al., Nash-MTL, ICML 2022.
    Departures  Targets are in units of the training split's standard deviation, so an mae of 1 is one of those; the
                source takes the mean and deviation of all molecules. The split does not change with the seed, as it
                does there.

    Parameters
    ----------
    root:       the folder.
    tasks:      which of mu, alpha, homo, lumo, r2, zpve, u0, u, h, g and cv; none is all.
    data_seed:  of the split.
    """

    root: str
    tasks: tuple[str, ...] = ()
    data_seed: int = 0

    free = ("tasks",)

    def _read(self) -> Molecules:
        pyg, npz = Path(self.root) / "raw" / "qm9_v3.pt", Path(self.root) / "qm9.npz"
        if pyg.is_file():
            return read_pyg(pyg)
        if npz.is_file():
            return read_npz(npz)
        raise EnvironmentProblem(f"{self.root} has neither raw/qm9_v3.pt nor qm9.npz")

    def findings(self) -> Iterator[str]:
        try:
            given = self._read()
        except EnvironmentProblem as error:
            yield error.message
            return
        wants = {"x": (FEATURES,), "pos": (3,), "edge_attr": (4,), "y": (LABELS,)}
        for name, tail in wants.items():
            if (shape := getattr(given, name).shape[1:]) != tail:
                yield f"{name}: rows of {list(shape)}, expected {list(tail)}"
        if len(given.y) != len(given.node_ptr) - 1 or given.node_ptr[-1] != len(given.x):
            yield f"node_ptr: {len(given.node_ptr) - 1} molecules, {given.node_ptr[-1]} atoms; y has {len(given.y)}"
        if len(given.y) < 12:
            yield f"{len(given.y)} molecules: too few to split"

    def pack(self) -> Mapping[Split, Pack]:
        given = self._read()
        count, size = len(given.y), int(np.diff(given.node_ptr).max())
        aside = min(10_000, count // 12)
        order = draws(self.data_seed, "split").permutation(count)
        rows = dict(zip(Split, np.split(order, [count - 2 * aside, count - aside]), strict=True))
        known = given.y[rows[Split.TRAIN]].astype(np.float64)
        mean, spread = known.mean(0), known.std(0)
        spread[spread < 1e-12] = 1.0  # a target that never varies
        packs = {}
        for split, chosen in rows.items():
            inputs = np.stack([molecule(given, int(i), size) for i in np.sort(chosen)])
            scaled = ((given.y[np.sort(chosen)] - mean) / spread).astype(np.float32)
            packs[split] = Pack(inputs, {name: scaled[:, column] for name, column in COLUMNS.items()})
        return packs

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:  # noqa: ARG002
        strange = [name for name in self.tasks if name not in COLUMNS]
        if strange:
            raise ValueError(f"qm9: no target is called {strange[0]}; known: {', '.join(COLUMNS)}")
        return tuple(Task(n, 1, "regression", ("mae", "rmse"), 0.8) for n in self.tasks or tuple(COLUMNS))


def molecule(given: Molecules, i: int, size: int) -> np.ndarray:
    """float32 [size, 14 + size]: atom features, coordinates, and the kind of the bond to each atom, 0 for none."""
    nodes, edges = (slice(ptr[i], ptr[i + 1]) for ptr in (given.node_ptr, given.edge_ptr))
    count = nodes.stop - nodes.start
    found = np.zeros((size, FEATURES + 3 + size), np.float32)
    found[:count, :FEATURES] = given.x[nodes]
    found[:count, FEATURES : FEATURES + 3] = given.pos[nodes]
    ends, kinds = given.edge_index[:, edges], given.edge_attr[edges].argmax(1) + 1
    found[ends[0], FEATURES + 3 + ends[1]] = kinds
    return found
