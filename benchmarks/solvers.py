"""CPU milliseconds and residuals of the K x K solvers, beside the reference implementations that are installed.

    python benchmarks/solvers.py [--tasks 3,8,40,100] [--repeats 5]

Inputs are deterministic: gradients of five kinds, each from two seeds. Milliseconds are CPU time of this process: the
median over inputs, and the median of the slowest input. A residual is how far the answer is from the solver's own
optimality conditions or equations, as a part of the terms that are added up; the worst over all inputs is printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from mtlfleet.linalg.barrier import bargain
from mtlfleet.linalg.cone import project_rows, project_sum
from mtlfleet.linalg.fairness import fair_weights
from mtlfleet.linalg.gram import norms, unit
from mtlfleet.linalg.maximin import worst_case_weights
from mtlfleet.linalg.min_norm import frank_wolfe, min_norm_point
from mtlfleet.linalg.simplex import nearest_shares, towards_mean
from mtlfleet.linalg.spectrum import align, equal_projections, preferred_direction
from mtlfleet.linalg.surgery import raise_cosines, remove_conflicts

Array = NDArray[np.float64]
KINDS = ("plain", "agreeing", "norms 1 to 1e4", "nearly opposed", "nearly opposed, norms 1 to 1e4")
SLOW = 2.0  # seconds of one call, after which it is not repeated


def gradients(kind: str, tasks: int, seed: int) -> Array:
    """[K, 3K + 5]; nearly opposed: the second is the first turned round, but for a thousandth."""
    random = np.random.default_rng([tasks, seed])
    rows = random.standard_normal((tasks, 3 * tasks + 5))
    if kind == "agreeing":
        rows = rows + 3.0 * random.standard_normal(rows.shape[1])
    if kind.startswith("nearly opposed"):
        rows[1] = 1e-3 * rows[1] - rows[0]
    if "norms" in kind:
        rows = rows * 10.0 ** np.linspace(0, 4, tasks)[:, None]
    return rows


# Residuals: (Jacobian, answer) -> a number, 0 when exact.


def shortest(rows: Array, weights: Array) -> float:
    """Slopes on the support are equal, and no other is lower: of the shortest convex combination."""
    size = np.linalg.norm(rows, axis=1)
    update = weights @ rows
    slopes = rows @ update - update @ update
    scale = size * float(np.abs(weights) @ size) + update @ update
    return float(max((-slopes / scale).max(), np.abs(slopes / scale)[weights > 0].max()))


def harmless(rows: Array, weights: Array) -> float:
    """How far the update points against a row."""
    size = np.linalg.norm(rows, axis=1)
    return float((-(rows @ (weights @ rows)) / (size * (np.abs(weights) @ size))).max())


def worst_case(rows: Array, weights: Array, radius: float = 0.4) -> float:
    """The tasks that carry the direction are the worst off, and equally so."""
    mean, toward = rows.mean(0), weights @ rows
    update = mean + radius * np.linalg.norm(mean) * toward / np.linalg.norm(toward)
    gains, size = rows @ update, np.linalg.norm(rows, axis=1)
    scale = np.linalg.norm(update)
    apart = (gains - gains.min()) / ((size + size[gains.argmin()]) * scale)
    carried = weights * size > 1e-7 * (weights @ size)
    return float(apart[carried].max())


def bargained(rows: Array, weights: Array) -> float:
    return fair(rows, weights, 1.0)


def fair(rows: Array, weights: Array, alpha: float = 2.0) -> float:
    gram, wanted = rows @ rows.T, weights ** (-1.0 / alpha)
    return float((np.abs(gram @ weights - wanted) / (np.abs(gram) @ weights + wanted)).max())


def impartial(rows: Array, weights: Array) -> float:
    """Projections on all unit rows are equal."""
    size = np.linalg.norm(rows, axis=1)
    found = rows @ (weights @ rows) / size
    return float(np.ptp(found) / (np.abs(weights) @ size))


def orthogonal(rows: Array, balance: Array) -> float:
    """Rows after balancing have equal singular values, where they have any (eigenvalues that are rounding go)."""
    values = np.linalg.svd(balance @ rows, compute_uv=False)
    values = values[values > 1e-3 * values[0]]
    return float(values[0] / values[-1] - 1.0)


@dataclass(frozen=True)
class Contest:
    """A solver of ours, what it is judged by, and the reference's weights if there is one."""

    name: str
    ours: Callable[[Array], Array]
    residual: Callable[[Array, Array], float] | None = None
    theirs: str = ""


def orders(tasks: int) -> NDArray[np.int64]:
    return np.array([[j for j in range(tasks) if j != i] for i in range(tasks)], dtype=np.int64).reshape(tasks, -1)


