"""The solvers against their optimality conditions and against solvers of others, on Grams of many shapes."""

from __future__ import annotations

import clarabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize, nnls

from mtlfleet.linalg.barrier import LARGEST, bargain
from mtlfleet.linalg.cone import project_rows
from mtlfleet.linalg.fairness import fair_weights
from mtlfleet.linalg.gram import clip, factor, is_stationary, length, norms, unit
from mtlfleet.linalg.maximin import worst_case_weights
from mtlfleet.linalg.min_norm import frank_wolfe, min_norm_point
from mtlfleet.linalg.nnls import _active_set, nonnegative_least_squares
from mtlfleet.linalg.simplex import towards_mean
from mtlfleet.linalg.spectrum import align, equal_projections
from mtlfleet.linalg.surgery import remove_conflicts

SMALL = 1e-9
MANY = settings(max_examples=60, deadline=None)


@st.composite
def jacobians(draw: st.DrawFn, *, low: int = 1, high: int = 40, full_rank: bool = False) -> np.ndarray:
    """K up to 40 rows, norm ratios up to 1e4, parallel to opposed to orthogonal; any rank unless ``full_rank``."""
    tasks = draw(st.integers(low, high))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = 3 * tasks + 5 if full_rank else draw(st.sampled_from([1, 2, tasks, 3 * tasks]))
    rows = rng.normal(size=(tasks, width)) + draw(st.sampled_from([0.0, 0.5, 3.0])) * rng.normal(size=width)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    size = 10.0 ** draw(st.sampled_from([-10, 0, 10]))
    return rows * size * 10 ** rng.uniform(0, spread, size=(tasks, 1))


@MANY
@given(jacobians())
def test_a_factor_has_the_grams_inner_products(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    found = factor(gram)
    np.testing.assert_allclose(found @ found.T, gram, rtol=0, atol=1e-12 * np.trace(gram))


@MANY
@given(jacobians())
def test_the_shortest_point_satisfies_its_conditions(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    weights = min_norm_point(gram)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    v, size = weights * norms(gram), norms(gram)
    slope = unit(gram, size) @ v  # product of the point with each unit gradient
    excess = slope - (weights @ gram @ weights) / size
    assert excess.min() >= -SMALL * v.max()
    assert np.abs(excess[weights > 0]).max() <= SMALL * v.max()


@settings(max_examples=25, deadline=None)
@given(jacobians(low=2, high=8, full_rank=True))
def test_the_shortest_point_is_clarabels(rows: np.ndarray) -> None:
    rows = rows / np.linalg.norm(rows, axis=1).min()
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True) / 30, 1)  # within the referee's own accuracy
    gram, tasks = rows @ rows.T, len(rows)
    settings_ = clarabel.DefaultSettings()
    settings_.verbose = False
    settings_.tol_gap_abs = settings_.tol_gap_rel = settings_.tol_feas = 1e-12
    constraints = sparse.csc_matrix(np.vstack([np.ones((1, tasks)), -np.eye(tasks)]))
    bounds = np.concatenate([[1.0], np.zeros(tasks)])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(tasks)]
    quadratic = sparse.csc_matrix(np.triu(2 * gram))
    referee = clarabel.DefaultSolver(quadratic, np.zeros(tasks), constraints, bounds, cones, settings_).solve()
    ours = min_norm_point(gram)
    assert ours @ gram @ ours <= np.array(referee.x) @ gram @ np.array(referee.x) * (1 + 1e-9)
    np.testing.assert_allclose(ours, referee.x, atol=1e-5)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-0.999, 0.999))
def test_two_tasks_have_a_closed_form(first: float, second: float, cosine: float) -> None:
    cross = cosine * first * second
    gram = np.array([[first**2, cross], [cross, second**2]])
    share = np.clip((second**2 - cross) / (first**2 + second**2 - 2 * cross), 0, 1)
    np.testing.assert_allclose(min_norm_point(gram), [share, 1 - share], atol=1e-10)


def test_a_zero_row_is_the_shortest_point() -> None:
    assert min_norm_point(np.diag([1.0, 0.0, 2.0])).tolist() == [0, 1, 0]
    assert min_norm_point(np.zeros((2, 2))).sum() == 1


