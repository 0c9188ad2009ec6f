"""The JSON Schema for editors says what the reader says, as far as shape goes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from mtlfleet.plan.jsonschema import study_json_schema
from mtlfleet.plan.schema import StudyFile

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "jobs" / "studies").glob("*.yaml"))
SMOKE: dict[str, Any] = YAML(typ="safe").load(ROOT / "jobs" / "studies" / "smoke.yaml")
SCHEMA = study_json_schema()


def by_schema(data: Any) -> bool:
    return jsonschema.Draft7Validator(SCHEMA).is_valid(data)


def by_reader(data: Any) -> bool:
    try:
        StudyFile.model_validate_json(json.dumps(data))
    except ValidationError:
        return False
    return True


def test_it_is_a_draft_7_schema_and_the_file_in_docs_is_this_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    shipped = json.loads((ROOT / "docs" / "study.schema.json").read_text(encoding="utf-8"))
    assert shipped == SCHEMA, "mtlfleet schema -o docs/study.schema.json"


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_the_shipped_studies_fit(path: Path) -> None:
    data = YAML(typ="safe").load(path)
    jsonschema.validate(data, SCHEMA)
    assert by_reader(data)


Change = Callable[[dict[str, Any]], object]
REFUSED: dict[str, Change] = {
    "unknown key": lambda d: d.update(methdos={}),
    "no seeds": lambda d: d.pop("seeds"),
    "no methods": lambda d: d.update(methods={}),
    "id": lambda d: d["methods"].update({"Big One": {"use": "sum"}}),
    "study name": lambda d: d.update(study="a_b"),
    "method as text": lambda d: d["methods"].update(x="sum"),
    "method as nothing": lambda d: d["methods"].update(x=None),
    "use as nothing": lambda d: d["methods"].update(x={"use": None}),
    "rate as text": lambda d: d["train"].update(lr="fast"),
    "negative rate": lambda d: d["train"].update(lr=-1),
    "half a step": lambda d: d["train"].update(steps=1.5),
    "optimizer": lambda d: d["train"].update(optimizer="adma"),
    "seed as text": lambda d: d.update(seeds=["1"]),
    "no seed": lambda d: d.update(seeds=[]),
    "seed range without count": lambda d: d.update(seeds={"base": 1}),
    "two distributions": lambda d: d["search"]["space"].update({"train.lr": {"uniform": [0, 1], "choice": [1]}}),
    "no distribution": lambda d: d["search"]["space"].update({"train.lr": {}}),
    "empty choice": lambda d: d["search"]["space"].update({"train.lr": {"choice": []}}),
    "three ends": lambda d: d["search"]["space"].update({"train.lr": {"uniform": [0, 1, 2]}}),
    "no trials per method": lambda d: d["search"].pop("trials_per_method"),
    "no margin": lambda d: d["claims"][0].pop("margin"),
    "zero margin": lambda d: d["claims"][0].update(margin=0),
    "two baselines": lambda d: d["claims"][0].update(baseline={"method": "ls", "best_of": ["ls"]}),
    "no baseline": lambda d: d["claims"][0].update(baseline={}),
    "chosen on test": lambda d: d["claims"][0]["baseline"].update(chosen_on="test"),
    "estimand": lambda d: d["claims"][0].update(estimand={"kind": "delta"}),
    "empty rule": lambda d: d.update(exclude=[{}]),
    "override of nothing": lambda d: d.update(overrides=[{"when": {"dataset": "toy"}, "set": {}}]),
    "no worker": lambda d: d.update(resources={"workers": 0}),
    "schema": lambda d: d.update(schema="mtlfleet/study/9"),
    "boolean number": lambda d: d["train"].update(lr=True),
}
ACCEPTED: dict[str, Change] = {
    "seed list": lambda d: d.update(seeds=[1, 2]),
    "plug-in's method": lambda d: d["methods"].update(x={"use": "tilt"}),
    "preset": lambda d: d["methods"].update(x={"use": "cagrad@nash"}),
    "empty entry": lambda d: d["methods"].update(sum={}),
    "epochs": lambda d: d["train"].update(epochs=0.5, steps=None),
    "grid of steps": lambda d: d["search"]["space"].update(
        {"train.lr": {"grid": {"from": 1e-3, "to": 1e-2, "points": 4}}}
    ),
    "grid as list": lambda d: d["search"]["space"].update({"train.lr": {"grid": [1e-3, 1e-2]}}),
    "one baseline": lambda d: d["claims"][0].update(baseline={"method": "ls"}),
    "no claims": lambda d: d.pop("claims"),
    "waived": lambda d: d["claims"][0].update(parity="waived", parity_reason="because"),
    "sharing": lambda d: d.update(resources={"gpus_per_worker": 0.25, "max_concurrent": None}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(name: str) -> None:
    data = copy.deepcopy(SMOKE)
    REFUSED[name](data)
    assert (by_schema(data), by_reader(data)) == (False, False)


@pytest.mark.parametrize("name", ACCEPTED)
def test_both_accept(name: str) -> None:
    data = copy.deepcopy(SMOKE)
    ACCEPTED[name](data)
    assert (by_schema(data), by_reader(data)) == (True, True)
