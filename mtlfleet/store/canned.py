"""Queries that many people ask, by name: ``mtlfleet sql STUDY @name``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mtlfleet import errors


class Canned(NamedTuple):
    """A query and what it answers."""

    about: str
    sql: str


CANNED: Mapping[str, Canned] = {
    "leaderboard": Canned(
        "test results of every method, best first, published rows beside them",
        "SELECT dataset, architecture, task, metric, rank, method, external, n_seeds, n_trials, mean, ci95, n_failed,"
        " n_diverged FROM leaderboard"
        " ORDER BY dataset, task, metric, external, architecture, rank NULLS LAST, method",
    ),
    "delta": Canned(
        "change against single-task training per method: delta_m_pct (lower is better), delta_p_pct (higher is)",
        "SELECT dataset, architecture, method, count(*) AS runs, count(*) FILTER (complete) AS complete_runs,"
        " avg(delta_m_pct ORDER BY delta_m_pct) FILTER (complete AND isfinite(delta_m_pct)) AS delta_m_pct,"
        " avg(delta_p_pct ORDER BY delta_p_pct) FILTER (complete AND isfinite(delta_p_pct)) AS delta_p_pct"
        " FROM delta_m GROUP BY ALL ORDER BY dataset, architecture, delta_m_pct NULLS LAST, method",
    ),
    "progress": Canned(
        "trials by state",
        "SELECT * EXCLUDE (study_id) FROM progress ORDER BY phase, method, dataset, architecture",
    ),
    "verdicts": Canned(
        "what the statistics say about each claim",
        "SELECT claim_id, verdict, label, effect, ci_low, ci_high, unit, p_adjusted, n_pairs, sentence"
        " FROM verdicts ORDER BY claim_id",
    ),
    "failures": Canned(
        "trials that did not end well, grouped by cause",
        "SELECT state, exit_reason, count(*) AS trials, min(label) AS example, min(trial_id) AS trial_id"
        " FROM trial_summary WHERE state NOT IN ('done', 'running', 'missing')"
        " GROUP BY ALL ORDER BY trials DESC, state, exit_reason",
    ),
    "curves": Canned(
        "validation curves: mean over the final runs of each method, per step",
        "SELECT t.dataset, t.architecture, t.method, m.task, m.metric, m.step,"
        " avg(m.value ORDER BY m.value) FILTER (isfinite(m.value)) AS mean, count(*) AS runs,"
        " count(*) FILTER (NOT isfinite(m.value)) AS n_nonfinite"
        " FROM metrics m JOIN trials t USING (study_id, trial_id)"
        " WHERE m.split = 'val' AND t.phase = 'final' GROUP BY ALL ORDER BY ALL",
    ),
    "best": Canned(
        "the configuration that validation chose for each method",
        "SELECT phase, dataset, architecture, method, task, seed, config_index, skill, params, trial_id"
        " FROM best_trial_per_method ORDER BY ALL",
    ),
    "conflicts": Canned(
        "cosines between task gradients: mean, share of negative ones, per method and pair of tasks",
        "SELECT t.dataset, t.architecture, t.method, p.scope, p.task_i, p.task_j, count(*) AS n,"
        " avg(p.cosine ORDER BY p.cosine) FILTER (isfinite(p.cosine)) AS mean_cosine,"
        " count(*) FILTER (p.cosine < 0) / count(*) AS negative_fraction"
        " FROM task_gradient_pairs p JOIN trials t USING (study_id, trial_id) GROUP BY ALL ORDER BY ALL",
    ),
    "descent": Canned(
        "what logged steps do to the tasks: share that hurt one, length against the plain sum's, steps not solved",
        "SELECT t.dataset, t.architecture, t.method, count(*) AS steps,"
        " count(*) FILTER (g.min_descent < 0) / nullif(count(g.min_descent), 0) AS hurt_fraction,"
        " avg(g.conflict_fraction ORDER BY g.conflict_fraction) AS conflict_fraction,"
        " median(g.norm_to_sum) AS norm_to_sum, median(g.gram_condition) AS gram_condition,"
        " count(*) FILTER (g.status <> 'ok') AS not_ok"
        " FROM task_gradients g JOIN trials t USING (study_id, trial_id)"
        " WHERE t.task = '*' GROUP BY ALL ORDER BY ALL",
    ),
    "budget": Canned(
        "what each method was given: trials, configurations, seconds",
        "SELECT * EXCLUDE (study_id) FROM budget ORDER BY phase, dataset, architecture, method",
    ),
    "nonfinite": Canned(
        "final values that were NaN or infinite",
        "SELECT dataset, architecture, method, seed, split, task, metric, n_nonfinite, trial_id"
        " FROM final_metrics WHERE n_nonfinite > 0 ORDER BY ALL",
    ),
    "health": Canned("freshness and consistency of the store", "SELECT * FROM health"),
    "names": Canned(
        "tables and views with their columns",
        'SELECT table_name AS name, column_name AS "column", data_type AS type, comment FROM duckdb_columns()'
        " WHERE NOT internal AND table_name NOT LIKE '%\\_all%' ESCAPE '\\'"
        " AND table_name NOT LIKE '%\\_pending' ESCAPE '\\'"
        " AND database_name = current_database() ORDER BY ALL",
    ),
}


def canned(query: str) -> str:
    """The SQL of ``@name``, or ``query`` itself. Raises UsageError with the nearest name."""
    if not query.startswith("@"):
        return query
    name = query[1:].strip()
    if name not in CANNED:
        close = errors.nearest(name, CANNED)
        raise errors.UsageError(
            f"no query is called `@{name}`",
            notes=[f"known: {', '.join('@' + n for n in CANNED)}"],
            help=f"did you mean `@{close}`?" if close else "list them: mtlfleet sql STUDY @",
        )
    return CANNED[name].sql


def listing() -> str:
    """The names, with what each answers."""
    width = max(map(len, CANNED)) + 1
    return "\n".join(f"{'@' + name:<{width}}  {query.about}" for name, query in CANNED.items())
