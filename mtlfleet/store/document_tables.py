"""The tables of what the driver knows of a study; written whole, see ``documents``. Part of ``schema``."""

from __future__ import annotations

from collections.abc import Mapping

from mtlfleet.store.columns import Table
from mtlfleet.store.columns import table as _table

STUDY = ("study_id", "text", "the study's name")
TRIAL = ("trial_id", "text", "first 16 hex digits of the trial's key")

DOCUMENT_TABLES: Mapping[str, Table] = {
    t.name: t
    for t in (
        _table(
            "studies",
            "the studies of this store",
            STUDY,
            ("title", "text", "for people"),
            ("spec", "json", "the science of the study file, canonical"),
            ("spec_sha256", "text", "its hash"),
            ("mtlfleet_version", "text", "version that launched it"),
            ("created_at", "time", "first launch, UTC"),
        ),
        _table(
            "trials",
            "the trials the study asks for, done or not",
            STUDY,
            TRIAL,
            ("phase", "text", "tune (validation only) or final"),
            ("method", "text", "the study's id of the method"),
            ("method_use", "text", "the method's registry name, with @preset"),
            ("dataset", "text", "the study's id of the dataset"),
            ("architecture", "text", "the study's id of the architecture"),
            ("task", "text", "the one task of a single-task run, else *"),
            ("tasks", "texts", "tasks trained"),
            ("seed", "int", "seed of every random draw"),
            ("config_index", "int32", "point of the search space, from 0"),
            ("label", "text", "for people"),
            ("params", "json", "hyper-parameters of the method and searched train.* values"),
            ("config", "json", "the resolved trial"),
            ("config_sha256", "text", "the trial's whole key"),
            ("world_size", "int32", "data-parallel ranks"),
            ("steps", "int", "optimizer steps asked for", "step"),
        ),
        _table(
            "task_defs",
            "the tasks of each dataset",
            STUDY,
            ("dataset", "text", "the study's id of the dataset"),
            ("task", "text", "task name"),
            ("kind", "text", "classification, binary, regression or custom"),
            ("outputs", "int", "width of the head"),
            ("primary_metric", "text", "the metric that selection looks at"),
            ("chance", "float", "primary metric of a predictor that ignores its input"),
        ),
        _table(
            "metric_defs",
            "what each metric means",
            STUDY,
            ("metric", "text", "metric name"),
            ("unit", "text", "unit of the values"),
            ("direction", "text", "max: higher is better; min: lower is better; none: never ranked"),
            ("scale", "text", "ratio: percent changes mean something; else interval"),
            ("best", "float", "value of a perfect predictor"),
            ("description", "text", "for people"),
        ),
        _table(
            "external_metrics",
            "results that others published, imported for comparison: never ranked, never in a test",
            STUDY,
            ("source", "text", "who published them, as the imported file says"),
            ("url", "text", "where"),
            ("dataset", "text", "the study's id of the dataset, or the publication's name of it"),
            ("method", "text", "the publication's name of the method"),
            ("task", "text", "task, or * for all tasks together"),
            ("metric", "text", "metric, or delta_m_pct against the publication's own single-task row"),
            ("direction", "text", "max: higher is better; min: lower is better"),
            ("value", "float", "as published"),
            ("recomputed", "bool", "worked out from the published rows because the publication does not state it"),
            ("reference", "bool", "the publication's own single-task row"),
            ("note", "text", "the publication's protocol, for people"),
            ("sha256", "text", "hash of the imported file"),
        ),
        _table(
            "verdicts",
            "what the statistics say about each claim",
            STUDY,
            ("claim_id", "text", "the claim's id in the study file"),
            ("verdict", "text", "supported, refuted, equivalent, inconclusive or not testable"),
            ("label", "text", "the verdict with its qualification, for people"),
            ("effect", "float", "improvement over the baseline; positive is better", "verdicts.unit"),
            ("ci_low", "float", "lower end of the interval of the effect", "verdicts.unit"),
            ("ci_high", "float", "upper end of the interval of the effect", "verdicts.unit"),
            ("unit", "text", "unit of the effect"),
            ("p_value", "float", "of the test the claim names"),
            ("p_adjusted", "float", "adjusted over the claim's family"),
            ("n_pairs", "int32", "paired runs behind it"),
            ("n_datasets", "int32", "datasets behind it"),
            ("power", "float", "chance to detect the margin with these runs", "fraction"),
            ("seeds_needed", "int32", "seeds per dataset for a power of 0.8"),
            ("guards", "texts", "guards that fired"),
            ("fragile", "bool", "whether leaving out one run changes the verdict"),
            ("sentence", "text", "the verdict as one sentence"),
            ("sha256", "text", "hash of claim, data and protocol"),
            ("detail", "json", "everything else"),
        ),
    )
}
