"""The methods that a study can use."""

from __future__ import annotations

from mtlfleet.cli.catalogue import group

command = group("method")
