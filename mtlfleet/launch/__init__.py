"""Ray Tune schedules a study's cells; warm gangs train them. Only this package knows Ray."""

from __future__ import annotations