def contests(tasks: int) -> list[Contest]:
    mean = np.full(tasks, 1.0 / tasks)
    return [
        Contest("min_norm_point (mgda)", min_norm_point, shortest, "MGDAWeighting()"),
        Contest("frank_wolfe (mgda fw)", frank_wolfe, shortest),
        Contest("project_rows (upgrad)", lambda g: mean @ project_rows(g), harmless, "UPGradWeighting()"),
        Contest("project_sum (dualproj)", lambda g: project_sum(g, mean), harmless, "DualProjWeighting()"),
        Contest("worst_case_weights (cagrad)", lambda g: worst_case_weights(g, 0.4), worst_case, "CAGrad"),
        Contest(
            "bargain (nash_mtl)",
            lambda g: bargain(unit(g, norms(g)))[0] / norms(g),
            bargained,
            "FairGradWeighting(alpha=1.0)",
        ),
        Contest("fair_weights (fairgrad 2)", lambda g: fair_weights(g, 2.0)[0], fair, "FairGradWeighting(alpha=2.0)"),
        Contest("equal_projections (imtl_g)", lambda g: equal_projections(g)[0], impartial, "IMTLGWeighting()"),
        Contest("preferred_direction (config)", lambda g: preferred_direction(g, np.ones(tasks))[0], impartial),
        Contest("align (aligned_mtl)", lambda g: align(g, "min", 1e-15)[0], orthogonal, "AlignedMTLWeighting()"),
        Contest("remove_conflicts (pcgrad)", lambda g: remove_conflicts(g, orders(tasks)), None, "PCGradWeighting()"),
        Contest(
            "raise_cosines (gradvac)",
            lambda g: raise_cosines(g, orders(tasks), np.zeros_like(g))[0],
            None,
            "GradVacWeighting()",
        ),
        Contest("towards_mean (sdmgrad)", lambda g: towards_mean(g, 0.3)),
        Contest("nearest_shares (modo, moco)", lambda g: nearest_shares(mean - 0.1 * g @ mean)),
    ]


def reference(text: str) -> Callable[[Array], Array] | None:
    """TorchJD's weighting as a function of the Gram, or None where it, or a solver it wants, is not installed."""
    try:
        from torchjd import aggregation

        if text == "CAGrad":
            return _direction(aggregation.CAGradWeighting(c=0.4))
        name, _, arguments = text.removesuffix(")").partition("(")
        given = dict(part.split("=") for part in arguments.split(",") if part)
        weighting = getattr(aggregation, name)(**{key: float(value) for key, value in given.items()})
    except (ImportError, AttributeError):
        return None
    return lambda gram: weighting(torch.from_numpy(gram)).numpy()


def _direction(weighting: torch.nn.Module) -> Callable[[Array], Array]:
    """CAGrad's weights without the mean's part, as ours."""

    def found(gram: Array) -> Array:
        weights: Array = weighting(torch.from_numpy(gram)).numpy() - 1.0 / len(gram)
        return weights / weights.sum()

    return found


def measure(solve: Callable[[Array], Array], gram: Array, repeats: int) -> tuple[float, Array]:
    """Median CPU milliseconds, and the answer."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        answer = solve(gram)
        spent.append(time.process_time() - start)
        if spent[-1] > SLOW:
            break
    return 1e3 * float(np.median(spent)), answer


def row(contest: Contest, solve: Callable[[Array], Array], tasks: int, repeats: int, judged: bool) -> str:
    times, worst = [], 0.0
    for kind in KINDS:
        for seed in range(2):
            rows = gradients(kind, tasks, seed)
            spent, answer = measure(solve, rows @ rows.T, repeats)
            times.append(spent)
            if judged and contest.residual is not None:
                worst = max(worst, contest.residual(rows, answer))
    residual = f"{worst:.0e}" if judged and contest.residual is not None else ""
    return f"{np.median(times):.2f} | {max(times):.2f} | {residual}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="3,8,40,100")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| solver | K | ms | slowest input | residual | TorchJD ms | slowest input | residual |")
    print("|---|---|---|---|---|---|---|---|")
    for tasks in map(int, chosen.tasks.split(",")):
        for contest in contests(tasks):
            ours = row(contest, contest.ours, tasks, chosen.repeats, judged=True)
            solve = reference(contest.theirs) if contest.theirs else None
            judged = "AlignedMTL" not in contest.theirs  # it gives weights, ours the balanced rows
            theirs = row(contest, solve, tasks, chosen.repeats, judged) if solve is not None else " |  | "
            print(f"| {contest.name} | {tasks} | {ours} | {theirs} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {platform.machine()}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
