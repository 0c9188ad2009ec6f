"""``python -m mtlfleet.train TRIAL.json ROOT STUDY``, alone or under torchrun: one trial without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

from mtlfleet.plan.trial import Trial
from mtlfleet.train import Communicator, Site, run_trial
from mtlfleet.train.environment import Origin


def main(arguments: list[str]) -> int:
    """Exit code 0 when the trial is done, 1 when it diverged, 2 for a wrong call."""
    if len(arguments) != 3:
        sys.stderr.write("usage: python -m mtlfleet.train TRIAL.json ROOT STUDY\n")
        return 2
    trial = Trial.from_json(Path(arguments[0]).read_text())
    site = Site(root=Path(arguments[1]).resolve(), study=arguments[2], base=Path.cwd(), origin=Origin.here(Path.cwd()))
    progress = run_trial(trial, site, Communicator.from_environment())
    Communicator.leave()
    return 0 if progress.state == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
