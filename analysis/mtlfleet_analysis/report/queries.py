"""The SQL behind each number of the report, ready to paste after ``mtlfleet sql STUDY``."""

from __future__ import annotations

from mtlfleet.plan.claims import ON_THE_WAY, Claim


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def of_claim(study: str, claim: Claim) -> str:
    """The verdict, and the runs it was made from."""
    names = ", ".join(quoted(m) for m in (claim.method, *claim.baseline.best_of))
    verdict = f"SELECT * FROM verdicts\nWHERE study_id = {quoted(study)} AND claim_id = {quoted(claim.id)};"
    where = f"study_id = {quoted(study)} AND method IN ({names})"
    if claim.estimand.kind == "metric":
        task, metric = quoted(str(claim.estimand.task)), quoted(str(claim.estimand.metric))
        runs = (
            "SELECT dataset, architecture, seed, method, value, trial_id FROM final_metrics\n"
            f"WHERE {where}\n  AND phase = 'final' AND split = 'test' AND task = {task} AND metric = {metric}\n"
            "ORDER BY ALL;"
        )
    elif claim.estimand.kind in ON_THE_WAY:
        task, metric = quoted(str(claim.estimand.task)), quoted(str(claim.estimand.metric))
        runs = (
            "SELECT dataset, architecture, phase, seed, method, step, device_s * step / last_step AS device_s, value, "
            "trial_id\nFROM metrics m JOIN trial_states USING (study_id, trial_id)\n"
            f"WHERE {where}\n  AND split = 'val' AND NOT final AND m.task = {task} AND metric = {metric}\nORDER BY ALL;"
        )
    else:
        column = "delta_m_pct" if claim.estimand.kind == "delta_m" else "delta_p_pct"
        sign = "-" if column == "delta_m_pct" else ""
        runs = (
            f"SELECT dataset, architecture, seed, method, {sign}{column} AS improvement, complete, trial_id\n"
            f"FROM delta_m WHERE {where}\nORDER BY ALL;"
        )
    return f"{verdict}\n\n{runs}"


def leaderboard(study: str) -> str:
    return (
        "SELECT method, dataset, architecture, n_seeds, -mean AS improvement, ci95, n_failed, n_diverged\n"
        f"FROM leaderboard WHERE study_id = {quoted(study)} AND metric = 'delta_m_pct' AND NOT external\n"
        "ORDER BY dataset, architecture, mean;"
    )


def twins(study: str) -> str:
    return f"SELECT * FROM twins\nWHERE study_id = {quoted(study)} ORDER BY ALL;"


def failures(study: str) -> str:
    return (
        "SELECT state, label, exit_reason FROM trial_summary\n"
        f"WHERE study_id = {quoted(study)} AND state <> 'done' ORDER BY ALL;"
    )


def budget(study: str) -> str:
    return (
        "SELECT method, phase, sum(trials) AS trials, sum(device_s) AS device_s FROM budget\n"
        f"WHERE study_id = {quoted(study)} GROUP BY ALL ORDER BY ALL;"
    )


def trials(study: str) -> str:
    return (
        "SELECT trial_id, label, state, params FROM trial_summary\n"
        f"WHERE study_id = {quoted(study)} AND phase = 'final' ORDER BY label;"
    )


def external(study: str) -> str:
    return f"SELECT * FROM external_metrics\nWHERE study_id = {quoted(study)} ORDER BY ALL;"


def of_figures(study: str) -> dict[str, str]:
    """The rows behind each kind of figure, trial by trial."""
    here = f"study_id = {quoted(study)}"
    on_validation = (
        "SELECT phase, method, dataset, architecture, config_index, seed, task, metric, value, trial_id\n"
        f"FROM final_metrics WHERE {here} AND split = 'val' ORDER BY ALL;"
    )
    improvements = (
        "SELECT method, dataset, architecture, seed, -delta_m_pct AS improvement, complete, trial_id\n"
        f"FROM delta_m WHERE {here} ORDER BY ALL;"
    )
    return {
        "tradeoffs": on_validation,
        "tuning": on_validation,
        "tasks": (
            "SELECT method, dataset, architecture, task, metric, seed, improvement_pct, trial_id\n"
            f"FROM delta_terms WHERE {here} ORDER BY ALL;"
        ),
        "runs": improvements,
        "gradients": (
            "SELECT method, dataset, architecture, seed, step, tasks, norms, cos_upper, weights, trial_id\n"
            f"FROM task_gradients JOIN trials USING (study_id, trial_id) WHERE {here} AND phase = 'final' ORDER BY ALL;"
        ),
    }
