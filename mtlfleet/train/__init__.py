"""A trial's body: begin, advance, pause. Knows ranks and a store writer, not who scheduled it."""

from __future__ import annotations

from mtlfleet.train.build import Site
from mtlfleet.train.communicator import Communicator
from mtlfleet.train.models import load_model
from mtlfleet.train.progress import Progress
from mtlfleet.train.run import TrialRun, run_trial

__all__ = ["Communicator", "Progress", "Site", "TrialRun", "load_model", "run_trial"]
