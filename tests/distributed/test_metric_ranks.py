"""A split has the same metrics whether one rank or three measure it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parent))
import metric_ranks
from crew import crew


def test_the_number_of_ranks_does_not_show() -> None:
    alone = metric_ranks.measure(0, 1)
    data = metric_ranks.samples()
    assert alone["sign.auc"] == pytest.approx(roc_auc_score(data.targets["sign"], (data.inputs[:, 0] * 2).round()))
    for found in crew(3, metric_ranks.measure):  # unequal parts
        assert found == pytest.approx(alone, rel=1e-12)
        assert found["sign.auc"] == alone["sign.auc"] and found["kind.macro_f1"] == alone["kind.macro_f1"]
