"""The contracts that every method keeps, shipped so that a plug-in can be held to them.

In a test file of your own::

    import pytest
    from mtlfleet.registry import Catalogue
    from mtlfleet.testing import method_checks

    @pytest.mark.parametrize("check", method_checks("tilt", Catalogue(plugins=("./tilt.py",))), ids=str)
    def test_tilt(check):
        check()

Some checks run for every method; the others are named under ``Properties`` in the method's docstring, and naming one
runs it. A check raises AssertionError with what it saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mtlfleet import docstrings
from mtlfleet.docstrings import HEADINGS
from mtlfleet.registry import Catalogue
from mtlfleet.testing.cases import AnyMethod, Case, case
from mtlfleet.testing.contracts import ALWAYS, DECLARED

__all__ = ["ALWAYS", "DECLARED", "HEADINGS", "Case", "Check", "case", "method_checks", "properties", "sections"]


def sections(cls: type) -> dict[str, str]:
    """The fixed headings of a method's docstring with their text, unwrapped."""
    return docstrings.sections(cls.__doc__ or "")


def properties(cls: type) -> tuple[str, ...]:
    """The contract tests that a method's docstring declares under ``Properties``.

    >>> from mtlfleet.methods.gram.upgrad import UPGrad
    >>> properties(UPGrad)
    ('permutation', 'common_scaling', 'non_conflict', 'keeps_agreement')
    """
    words = re.split(r"[,\s]+", sections(cls).get("Properties", "").rstrip("."))
    return tuple(word for word in words if word and word != "none")


@dataclass(frozen=True)
class Check:
    """One contract of one method; call it to test."""

    name: str
    contract: Callable[[AnyMethod], None]
    method: AnyMethod

    def __call__(self) -> None:
        self.contract(self.method)

    def __str__(self) -> str:
        return f"{self.name}-{self.contract.__name__}"


def method_checks(name: str, catalogue: Catalogue | None = None) -> tuple[Check, ...]:
    """All contracts of the method ``name``, or of ``name@preset`` (which may lose declared properties: none is run).

    Raises UnknownName for an unknown method, ValueError for a declared property that is no contract.
    """
    catalogue = catalogue or Catalogue()
    built: AnyMethod = catalogue.load("method", name)(**catalogue.parameters("method", name, {}))
    declared = () if "@" in name else properties(type(built))
    unknown = sorted(set(declared) - set(DECLARED))
    if unknown:
        raise ValueError(f"{name}: no contract is called {', '.join(unknown)}; known: {', '.join(DECLARED)}")
    return tuple(Check(name, contract, built) for contract in (*ALWAYS, *(DECLARED[p] for p in declared)))
