"""``python -m mtlfleet.cli``: the same as the ``mtlfleet`` command."""

from __future__ import annotations

from mtlfleet.cli import main

main()
