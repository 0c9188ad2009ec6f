-- What people query. Every aggregate looks at finite values only: DuckDB ranks NaN above everything, so a diverged run
-- would otherwise win each metric that is better when higher; `complete` gates every ranking for the same reason. Sums have an
-- ORDER BY so that their last bit does not depend on the order of the files.

CREATE OR REPLACE VIEW attempt_windows AS
SELECT study_id, trial_id, attempt, restored_step,
       min(restored_step) OVER (PARTITION BY study_id, trial_id ORDER BY attempt
                                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS valid_upto
FROM attempts;

-- Attempts of which a part does not count. Mostly there are none, and taking nothing away is nearly free, where looking up
-- the window of every row doubles the price of a query. The lower end needs no look: a writer takes no row at or below the
-- step it restored, and `mtlfleet doctor` looks for such rows.
CREATE OR REPLACE VIEW cut_attempts AS
SELECT study_id, trial_id, attempt, valid_upto FROM attempt_windows WHERE valid_upto IS NOT NULL;

CREATE OR REPLACE VIEW metrics AS
SELECT r.* FROM metrics_all r ANTI JOIN cut_attempts c
  ON (r.study_id, r.trial_id, r.attempt) = (c.study_id, c.trial_id, c.attempt) AND r.step > c.valid_upto;

CREATE OR REPLACE VIEW step_metrics AS
SELECT r.* FROM step_metrics_all r ANTI JOIN cut_attempts c
  ON (r.study_id, r.trial_id, r.attempt) = (c.study_id, c.trial_id, c.attempt) AND r.step > c.valid_upto;

CREATE OR REPLACE VIEW task_gradients AS
SELECT r.* FROM task_gradients_all r ANTI JOIN cut_attempts c
  ON (r.study_id, r.trial_id, r.attempt) = (c.study_id, c.trial_id, c.attempt) AND r.step > c.valid_upto;

CREATE OR REPLACE VIEW checkpoints AS
SELECT r.* FROM checkpoints_all r JOIN attempt_windows w USING (study_id, trial_id, attempt)
WHERE w.valid_upto IS NULL OR r.step <= w.valid_upto;

CREATE OR REPLACE VIEW artifacts AS
SELECT r.* FROM artifacts_all r JOIN attempt_windows w USING (study_id, trial_id, attempt)
WHERE w.valid_upto IS NULL OR r.step <= w.valid_upto;

CREATE OR REPLACE VIEW task_gradient_pairs AS
WITH firsts AS (
  SELECT *, unnest(range(1, len(tasks))) AS i FROM task_gradients
), pairs AS (
  SELECT *, unnest(range(i + 1, len(tasks) + 1)) AS j FROM firsts
)
SELECT study_id, trial_id, attempt, step, scope, tasks[i] AS task_i, tasks[j] AS task_j,
       cos_upper[(i - 1) * len(tasks) - (i * (i - 1)) // 2 + (j - i)] AS cosine,
       norms[i] AS norm_i, norms[j] AS norm_j
FROM pairs;

CREATE OR REPLACE VIEW task_gradient_rows AS
WITH places AS (
  SELECT *, unnest(range(1, len(tasks) + 1)) AS k FROM task_gradients
)
SELECT study_id, trial_id, attempt, step, scope, tasks[k] AS task, losses[k] AS loss, norms[k] AS norm, weights[k] AS weight,
       descents[k] AS descent, min_descent, conflict_fraction, update_norm, norm_to_sum, gram_condition, status
FROM places;

-- Without `samples`, for which every row of the metrics is looked at: what the leaderboard and all below rest on.
CREATE OR REPLACE VIEW trial_states AS
WITH runs AS (
  SELECT study_id, trial_id, count(*) AS n_attempts, arg_max(coalesce(state, 'running'), attempt) AS state,
         arg_max(exit_reason, attempt) AS exit_reason, max(last_step) AS last_step,
         sum(train_s) FILTER (isfinite(train_s)) AS train_s, sum(device_s) FILTER (isfinite(device_s)) AS device_s,
         min(started_at) AS started_at, max(ended_at) AS ended_at
  FROM attempts GROUP BY study_id, trial_id
)
SELECT t.study_id, t.trial_id, t.label, t.phase, t.method, t.method_use, t.dataset, t.architecture, t.task, t.tasks, t.seed,
       t.config_index, t.params, coalesce(r.state, 'missing') AS state, r.exit_reason, coalesce(r.n_attempts, 0) AS n_attempts,
       r.last_step, t.steps, r.train_s, r.device_s, r.started_at, r.ended_at
FROM trials t LEFT JOIN runs r USING (study_id, trial_id);

CREATE OR REPLACE VIEW trial_summary AS
WITH drawn AS (
  SELECT study_id, trial_id, max(value)::BIGINT AS samples FROM metrics WHERE metric = 'samples' GROUP BY study_id, trial_id
)
SELECT t.*, d.samples FROM trial_states t LEFT JOIN drawn d USING (study_id, trial_id);

-- The conventions of each trial's latest attempt that took a step; json keys as in docs/methods.md.
CREATE OR REPLACE VIEW run_cards AS
SELECT t.study_id, t.trial_id, t.method, t.dataset, t.architecture, t.seed, e.card->>'heads' AS heads,
       e.card->>'weight_sum' AS weight_sum, coalesce(e.card->>'scale', 'native') AS scale, (e.card->>'shared_parameters')::BIGINT AS shared_parameters,
       e.card->'private' AS private, e.card->'state' AS state, e.card->>'guard' AS guard, e.card->>'agreement' AS agreement,
       (e.card->>'shared_norm')::DOUBLE AS shared_norm, (e.card->>'clip_norm')::DOUBLE AS clip_norm,
       e.card->>'budget' AS budget, (e.card->>'batches')::INTEGER + (e.card->>'outer_batches')::INTEGER AS batches_per_step,
       (e.card->>'samples')::BIGINT AS samples_per_step, (e.card->>'forward_passes')::INTEGER AS forward_passes, e.card
FROM trials t JOIN (
  SELECT study_id, trial_id, arg_max(message, attempt)::JSON AS card FROM events WHERE kind = 'run_card' GROUP BY ALL
) e USING (study_id, trial_id);

CREATE OR REPLACE VIEW final_metrics AS
SELECT t.study_id, t.trial_id, t.phase, t.method, t.method_use, t.dataset, t.architecture, t.config_index, t.seed,
       m.task, m.metric, m.split, arg_max(m.value, m.step) FILTER (isfinite(m.value)) AS value, max(m.step) AS step,
       count(*) FILTER (NOT isfinite(m.value)) AS n_nonfinite
FROM trials t JOIN metrics m USING (study_id, trial_id)
WHERE m.final
GROUP BY ALL;

-- One row per thing a final run is judged by: metrics with a direction and a true zero.
CREATE OR REPLACE VIEW judged_metrics AS
SELECT DISTINCT f.study_id, f.dataset, f.architecture, f.task, f.metric, d.unit, d.direction, d.scale
FROM final_metrics f JOIN metric_defs d USING (study_id, metric)
WHERE f.phase = 'final' AND f.split = 'test' AND f.task <> '*' AND d.direction IN ('min', 'max');

CREATE OR REPLACE VIEW stl_reference AS
SELECT t.study_id, t.dataset, t.architecture, j.task, j.metric,
       avg(f.value ORDER BY f.value) FILTER (isfinite(f.value) AND t.state = 'done') AS value,
       count(*) FILTER (isfinite(f.value) AND t.state = 'done') AS n_seeds, count(*) AS n_trials,
       count(*) FILTER (isfinite(f.value) AND t.state = 'done') = count(*) AS complete,
       list(t.trial_id ORDER BY t.trial_id) FILTER (isfinite(f.value) AND t.state = 'done') AS source_trial_ids
FROM trial_states t
JOIN judged_metrics j ON (j.study_id, j.dataset, j.architecture, j.task) = (t.study_id, t.dataset, t.architecture, t.task)
LEFT JOIN final_metrics f ON (f.study_id, f.trial_id, f.task, f.metric) = (t.study_id, t.trial_id, j.task, j.metric)
     AND f.split = 'test'
WHERE t.phase = 'final' AND t.task <> '*'
GROUP BY ALL;

CREATE OR REPLACE VIEW delta_terms AS
SELECT t.study_id, t.dataset, t.architecture, t.method, t.seed, t.trial_id, j.task, j.metric, j.direction, f.value,
       r.value AS reference,
       100 * (CASE j.direction WHEN 'max' THEN 1 ELSE -1 END) * (f.value - r.value) / nullif(abs(r.value), 0) AS improvement_pct
FROM trial_states t
JOIN judged_metrics j ON (j.study_id, j.dataset, j.architecture) = (t.study_id, t.dataset, t.architecture)
     AND (t.task = '*' OR t.task = j.task) AND j.scale = 'ratio'
LEFT JOIN final_metrics f ON (f.study_id, f.trial_id, f.task, f.metric) = (t.study_id, t.trial_id, j.task, j.metric)
     AND f.split = 'test'
LEFT JOIN stl_reference r ON (r.study_id, r.dataset, r.architecture, r.task, r.metric)
     = (t.study_id, t.dataset, t.architecture, j.task, j.metric)
WHERE t.phase = 'final';

CREATE OR REPLACE VIEW delta_m AS
WITH runs AS (
  SELECT study_id, dataset, architecture, method, any_value(method_use) AS method_use, seed,
         CASE WHEN bool_or(task <> '*') THEN NULL ELSE any_value(trial_id) END AS trial_id, bool_and(state = 'done') AS done
  FROM trial_states WHERE phase = 'final' GROUP BY study_id, dataset, architecture, method, seed
), expected AS (
  SELECT study_id, dataset, architecture, count(*) AS n_expected FROM judged_metrics WHERE scale = 'ratio' GROUP BY ALL
), by_task AS (
  SELECT study_id, dataset, architecture, method, seed, task,
         sum(improvement_pct ORDER BY metric) FILTER (isfinite(improvement_pct)) AS total,
         count(*) FILTER (isfinite(improvement_pct)) AS n
  FROM delta_terms GROUP BY ALL
), flat AS (
  SELECT study_id, dataset, architecture, method, seed, -sum(total ORDER BY task) / sum(n) AS delta_m_pct,
         avg(total / n ORDER BY task) FILTER (n > 0) AS delta_p_pct, sum(n) AS n_terms
  FROM by_task GROUP BY ALL
)
SELECT u.study_id, u.trial_id, 'final' AS phase, u.method, u.method_use, u.dataset, u.architecture, u.seed, f.delta_m_pct,
       f.delta_p_pct, coalesce(f.n_terms, 0)::BIGINT AS n_terms, coalesce(e.n_expected, 0) AS n_expected,
       u.done AND coalesce(e.n_expected > 0 AND f.n_terms = e.n_expected, false) AS complete
FROM runs u
LEFT JOIN expected e USING (study_id, dataset, architecture)
LEFT JOIN flat f USING (study_id, dataset, architecture, method, seed);

CREATE OR REPLACE VIEW leaderboard AS
WITH cells AS (
  SELECT study_id, dataset, architecture, method, unnest(tasks) AS task, state FROM trial_states WHERE phase = 'final'
), counts AS (
  SELECT study_id, dataset, architecture, method, task, count(*) AS n_trials,
         count(*) FILTER (state IN ('failed', 'oom', 'lost')) AS n_failed, count(*) FILTER (state = 'diverged') AS n_diverged
  FROM cells GROUP BY ALL
), finals AS (
  SELECT f.* FROM final_metrics f JOIN trial_states t USING (study_id, trial_id)
  WHERE f.phase = 'final' AND f.split = 'test' AND t.state = 'done' AND isfinite(f.value)
), metric_rows AS (
  SELECT c.study_id, c.dataset, c.architecture, c.method, c.task, j.metric, j.unit, j.direction, count(f.value) AS n_seeds,
         any_value(c.n_trials) AS n_trials, avg(f.value ORDER BY f.value) AS mean,
         stddev_samp(f.value ORDER BY f.value) AS sd, any_value(c.n_failed) AS n_failed,
         any_value(c.n_diverged) AS n_diverged
  FROM counts c
  JOIN judged_metrics j USING (study_id, dataset, architecture, task)
  LEFT JOIN finals f USING (study_id, dataset, architecture, method, task, metric)
  GROUP BY ALL
), totals AS (
  SELECT study_id, dataset, architecture, method, count(*) FILTER (state IN ('failed', 'oom', 'lost')) AS n_failed,
         count(*) FILTER (state = 'diverged') AS n_diverged
  FROM trial_states WHERE phase = 'final' GROUP BY ALL
), deltas AS (
  SELECT study_id, dataset, architecture, method, complete, 'delta_m_pct' AS metric, delta_m_pct AS value
  FROM delta_m WHERE n_expected > 0
  UNION ALL
  SELECT study_id, dataset, architecture, method, complete, 'delta_p_pct', delta_p_pct FROM delta_m WHERE n_expected > 0
), delta_rows AS (
  SELECT d.study_id, d.dataset, d.architecture, d.method, '*' AS task, d.metric, 'percent' AS unit,
         CASE d.metric WHEN 'delta_m_pct' THEN 'min' ELSE 'max' END AS direction,
         count(*) FILTER (d.complete AND isfinite(d.value)) AS n_seeds, count(*) AS n_trials,
         avg(d.value ORDER BY d.value) FILTER (d.complete AND isfinite(d.value)) AS mean,
         stddev_samp(d.value ORDER BY d.value) FILTER (d.complete AND isfinite(d.value)) AS sd,
         any_value(t.n_failed) AS n_failed, any_value(t.n_diverged) AS n_diverged
  FROM deltas d JOIN totals t USING (study_id, dataset, architecture, method)
  GROUP BY ALL
), rows AS (
  SELECT * FROM metric_rows UNION ALL SELECT * FROM delta_rows
)
SELECT study_id, dataset, architecture, method, task, metric, unit, direction,
       CASE WHEN n_seeds = n_trials AND n_seeds > 0 THEN rank() OVER (
         PARTITION BY study_id, dataset, architecture, task, metric, n_seeds = n_trials AND n_seeds > 0
         ORDER BY CASE direction WHEN 'max' THEN -mean ELSE mean END) END AS rank,
       n_seeds, n_trials, mean, sd,
       CASE WHEN n_seeds > 1 THEN sd / sqrt(n_seeds) * t975(n_seeds - 1) END AS ci95,
       n_failed, n_diverged, n_seeds = n_trials AND n_seeds > 0 AS complete, false AS external
FROM rows
UNION ALL BY NAME
SELECT study_id, dataset, NULL AS architecture, method, task, metric,
       CASE metric WHEN 'delta_m_pct' THEN 'percent' END AS unit, direction, value AS mean, false AS complete,
       true AS external
FROM external_metrics;

CREATE OR REPLACE VIEW validation_skill AS
SELECT t.study_id, t.trial_id, t.phase, t.method, t.dataset, t.architecture, t.task, t.seed, t.config_index,
       avg((f.value - d.chance) / nullif(m.best - d.chance, 0) ORDER BY d.task)
         FILTER (isfinite(f.value) AND isfinite(d.chance) AND isfinite(m.best)) AS skill,
       count(*) FILTER (isfinite(f.value)) AS n_tasks,
       any_value(t.state) = 'done' AND count(*) FILTER (isfinite(f.value)) = any_value(len(t.tasks)) AS complete
FROM trial_states t
JOIN task_defs d ON (d.study_id, d.dataset) = (t.study_id, t.dataset) AND list_contains(t.tasks, d.task)
JOIN metric_defs m ON m.study_id = t.study_id AND m.metric = d.primary_metric
LEFT JOIN final_metrics f ON (f.study_id, f.trial_id, f.task, f.metric) = (t.study_id, t.trial_id, d.task, d.primary_metric)
     AND f.split = 'val'
GROUP BY ALL;

CREATE OR REPLACE VIEW best_trial_per_method AS
SELECT s.study_id, s.phase, s.dataset, s.architecture, s.method, s.task, s.trial_id, s.config_index, s.seed, s.skill, t.params
FROM validation_skill s JOIN trials t USING (study_id, trial_id)
WHERE s.complete AND isfinite(s.skill)
QUALIFY row_number() OVER (PARTITION BY s.study_id, s.phase, s.dataset, s.architecture, s.method, s.task
                           ORDER BY s.skill DESC, s.trial_id) = 1;

CREATE OR REPLACE VIEW progress AS
SELECT study_id, phase, method, dataset, architecture, count(*) AS total,
       count(*) FILTER (state = 'done') AS done, count(*) FILTER (state = 'diverged') AS diverged,
       count(*) FILTER (state = 'failed') AS failed, count(*) FILTER (state = 'oom') AS oom,
       count(*) FILTER (state = 'lost') AS lost, count(*) FILTER (state = 'interrupted') AS interrupted,
       count(*) FILTER (state = 'running') AS running, count(*) FILTER (state = 'missing') AS missing
FROM trial_states GROUP BY ALL;

CREATE OR REPLACE VIEW budget AS
SELECT study_id, phase, method, dataset, architecture, count(*) AS trials, count(DISTINCT config_index) AS configurations,
       count(DISTINCT seed) AS seeds, sum(n_attempts)::BIGINT AS attempts,
       sum(train_s) FILTER (isfinite(train_s)) AS train_s, sum(device_s) FILTER (isfinite(device_s)) AS device_s,
       sum(samples)::BIGINT AS samples
FROM trial_summary GROUP BY ALL;

-- Pairs of methods of which some runs of one recipe left the same numbers, bit for bit. The first step's loss is left out: it
-- was measured before any method acted. In the search, configuration i is compared with configuration i.
CREATE OR REPLACE VIEW twins AS
WITH measured AS (
  SELECT study_id, trial_id, step, task, metric, value::DOUBLE AS value FROM step_metrics WHERE step > 1
  UNION ALL
  SELECT study_id, trial_id, step, task, concat(split, ' ', metric), value FROM metrics
  WHERE split IN ('train', 'val') AND NOT final
), traces AS (
  SELECT study_id, trial_id, count(*) AS n, sum(hash(step, task, metric, value)::HUGEINT) AS trace FROM measured GROUP BY ALL
), runs AS (
  SELECT t.study_id, t.phase, t.dataset, t.architecture, t.task, t.seed, t.method, t.world_size, r.n, r.trace,
         CASE t.phase WHEN 'tune' THEN t.config_index END AS config_index,
         concat(t.config->>'recipe', t.config->>'dataset', t.config->>'architecture', t.config->>'strategy') AS recipe
  FROM trials t JOIN trial_states s USING (study_id, trial_id, method, config_index) JOIN traces r USING (study_id, trial_id)
  WHERE s.state IN ('done', 'diverged')
)
SELECT a.study_id, a.phase, a.dataset, a.architecture, a.method, b.method AS twin,
       count(*) FILTER ((a.n, a.trace) = (b.n, b.trace)) AS identical, count(*) AS compared
FROM runs a JOIN runs b
  ON (a.study_id, a.phase, a.dataset, a.architecture, a.task, a.seed, a.world_size, a.recipe)
   = (b.study_id, b.phase, b.dataset, b.architecture, b.task, b.seed, b.world_size, b.recipe)
  AND a.config_index IS NOT DISTINCT FROM b.config_index AND a.method < b.method
GROUP BY ALL HAVING identical > 0;

CREATE OR REPLACE VIEW health AS
WITH facts AS (SELECT map_from_entries(list((key, value))) AS m FROM meta)
SELECT m['schema_version']::INTEGER AS schema_version, m['mtlfleet_version'] AS mtlfleet_version,
       m['published_at']::TIMESTAMPTZ AS published_at,
       epoch(now() - m['published_at']::TIMESTAMPTZ) AS lag_s,
       coalesce(m['pending_segments']::BIGINT, 0) AS pending_segments,
       coalesce(m['damaged_segments']::BIGINT, 0) AS damaged_segments,
       (SELECT count(*) FROM segments) AS ingested_segments,
       (SELECT count(*) FROM trial_states WHERE state = 'running') AS running_trials,
       (SELECT count(*) FROM segments s ANTI JOIN attempts a USING (study_id, trial_id, attempt)) AS segments_without_claim
FROM facts;
