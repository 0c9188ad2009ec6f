"""Settings for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# A shared machine is slow at times: no example fails for the time it took.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")
