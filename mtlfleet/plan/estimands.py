"""Every quantity a study can be described by: its unit, its sign, its convention, and why some cannot be claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EstimandFacts:
    """``better``: the direction of the published or drawn number; the effect of a verdict is always an improvement.

    ``valid_for``: the question it answers. ``refused``: why no claim may rest on it; empty for those that carry claims.
    """

    unit: str
    better: str
    convention: str
    valid_for: str
    refused: str = ""


PERCENT = "percentage points"
STL = "percent of the in-study single-task mean over finished seeds"

ESTIMANDS: Mapping[str, EstimandFacts] = {
    "delta_m": EstimandFacts(
        PERCENT, "lower", f"{STL}; flat mean over metrics; published sign, turned in verdicts",
        "better on average at this operating point",
    ),
    "delta_p": EstimandFacts(
        PERCENT, "higher", f"{STL}; mean within each task first, over tasks then",
        "better on average, every task counting the same",
    ),
    "delta_task": EstimandFacts(PERCENT, "higher", f"{STL}; one metric with a true zero", "improves one task"),
    "metric": EstimandFacts("the metric's own", "higher", "difference; metrics with direction min change sign",
                            "improves one task, in its own unit"),
    "every_task": EstimandFacts(
        PERCENT, "higher", f"{STL}; the least of the tasks' changes, by intersection and union", "harms no task",
    ),
    "front_pref": EstimandFacts(
        PERCENT, "higher", f"{STL}; tasks weighted by a declared preference, against the best point of a sweep",
        "better than tuned scalarization under a declared preference",
    ),
    "compute_matched": EstimandFacts(
        "the metric's own", "higher",
        "on validation: the last reading within a declared number of device seconds, the arm's tuning counted first; "
        "none by then is scored worst; a run's seconds are spread evenly over its steps",
        "worth its cost",
    ),
    "time_to_target": EstimandFacts(
        "device seconds", "lower",
        "on validation: until a reading reaches the declared target; never, or failed: the seconds of the arms' "
        "longest run of that dataset; a run's seconds are spread evenly over its steps; tuning not counted",
        "training speed",
    ),
    "mean_rank": EstimandFacts(
        "ranks", "lower", "1 is best; ties averaged unless said otherwise", "ordering the leaderboard",
        "a mean rank depends on which other methods are in the study and has no size that a margin could bound; it "
        "orders the leaderboard",
    ),
    "win_rate": EstimandFacts(
        "share of pairs", "higher", "paired by dataset, architecture and seed; ties half", "how often it is ahead",
        "how often a method is ahead says nothing about by how much; it is printed beside every verdict",
    ),
    "probability_of_improvement": EstimandFacts(
        "share of pairs of runs", "higher", "P(a run of one scores above a run of the other), unpaired; ties half",
        "how often one run beats another",
        "it leaves out by how much, and the pairing by seed that a study pays for; `win_rate`, printed beside every "
        "verdict, is its paired form",
    ),
    "iqm": EstimandFacts(
        "of the scores", "higher", "mean of the middle half of runs x datasets", "a summary without extremes",
        "the interquartile mean hides failed runs by design, and they count here",
    ),
    "profile": EstimandFacts(
        "share of runs", "higher", "runs that reach each threshold; a failed run reaches none", "failures on display",
        "a performance profile is a curve, not a number",
    ),
    "hypervolume": EstimandFacts(
        "product of the objectives' units", "higher", "between the set and a fixed reference point",
        "comparing sets of equally many operating points",
        "it compares two sets of equally many operating points, and a method has one configuration per cell in the "
        "final phase; more points and more noise both raise it",
    ),
    "hypervolume_ratio": EstimandFacts(
        "ratio", "higher", "hypervolume of one set over that of another of equal size", "comparing two sets",
        "it inherits what is wrong with its two hypervolumes, which noise and further points raise; claim front_pref "
        "against a sweep",
    ),
    "eps_indicator": EstimandFacts(
        "of the objectives", "lower", "additive: what must be added for one set to dominate another", "within eps of "
        "dominating",
        "it compares two sets of operating points by their worst case, which is mostly noise",
    ),
    "evp": EstimandFacts(
        "of the scores", "higher", "best of k by validation, drawn without replacement (U-form), k <= N / 2",
        "better at a tuning budget of k",
        "the expected validation-selected test performance needs a test reading of every tuning run, and those stay "
        "locked; on validation, one draw of configurations is shared by all seeds, which are then no sample of what "
        "tuning would give; the report draws the curve",
    ),
}  # fmt: skip
