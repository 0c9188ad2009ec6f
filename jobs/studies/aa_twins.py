"""Twins for an A/A study: random loss weighting under several names, each with draws of its own and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtlfleet.methods.base import Decision, Losses, Step, method
from mtlfleet.methods.loss.rlw import RandomLossWeighting
from mtlfleet.plan.streams import stream


@method("twin")
@dataclass(frozen=True, slots=True, kw_only=True)
class Twin(RandomLossWeighting):
    """``rlw`` whose weights come from the stream ``draw``: twins differ in luck, whatever happens to them both.

    Source      Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022.
    Properties  common_scaling
    """

    draw: int = 0

    def weigh(self, losses: Losses, state: None, at: Step) -> Decision:
        own = replace(at, seed=stream(at.seed, f"twin {self.draw}"))
        return RandomLossWeighting.weigh(self, losses, state, own)
