"""The numbers people will quote, against arithmetic done elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import duckdb
import numpy as np
import pytest
from scipy import stats

from mtlfleet.store import Ingester, Store, database
from mtlfleet.store.canned import canned

METRICS = (("accuracy", True), ("error", False))


def deltas(small: ModuleType, trial: str) -> tuple[float, float]:
    """(delta_m, delta_p) by numpy, from the definitions."""
    terms = np.empty((len(small.TASKS), len(METRICS)))
    for i, task in enumerate(small.TASKS):
        for j, (metric, higher) in enumerate(METRICS):
            reference = np.mean([small.measured(f"stl{seed}{task}", task, metric) for seed in range(2)])
            change = 100 * (small.measured(trial, task, metric) - reference) / reference
            terms[i, j] = -change if higher else change
    return float(terms.mean()), float(-terms.mean(axis=1).mean())


def test_delta_m_and_delta_p_follow_their_definitions(make_study: Callable[..., Path], small: ModuleType) -> None:
    found = Store(make_study()).rows("SELECT * FROM delta_m WHERE method <> 'stl'")
    assert len(found) == 4
    for row in found:
        assert (row["delta_m_pct"], row["delta_p_pct"]) == pytest.approx(deltas(small, row["trial_id"]), rel=1e-12)
        assert row["complete"] and row["n_terms"] == row["n_expected"] == 4  # the loss has no direction: no term


def test_single_task_runs_are_one_row_per_seed_and_average_to_nothing(make_study: Callable[..., Path]) -> None:
    found = Store(make_study()).rows("SELECT seed, trial_id, delta_m_pct, complete FROM delta_m WHERE method = 'stl'")
    assert sorted(r["seed"] for r in found) == [0, 1]
    assert sum(r["delta_m_pct"] for r in found) == pytest.approx(0.0, abs=1e-9)
    assert all(r["complete"] and r["trial_id"] is None for r in found)


def test_a_nan_is_kept_shown_and_never_ranked(make_study: Callable[..., Path]) -> None:
    store = Store(make_study(spoil={"ls0": ("b", "accuracy")}))
    raw = store.rows(
        "SELECT value FROM metrics WHERE trial_id = 'ls0' AND split = 'test' AND task = 'b' AND metric = 'accuracy'"
    )
    assert len(raw) == 1 and math.isnan(raw[0]["value"])
    final = store.rows("SELECT * FROM final_metrics WHERE trial_id = 'ls0' AND n_nonfinite > 0")
    assert [(r["task"], r["metric"], r["value"]) for r in final] == [("b", "accuracy", None)]
    by_seed = {r["seed"]: r for r in store.rows("SELECT * FROM delta_m WHERE method = 'ls'")}
    assert not by_seed[0]["complete"] and by_seed[0]["n_terms"] == 3 and by_seed[1]["complete"]
    board = store.rows("SELECT method, rank, complete FROM leaderboard WHERE task = '*' AND metric = 'delta_m_pct'")
    ranks = {r["method"]: r["rank"] for r in board}
    assert ranks["ls"] is None and sorted(ranks[m] for m in ("stl", "pcgrad")) == [1, 2]


def test_an_infinite_value_does_not_win(small: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "inf"
    rows = small.trial_rows(("ls",))
    small.write_documents(root, rows)
    small.write_trial(root, rows[0])
    from mtlfleet.store import AttemptWriter

    writer = AttemptWriter.claim(root, "s", "ls1", restored_step=0, restored_checkpoint=None, world_size=1)
    for task in small.TASKS:
        writer.metric(10, 1.0, "val", task, "accuracy", math.inf, 1, True)
    writer.close("done")
    best = Store(root).rows("SELECT trial_id FROM best_trial_per_method")
    assert best == [{"trial_id": "ls0"}]


def test_the_leaderboard_is_the_mean_over_done_seeds(make_study: Callable[..., Path], small: ModuleType) -> None:
    board = Store(make_study()).rows("SELECT * FROM leaderboard WHERE task = 'a' AND metric = 'accuracy'")
    for row in board:
        names = [f"{row['method']}{seed}{'a' if row['method'] == 'stl' else ''}" for seed in range(2)]
        values = np.array([small.measured(n, "a", "accuracy") for n in names])
        assert row["mean"] == pytest.approx(values.mean())
        assert row["ci95"] == pytest.approx(stats.t.ppf(0.975, 1) * values.std(ddof=1) / math.sqrt(2), rel=1e-6)
    assert sorted(r["rank"] for r in board) == sorted(stats.rankdata([-r["mean"] for r in board], "min"))


def test_unfinished_trials_hold_back_the_rank(make_study: Callable[..., Path]) -> None:
    store = Store(make_study(skip=("pcgrad1",)))
    board = store.rows(
        "SELECT method, n_seeds, n_trials, complete, rank FROM leaderboard WHERE task = 'b' AND metric = 'error'"
    )
    found = {r["method"]: r for r in board}
    assert (found["pcgrad"]["n_seeds"], found["pcgrad"]["n_trials"], found["pcgrad"]["rank"]) == (1, 2, None)
    progress = {r["method"]: r for r in store.rows("SELECT * FROM progress")}
    assert (progress["pcgrad"]["done"], progress["pcgrad"]["missing"], progress["stl"]["done"]) == (1, 1, 4)


@pytest.mark.parametrize("df", [1, 2, 5, 30, 31, 60, 1000])
def test_student_quantiles(make_study: Callable[..., Path], df: int) -> None:
    with Store(make_study()).session() as session:
        found = session.sql(f"SELECT t975({df}) AS t").to_pylist()[0]["t"]
    assert found == pytest.approx(stats.t.ppf(0.975, df), rel=2e-6)


def test_gradient_pairs_are_unfolded_in_order(make_study: Callable[..., Path]) -> None:
    found = Store(make_study()).rows(
        "SELECT task_i, task_j, cosine FROM task_gradient_pairs WHERE trial_id = 'ls0' ORDER BY task_i, task_j"
    )
    assert [tuple(r.values()) for r in found] == [("a", "b", 0.25), ("a", "c", -0.5), ("b", "c", 0.75)]


def test_budget_counts_what_was_given(make_study: Callable[..., Path]) -> None:
    found = {r["method"]: r for r in Store(make_study()).rows("SELECT * FROM budget")}
    assert (found["stl"]["trials"], found["stl"]["attempts"], found["stl"]["device_s"]) == (4, 4, 16.0)
    assert (found["ls"]["configurations"], found["ls"]["seeds"]) == (1, 2)


def test_answers_do_not_depend_on_where_rows_lie(make_study: Callable[..., Path], small: ModuleType) -> None:
    root = make_study(spoil={"ls0": ("b", "accuracy")}, skip=("pcgrad1",))
    store = Store(root)
    queries = [
        f"SELECT * FROM {v} ORDER BY ALL" for v in ("leaderboard", "delta_m", "final_metrics", "validation_skill")
    ]
    live = [store.sql(q) for q in queries]
    with Ingester(root) as ingester:
        ingester.run_once()
        assert [store.sql(q) for q in queries] == live
        small.write_trial(root, next(r for r in small.trial_rows() if r["trial_id"] == "pcgrad1"))
        mixed = [store.sql(q) for q in queries]
        ingester.run_once()
        ingester.publish()
    assert [store.sql(q) for q in queries] == mixed
    assert store.rows("SELECT pending_segments, segments_without_claim FROM health") == [
        {"pending_segments": 0, "segments_without_claim": 0}
    ]


def test_what_a_step_did_is_a_row_per_task_and_a_summary_per_method(make_study: Callable[..., Path]) -> None:
    store = Store(make_study())
    found = store.rows("SELECT * FROM task_gradient_rows WHERE trial_id = 'ls0' ORDER BY task")
    assert [(r["task"], r["loss"], r["norm"], r["weight"], r["descent"]) for r in found] == [
        ("a", 1.0, 1.0, None, 0.5), ("b", 2.0, 2.0, None, -0.25), ("c", 3.0, 3.0, None, 1.0),
    ]  # fmt: skip
    assert {(r["min_descent"], r["norm_to_sum"], r["gram_condition"], r["status"]) for r in found} == {
        (-0.25, 0.5, 8.0, "ok")
    }
    told = {r["method"]: r for r in store.rows(canned("@descent"))}
    assert set(told) == {"ls", "pcgrad"}  # single-task runs have no conflict to tell of
    assert (told["ls"]["steps"], told["ls"]["hurt_fraction"], told["ls"]["norm_to_sum"], told["ls"]["not_ok"]) == (
        2, 1.0, 0.5, 0,
    )  # fmt: skip


def test_a_query_finds_every_view_that_it_names_and_all_where_it_asks_what_there_is() -> None:
    every = set(database._views())
    assert len(every) > 20
    for name in every:
        with duckdb.connect(":memory:") as con:
            database.create_tables(con)
            database.create_views(con, asked=f'SELECT * FROM "{name.upper()}"')
            con.execute(f"FROM {name}")
            made = {v for (v,) in con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()}
            assert name in made
    assert len(made) < len(every)  # the last of them needs only a few
    for asked in ("SHOW TABLES", "FROM duckdb_views()", "SELECT table_name FROM information_schema.tables", None):
        with duckdb.connect(":memory:") as con:
            database.create_tables(con)
            database.create_views(con, asked=asked)
            listed = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
            assert every <= {view for (view,) in listed}