@MANY
@given(jacobians(full_rank=True, high=10))
def test_frank_wolfe_comes_near(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    found, best = frank_wolfe(gram, tolerance=0, iterations=3000), min_norm_point(gram)
    assert found.sum() == pytest.approx(1)
    assert (
        length(best, gram) <= length(found, gram) * (1 + 1e-12) <= 1.05 * length(best, gram) + 1e-3 * norms(gram).min()
    )


@settings(max_examples=40, deadline=None)
@given(jacobians())
def test_projections_on_the_dual_cone_satisfy_their_conditions(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    size = norms(gram)
    found = project_rows(gram)
    added = (found - np.eye(len(gram))) * size[None, :] / size[:, None]
    products = (added + np.eye(len(gram))) @ unit(gram, size)
    scale = 1 + np.abs(added).sum(axis=1, keepdims=True)
    assert added.min() >= 0
    assert (products / scale).min() >= -SMALL
    assert np.abs(added * products / scale**2).max() <= SMALL


@settings(max_examples=40, deadline=None)
@given(jacobians(low=2), st.sampled_from([0.05, 0.4, 0.9, 5.0]))
def test_worst_case_weights_satisfy_their_conditions(rows: np.ndarray, radius: float) -> None:
    gram = rows @ rows.T
    if is_stationary(np.ones(len(gram)), gram):
        return
    weights = worst_case_weights(gram, radius)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    mean, size = length(np.full(len(gram), 1 / len(gram)), gram), norms(gram)
    if is_stationary(weights, gram):
        # zero is the worst case's value: no combination of the vertices may do with less
        corners = gram.mean(axis=1) / mean / size + radius
        assert corners.min() >= -1e-5
        return
    slope = gram.mean(axis=1) / mean / size + radius * (gram @ weights) / size / length(weights, gram)
    level = weights @ (slope * size)
    excess = slope - level / size  # of the objective, per unit gradient
    assert excess.min() >= -SMALL
    assert np.abs(excess[weights > 0]).max() <= SMALL


@settings(max_examples=20, deadline=None)
@given(jacobians(low=2, high=6, full_rank=True), st.sampled_from([0.2, 0.5, 0.9]))
def test_worst_case_weights_are_no_worse_than_slsqp(rows: np.ndarray, radius: float) -> None:
    gram, tasks = rows @ rows.T / np.max(rows @ rows.T), len(rows)
    mean = length(np.full(tasks, 1 / tasks), gram)

    def objective(w: np.ndarray) -> float:
        return float(w @ gram.mean(axis=1) + radius * mean * length(w, gram))

    start = np.full(tasks, 1 / tasks)
    sums = {"type": "eq", "fun": lambda w: w.sum() - 1}
    theirs = minimize(objective, start, method="SLSQP", bounds=[(0, 1)] * tasks, constraints=[sums], tol=1e-12)
    assert objective(worst_case_weights(gram, radius)) <= theirs.fun + 1e-9


def test_a_zero_gradient_takes_the_worst_case_only_if_the_others_do_better() -> None:
    agreeing = np.array([[0.0, 0.0], [1.0, 0.2], [1.0, -0.2]])
    assert worst_case_weights(agreeing @ agreeing.T, 0.5).tolist() == [1, 0, 0]
    opposed = np.array([[0.0, 0.0], [3.0, 0.0], [-1.0, 0.1]])
    found = worst_case_weights(opposed @ opposed.T, 0.3)
    assert found[0] == 0
    assert found[2] > 0.9


@MANY
@given(jacobians(full_rank=True))
def test_a_bargain_satisfies_its_equation(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    cosines = unit(gram, norms(gram))
    b, solved = bargain(cosines)
    assert solved
    assert b.min() > 0
    assert np.abs(b * (cosines @ b) - 1).max() <= SMALL


@given(st.floats(-0.99999, 1.0))
def test_a_bargain_of_two_has_a_closed_form(cosine: float) -> None:
    b, solved = bargain(np.array([[1.0, cosine], [cosine, 1.0]]))
    assert solved
    np.testing.assert_allclose(b, 1 / np.sqrt(1 + cosine), rtol=1e-9)


@pytest.mark.parametrize("cosine", [-1.0, -1.0 + 1e-15])
def test_no_bargain_is_cut_and_said(cosine: float) -> None:
    b, solved = bargain(np.array([[1.0, cosine], [cosine, 1.0]]))
    assert not solved
    assert np.linalg.norm(b) == pytest.approx(LARGEST)


@MANY
@given(jacobians(full_rank=True))
def test_equal_projections_are_equal(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    v, independent = equal_projections(gram)
    assert independent
    np.testing.assert_allclose(gram @ v / norms(gram), 1, atol=SMALL)


@MANY
@given(jacobians(high=12, full_rank=True))
def test_equal_projections_of_repeated_gradients(rows: np.ndarray) -> None:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.vstack([rows, 2 * rows[:1]])
    v, independent = equal_projections(rows @ rows.T)
    assert not independent
    np.testing.assert_allclose(rows @ rows.T @ v / np.linalg.norm(rows, axis=1), 1, atol=1e-7)


@MANY
@given(jacobians(high=12), st.sampled_from(["min", "median", "rmse"]))
def test_aligned_rows_have_equal_singular_values(rows: np.ndarray, mode: str) -> None:
    balance, rank = align(rows @ rows.T, mode, 1e-9)
    values = np.linalg.svd(balance @ rows, compute_uv=False)
    own = np.linalg.svd(rows, compute_uv=False)[:rank] ** 2
    expected = {"min": own[-1], "median": own[rank // 2], "rmse": own.mean()}[mode]
    np.testing.assert_allclose(values[:rank], np.sqrt(expected), rtol=1e-5)
    assert (values[rank:] <= 1e-3 * values[0]).all()


def test_no_rows_to_align() -> None:
    balance, rank = align(np.zeros((2, 2)), "min", 1e-7)
    assert rank == 0
    assert balance.tolist() == np.eye(2).tolist()


@MANY
@given(jacobians(high=8), st.integers(0, 1000))
def test_surgery_on_the_gram_is_surgery_on_the_gradients(rows: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = len(rows)
    order = np.stack([rng.permutation(tasks) for _ in range(tasks)])
    expected = rows.copy()
    for i in range(tasks):
        for j in order[i]:
            product = expected[i] @ rows[j]
            if product < 0:
                expected[i] -= product / (rows[j] @ rows[j]) * rows[j]
    found = remove_conflicts(rows @ rows.T, order) @ rows
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(rows).max())


@MANY
@given(jacobians(low=2), st.floats(0.01, 100))
def test_a_clipped_update_is_short_enough(rows: np.ndarray, limit: float) -> None:
    gram = rows @ rows.T
    weights = np.ones(len(gram))
    before, after = length(weights, gram), length(clip(weights, gram, limit), gram)
    assert after <= limit * (1 + 1e-9)
    if before <= limit:
        assert after == before
    assert clip(weights, gram, None) is weights


def test_dependent_columns_do_not_stall_least_squares() -> None:
    rng = np.random.default_rng(3)
    for tasks in (5, 20, 40):
        columns = np.repeat(rng.normal(size=(6, tasks // 5)), 5, axis=1)
        target = rng.normal(size=6)
        found = nonnegative_least_squares(columns, target)
        slope = columns.T @ (columns @ found - target)
        assert found.min() >= 0
        assert slope.min() >= -1e-9
        assert abs(found @ slope) <= 1e-9


@MANY
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_slower_least_squares_agrees_with_scipys(equations: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(equations, columns)), rng.normal(size=equations)
    ours, theirs = _active_set(matrix, target), nnls(matrix, target)[0]
    assert ours.min() >= 0
    np.testing.assert_allclose(matrix @ ours, matrix @ theirs, atol=1e-9)


@MANY
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_orthogonal_up_to_rounding_is_no_conflict(tasks: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.normal(size=(tasks + 2, tasks)))[0].T * 10 ** rng.uniform(0, spread, size=(tasks, 1))
    np.testing.assert_allclose(project_rows(rows @ rows.T), np.eye(tasks), atol=1e-8)
    system = factor(unit(rows @ rows.T, np.linalg.norm(rows, axis=1))).T
    for column in system.T:
        np.testing.assert_allclose(nonnegative_least_squares(system, -column), 0, atol=1e-12)


@pytest.mark.parametrize(("tasks", "alpha"), [(8, 5.0), (40, 2.0), (40, 5.0), (3, 0.5), (100, 1.0)])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_fair_shares_of_nearly_opposed_gradients_are_found_to_rounding(tasks: int, alpha: float, spread: float) -> None:
    """A line search on differences of the objective used to come to rest at 1e-8 here."""
    rows = np.random.default_rng(1).standard_normal((tasks, 3 * tasks + 5))
    rows[1] = 1e-3 * rows[1] - rows[0]
    rows *= 10.0 ** np.linspace(0, spread, tasks)[:, None]
    gram = rows @ rows.T
    weights, found = fair_weights(gram, alpha)
    wanted = weights ** (-1 / alpha)
    assert found
    assert np.max(np.abs(gram @ weights - wanted) / (np.abs(gram) @ weights + wanted)) <= 1e-13


@MANY
@given(jacobians(low=2), st.floats(0, 3))
def test_towards_the_mean_is_the_best_of_all_shares(rows: np.ndarray, strength: float) -> None:
    """No vertex of the simplex lies downhill: the condition of the convex problem, for products of one batch."""
    gram = rows @ rows.T
    found = towards_mean(gram, strength)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    slope = gram @ (found + strength / len(found))
    terms = np.abs(gram).max() * (1 + strength)
    assert slope.min() >= found @ slope - SMALL * terms


def test_products_of_two_batches_need_be_no_gram() -> None:
    rng = np.random.default_rng(0)
    products = rng.standard_normal((5, 9)) @ rng.standard_normal((9, 5))
    found = towards_mean(products, 0.3)
    whole = (products + products.T) / 2
    lowest = np.linalg.eigvalsh(whole)[0]
    assert lowest < 0
    raised = whole - lowest * np.eye(5)
    slope = raised @ (found + 0.3 / 5)
    assert slope.min() >= found @ slope - 1e-9
    assert (found >= 0).all()
    np.testing.assert_allclose(towards_mean(products + 1e-9 * rng.standard_normal((5, 5)), 0.3), found, atol=1e-6)
