"""Published numbers, reproduced within the tolerance that each fixture states with its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtlfleet_analysis import (
    benjamini_hochberg,
    corrected_t_test,
    delta_m,
    friedman_test,
    hypervolume,
    mean_rank,
    nemenyi_critical_difference,
    quade_test,
    sign_flip_test,
    tost,
    wilcoxon_signed_rank,
)
from mtlfleet_analysis.intervals import pairs_needed, stratified_mean
from mtlfleet_analysis.multiplicity import holm
from mtlfleet_analysis.ranks import nemenyi_quantile

DATA = Path(__file__).parents[3] / "data"
FIXTURES = {f["id"]: f for f in json.loads((DATA / "statistics.json").read_text())["fixtures"]}
NYU = json.loads((DATA / "published_nyuv2.json").read_text())["tables"][0]


def fixture(name: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
    found = FIXTURES[name]
    return found["data"], found["published"], found["tolerance"]


def test_every_fixture_has_a_test_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in FIXTURES if f'fixture("{name}")' not in source] == []


def test_demsar_wilcoxon() -> None:
    data, published, tolerance = fixture("demsar2006-wilcoxon")
    differences = np.array(data["C45m"]) - np.array(data["C45"])
    found = wilcoxon_signed_rank(differences.round(6))
    assert found.rank_plus == pytest.approx(published["R_plus"], abs=tolerance)
    assert found.rank_minus == pytest.approx(published["R_minus"], abs=tolerance)
    assert found.statistic == published["T"] <= published["critical_T_N14_05"]
    assert (found.p_value < 0.05) is published["reject_05"]
    assert found.p_value == pytest.approx(FIXTURES["demsar2006-wilcoxon"]["recomputed"]["scipy_p"], abs=1e-9)


def test_demsar_friedman_from_the_papers_ranks() -> None:
    data, published, tolerances = fixture("demsar2006-friedman")
    tolerance = tolerances["*"]
    found = friedman_test(data["ranks_used"], higher_is_better=False)
    assert found.mean_ranks == pytest.approx(published["mean_ranks"], abs=tolerance)
    assert found.statistic == pytest.approx(published["chi2"], abs=tolerance)
    assert found.iman_davenport.statistic == pytest.approx(published["F_F"], abs=tolerance)
    assert stats.f.isf(0.05, 3, 39) == pytest.approx(published["F_crit_3_39"], abs=tolerance)
    assert found.iman_davenport.p_value < 0.05
    assert nemenyi_critical_difference(4, 14, 0.05) == pytest.approx(published["CD05"], abs=tolerance)
    assert nemenyi_critical_difference(4, 14, 0.10) == pytest.approx(published["CD10"], abs=tolerance)
    se = np.sqrt(4 * 5 / (6 * 14))
    z = (found.mean_ranks[0] - np.array(found.mean_ranks)[[3, 1, 2]]) / se
    assert z == pytest.approx(published["z"], abs=tolerance)
    p = 2 * stats.norm.sf(z)
    assert p == pytest.approx(published["p"], abs=tolerance)
    assert (holm(p) <= 0.05).tolist() == [True, True, False]


def test_demsar_friedman_from_the_printed_table() -> None:
    data, _, _tolerances = fixture("demsar2006-friedman")
    recomputed = FIXTURES["demsar2006-friedman"]["recomputed"]
    found = friedman_test(data["AUC"])
    assert found.mean_ranks == pytest.approx(recomputed["mean_ranks_from_rounded_table"], abs=1e-9)
    assert found.statistic == pytest.approx(recomputed["chi2_from_rounded_table"], abs=1e-9)
    corrected = friedman_test(data["AUC"], tie_correction=True)
    assert corrected.statistic == pytest.approx(recomputed["scipy_tie_corrected_chi2"], abs=1e-9)
    assert corrected.p_value == pytest.approx(recomputed["scipy_p"], abs=1e-9)


def test_demsar_nemenyi_quantiles() -> None:
    data, published, tolerance = fixture("demsar2006-nemenyi-critical")
    for alpha, key in ((0.05, "q05"), (0.10, "q10")):
        assert [nemenyi_quantile(k, alpha) for k in data["k"]] == pytest.approx(published[key], abs=tolerance)


def test_darwins_maize() -> None:
    data, published, tolerance = fixture("fisher1935-darwin-maize")
    found = sign_flip_test(data["differences"])
    assert found.p_value * published["total"] == published["extreme_two_sided"]
    assert found.p_value == pytest.approx(published["p"], abs=tolerance["p"])
    t = corrected_t_test(data["differences"], 0.0)
    assert t.statistic == pytest.approx(published["t"], abs=tolerance["t"])


def test_students_sleep() -> None:
    data, published, tolerance = fixture("student-sleep")
    differences = np.array(data["g1"]) - np.array(data["g2"])
    found = corrected_t_test(differences, 0.0)
    assert found.statistic == pytest.approx(published["t"], abs=tolerance["t"])
    assert found.p_value == pytest.approx(published["p"], abs=tolerance["p"])
    interval = stratified_mean(differences, ["only"] * 10).interval(0.95)
    assert interval == pytest.approx(published["ci"], abs=tolerance["ci"])


def test_benjamini_and_hochbergs_fifteen() -> None:
    data, published, _ = fixture("bh1995")
    assert int(np.sum(benjamini_hochberg(data["p"]) <= 0.05)) == published["bh"]
    assert int(np.sum(holm(data["p"]) <= 0.05)) == published["bonferroni"]


def test_paired_equivalence() -> None:
    data, published, tolerance = fixture("pingouin-tost-paired")
    found = tost(np.subtract(data["a"], data["b"]), data["bound"])
    assert found.p_value == pytest.approx(published["p"], abs=tolerance)


def test_cohens_sample_sizes() -> None:
    data, published, _ = fixture("power-paired-t")
    assert [pairs_needed(d) for d in data["d"]] == published["n"]


def test_hypervolume_of_four_points() -> None:
    data, published, tolerance = fixture("moocore-hypervolume")
    assert hypervolume(data["points"], data["ref"]) == pytest.approx(published["hv"], abs=tolerance)
    mirrored = hypervolume(-np.array(data["points"]), [-r for r in data["ref"]], higher_is_better=True)
    assert mirrored == pytest.approx(published["hv"], abs=tolerance)


def test_nash_mtls_table_both_averages() -> None:
    data, published, tolerance = fixture("nashmtl-nyuv2-delta-m")
    recomputed = FIXTURES["nashmtl-nyuv2-delta-m"]["recomputed"]
    up = [bool(h) for h in data["higher_better"]]
    flat = [delta_m(data["rows"][m], data["STL"], up) for m in recomputed["methods"]]
    assert flat == pytest.approx(published["delta_m"], abs=tolerance)
    tasks = ["segmentation"] * 2 + ["depth"] * 2 + ["normal"] * 5
    for method, value in recomputed["task_averaged_delta_higher_better"].items():
        assert delta_m(data["rows"][method], data["STL"], up, "per_task", tasks) == pytest.approx(value, abs=1e-9)
    ranks = mean_rank(list(data["rows"].values()), up)
    assert ranks.tolist() == pytest.approx(recomputed["mean_rank_recomputed"], abs=1e-9)


@pytest.mark.parametrize("method", sorted(NYU["published_delta_m"]))
def test_published_nyuv2_delta_m(method: str) -> None:
    up = [m["higher_is_better"] for m in NYU["metrics"]]
    found = delta_m(NYU["rows"][method], NYU["baseline_values_used"], up)
    verified = NYU["verification"][method]
    matches = abs(found - NYU["published_delta_m"][method]) <= verified["rounding_bound"]
    assert matches is (verified["delta_m_status"] == "match"), (found, NYU["published_delta_m"][method])
    assert found == pytest.approx(verified["delta_m_recomputed"], abs=5e-4)


@pytest.mark.parametrize("ties", ["average", "min", "max", "dense"])
def test_published_nyuv2_mean_ranks(ties: Any) -> None:
    up = [m["higher_is_better"] for m in NYU["metrics"]]
    methods = [m for m in NYU["rows"] if m != NYU["baseline_row"]]
    found = mean_rank([NYU["rows"][m] for m in methods], up, ties)
    expected = [NYU["verification"][m]["mean_rank_recomputed"][ties] for m in methods]
    assert found.round(2).tolist() == pytest.approx(expected, abs=0.0051)


def test_conovers_quade_example() -> None:
    """Conover 1999, p. 375, as in R's ?quade.test: F = 3.8293, df 4 and 24, p = 0.01519."""
    sales = [
        [5, 4, 7, 10, 12],
        [1, 3, 1, 0, 2],
        [16, 12, 22, 22, 35],
        [5, 4, 3, 5, 4],
        [10, 9, 7, 13, 10],
        [19, 18, 28, 37, 58],
        [10, 7, 6, 8, 7],
    ]
    found = quade_test(sales)
    assert found.statistic == pytest.approx(3.8293, abs=5e-5)
    assert found.p_value == pytest.approx(0.01519, abs=5e-6)
