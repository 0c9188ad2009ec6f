"""The small types that every part of a study file is made of."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Lt, MaxLen, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, StringConstraints
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError


def _refuse(_: Any) -> None:
    raise PydanticCustomError("none_required", "leave the key out instead")


Absent = Annotated[SkipJsonSchema[None], BeforeValidator(_refuse)]  # may be left out, may not be written as null

ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Text = Annotated[str, MaxLen(2000)]
Params = dict[str, JsonValue]
Pair = Annotated[list[float], MinLen(2), MaxLen(2)]


class Shape(BaseModel):
    """Every part of a study: unknown keys are errors, and ``3`` is not ``"3"``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)
