"""TorchJD as an independent implementation: same gradients in, same weights out, within its own tolerances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlfleet import methods
from mtlfleet.linalg.surgery import remove_conflicts

aggregation = pytest.importorskip("torchjd.aggregation")

seeds = st.integers(0, 2**31)
FEW = settings(max_examples=25, deadline=None)


def jacobian(tasks: int, seed: int, parameters: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, parameters, generator=generator, dtype=torch.float64)
    return rows + 0.3 * torch.randn(parameters, generator=generator, dtype=torch.float64)


@FEW
@given(seeds, st.integers(1, 12))
def test_imtl_g(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed)
    theirs = aggregation.IMTLGWeighting()(rows @ rows.T)
    torch.testing.assert_close(methods.weights("imtl_g", rows), theirs, rtol=1e-7, atol=1e-9)


@FEW
@given(seeds, st.integers(1, 12), st.sampled_from(["min", "median", "rmse"]))
def test_aligned_mtl(seed: int, tasks: int, mode: str) -> None:
    rows = jacobian(tasks, seed)
    theirs = aggregation.AlignedMTLWeighting(scale_mode=mode)(rows @ rows.T)
    ours = methods.weights("aligned_mtl@torchjd", rows, scale_mode=mode)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@FEW
@given(seeds, st.integers(2, 6))
def test_mgda_is_no_longer_than_frank_wolfe(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed)
    ours, theirs = methods.weights("mgda", rows), aggregation.MGDAWeighting()(rows @ rows.T)
    assert (ours @ rows).norm() <= (theirs @ rows).norm() * (1 + 1e-12)
    assert (theirs @ rows).norm() <= (ours @ rows).norm() * 1.05  # its stopping rule leaves a few percent
    torch.testing.assert_close(methods.weights("mgda", rows, solver="fw"), theirs, rtol=1e-6, atol=1e-8)


@FEW
@given(seeds, st.integers(1, 10))
def test_pcgrad_in_the_same_order(seed: int, tasks: int) -> None:
    rows = jacobian(tasks, seed) - 0.2 * jacobian(1, seed + 1)
    gram = rows @ rows.T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = aggregation.PCGradWeighting()(gram)
        torch.manual_seed(seed)
        orders = [torch.randperm(tasks).tolist() for _ in range(tasks)]
    others = [[j for j in order if j != i] for i, order in enumerate(orders)]
    order = torch.tensor(others, dtype=torch.int64).reshape(tasks, tasks - 1)
    ours = torch.from_numpy(remove_conflicts(gram.numpy(), order.numpy()).sum(axis=0))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    if tasks == 2:
        torch.testing.assert_close(methods.weights("pcgrad", rows), theirs, rtol=1e-9, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 10), st.sampled_from([1e-3, 1.0, 1e3]))
def test_upgrad_with_their_ridge_and_threshold(seed: int, tasks: int, size: float) -> None:
    pytest.importorskip("quadprog")
    rows = jacobian(tasks, seed) * size
    theirs = aggregation.UPGradWeighting()(rows @ rows.T)
    torch.testing.assert_close(methods.weights("upgrad@torchjd", rows), theirs, rtol=1e-6, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 8), st.sampled_from([0.2, 0.5, 0.9]))
def test_cagrad(seed: int, tasks: int, c: float) -> None:
    pytest.importorskip("cvxpy")
    rows = jacobian(tasks, seed)
    theirs = aggregation.CAGradWeighting(c=c)(rows @ rows.T)
    ours = methods.weights("cagrad", rows, c=c)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)  # what its conic solver's default tolerance leaves
    worst_off = (rows @ (ours @ rows)).min(), (rows @ (theirs @ rows)).min()
    assert worst_off[0] >= worst_off[1] * (1 - 1e-12)
