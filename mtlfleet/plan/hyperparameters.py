"""Hyper-parameters checked by name and type from the catalogue's text: nothing of a plug-in is run."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Mapping
from functools import cache, reduce
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

_NAMES: Mapping[str, Any] = {
    "float": float, "int": int, "bool": bool, "str": str, "tuple": tuple, "None": None,
    "Literal": Literal, "Annotated": Annotated, "Ge": Ge, "Gt": Gt, "Le": Le, "Lt": Lt, "Any": Any,
}  # fmt: skip

EXPECTED: Mapping[str, str] = {
    "float_type": "a number", "float_parsing": "a number", "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number", "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "a map", "model_type": "a map",
    "model_attributes_type": "a map", "none_required": "null", "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries", "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}", "less_than_equal": "at most {le}", "literal_error": "{expected}",
    "string_too_short": "text, not nothing", "string_too_long": "at most {max_length} characters",
}  # fmt: skip


class _ForeignError(Exception):
    """An annotation outside the small language; such a parameter accepts any value."""


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item) for item in items)
        case ast.Subscript(value=base, slice=inner):
            return _evaluate(base)[_evaluate(inner)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return reduce(operator.or_, (_evaluate(left), _evaluate(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in ("Ge", "Gt", "Le", "Lt"):
            return _NAMES[name](*(_evaluate(a) for a in args))
    raise _ForeignError(ast.dump(node))


@cache
def adapter(annotation: str) -> TypeAdapter[Any]:
    """The checker for an annotation's source text; text outside the small language gives one that accepts anything."""
    try:
        kind = _evaluate(ast.parse(annotation, mode="eval").body)
        return TypeAdapter(kind, config=ConfigDict(strict=True))
    except (_ForeignError, SyntaxError, TypeError, PydanticSchemaGenerationError):
        return TypeAdapter(Any)


def coerce_with(kind: TypeAdapter[Any], value: Any) -> Any:
    """``value`` as the type says: ``1`` for a float is ``1.0``, a list for a tuple is a tuple; else ValidationError."""
    return kind.validate_json(json.dumps(value), strict=True)


def expectation(error: ErrorDetails) -> str:
    """What a pydantic error asked for, in a few words."""
    template = EXPECTED.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    return template.format_map({"min_length": 1, "max_length": 1, **context}).replace("'", "`")


def complaint(kind: TypeAdapter[Any], value: Any) -> str | None:
    """What the type expects where ``value`` does not fit, else None."""
    try:
        coerce_with(kind, value)
    except ValidationError as error:
        wants = [expectation(e) for e in error.errors() if e["type"] != "none_required"]
        return " or ".join(dict.fromkeys(wants)) or "another value"
    return None


def shown(value: Any) -> str:
    """A value for a message, as YAML would write it, cut short."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
