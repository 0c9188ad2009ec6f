"""The rules as written name what the code does: every field, verdict and guard; written claims are claims."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_args

from mtlfleet.plan.claims import PROTOCOL_VERSION, Claim
from mtlfleet.plan.claimschema import ClaimEntry
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet_analysis.decision import Answer
from mtlfleet_analysis.guards import CHECKED

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "claims.md").read_text()
RULES = (ROOT / "analysis" / "README.md").read_text()


def test_every_field_of_a_claim_is_explained() -> None:
    written = {f.name for f in fields(Claim)} - {"dataset_families"}  # that is read off the entries of the datasets
    assert [name for name in sorted(written) if f"`{name}`" not in GUIDE] == []
    assert "`dataset_family`" in GUIDE
    assert set(ClaimEntry.model_fields) == written


def test_every_verdict_is_explained() -> None:
    assert [a for a in get_args(Answer) if f" {a}" not in GUIDE] == []


def test_the_rules_carry_their_version_and_every_guard() -> None:
    assert f"Protocol version {PROTOCOL_VERSION}." in RULES
    assert [name for name in CHECKED if f"| {name} |" not in RULES] == []


def test_every_estimand_is_explained() -> None:
    assert [kind for kind in ESTIMANDS if f"`{kind}`" not in GUIDE] == []
