"""Codes of the diagnostics about claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Explanation(NamedTuple):
    """One code for people."""

    title: str
    text: str
    example: str


CLAIM_CODES: Mapping[str, Explanation] = {
    "E201": Explanation(
        "unequal tuning budgets",
        "A claim compares a method with a baseline that had another number of configurations to choose "
        "from. The best of twenty draws beats the best of one without being better: with no true "
        "difference, such comparisons favour the side with more draws. The baseline's number is the sum "
        "over `best_of`, because the choice among its members is a choice too. Give both sides the same "
        "number (a common continuous axis does it), or waive parity with a reason, which the report prints.",
        "search: {space: {train.lr: {log_uniform: [1e-3, 1e-2]}}, trials_per_method: 6, seeds: [901]}",
    ),
    "E202": Explanation(
        "a claim names what the study has not",
        "The claim's method, baseline, datasets or architectures must be ids of this study, and `exclude` "
        "must leave their cells in. A claim about cells that never run could not be judged.",
        "claims: [{id: c1, method: pcgrad, baseline: {best_of: [ls]}, margin: 0.5}]",
    ),
    "E203": Explanation(
        "a claim on an unknown metric",
        "`kind: metric` names one task's metric as task.metric; every dataset of the claim must have it.",
        "estimand: {kind: metric, metric: left.accuracy}",
    ),
    "E204": Explanation(
        "no margin",
        "The margin is the smallest effect worth claiming, in the estimand's unit, and must be positive. "
        "Without it a study can only fail to find a difference; with it, it can show that there is none "
        "worth having.",
        "margin: 0.5   # percentage points of delta_m",
    ),
    "E205": Explanation(
        "no single-task reference",
        "delta_m and delta_p are percentages against single-task training in the same study. Published "
        "single-task numbers come from other code and other tuning, so the runs must be here, on every "
        "dataset the claim is about.",
        "methods: {stl: {use: stl}}",
    ),
    "E206": Explanation(
        "a comparison with itself",
        "The claim's method is among its own baseline, or a baseline is named twice.",
        "baseline: {best_of: [ls, uw]}",
    ),
    "E207": Explanation(
        "parity waived without a reason",
        "`parity: waived` lets a claim stand although budgets differ. The report prints the reason beside "
        "the verdict, so there has to be one.",
        "parity: waived\nparity_reason: the baseline has no hyper-parameter and its learning rate is published",
    ),
    "E208": Explanation(
        "duplicate claim",
        "Two claims carry the same id. Claims are registered under it before the first final run.",
        "claims: [{id: c1, ...}, {id: c2, ...}]",
    ),
    "E209": Explanation(
        "a metric without direction",
        "Some numbers are recorded but are not better when higher or lower (the training loss, the step "
        "that was selected). They can be neither claimed nor selected on.",
        "estimand: {kind: metric, metric: left.accuracy}",
    ),
    "E210": Explanation(
        "no scope",
        "A claim speaks of the datasets that are run, or of others of their kind. The two need other tests: if effects "
        "differ between datasets, a test over seeds read as a general claim errs more often the more seeds there are.",
        "scope: these_datasets",
    ),
    "E211": Explanation(
        "an estimand that cannot carry the claim",
        "Some numbers describe and cannot be claimed (ranks, profiles, hypervolumes, tuning curves); others "
        "answer only some kinds of claim: every_task is for non-inferiority, front_pref for superiority or "
        "no_better_than, a percent change for metrics with a true zero; time_to_target needs its target and "
        "compute_matched its device seconds.",
        "estimand: {kind: front_pref, w: equal}\nbaseline: {sweep: [ls-1, ls-2, ls-3]}",
    ),
    "E212": Explanation(
        "a stopping rule that is none",
        "Looking at results more than once costs error level. group_sequential declares the looks (in seeds per "
        "dataset, increasing, the last one at most the study's seeds) and what part of alpha each one spends; anytime "
        "allows a look after every seed; fixed looks once.",
        "stopping: {kind: group_sequential, looks: [5, 10, 20], alpha: [0.01, 0.015, 0.025]}",
    ),
    "E213": Explanation(
        "a family that cannot be corrected together",
        "All claims of a family are corrected in one way. max_t flips the same pairs for all of them, so they need one "
        "fixed sign-flip test each, on the same datasets and architectures, at the same alpha.",
        "{id: c1, family: main, correction: max_t, ...}",
    ),
    "E214": Explanation(
        "a preference among other tasks",
        "A declared preference weighs every task of every dataset the claim is about, and not all of them with zero.",
        "estimand: {kind: front_pref, w: [{left: 0.7, right: 0.3}, {left: 0.3, right: 0.7}]}",
    ),
    "E215": Explanation(
        "unknown claim of the literature",
        "`use:` in a claim names a file and a claim of analysis/claims, as paper/claim. Other keys of the entry change "
        "what the paper's claim says, and the registration covers what comes out.",
        "claims: [{use: kurin2022/pcgrad, margin: 0.5}]",
    ),
    "E216": Explanation(
        "resampled splits",
        "Datasets that are overlapping resamples of one are not independent. Nadeau and Bengio's correction needs the "
        "share of samples that each tests on, at least two of them, and a t test at one look.",
        "splits: {kind: resampled, test_fraction: 0.2}",
    ),
    "E217": Explanation(
        "what is done with failed runs",
        "A run that diverged or ran out of memory is an outcome: it is scored worst. Leaving such pairs out favours "
        "the method that fails more (where a tenth of its runs diverge, a true null is rejected up to four times too "
        "often), so `failures: exclude` needs a reason, and the verdict, its sentence and the report carry both. Ranks "
        "of losses have no size that a margin could bound.",
        "failures: exclude\nfailures_reason: the machine's memory was halved during these runs",
    ),
    "W501": Explanation(
        "the design can never support the claim",
        "The sign-flip test over n seeds on D datasets has no p-value below 2^-(nD). If that is more than "
        "alpha divided by the family's number of claims, no outcome whatsoever can be significant.",
        "seeds: {count: 8}   # 2^-8 = 0.0039 on one dataset",
    ),
    "W502": Explanation(
        "few datasets for a general claim",
        "`datasets_like_these` generalises to datasets that were not run; each dataset is one observation. "
        "Fewer than three cannot answer, fewer than six answer weakly.",
        "scope: these_datasets",
    ),
}
