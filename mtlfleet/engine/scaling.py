"""One loss scale for all task losses of half precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossScale:
    """The factor that keeps half-precision gradients from vanishing. All ranks see the same skips, hence one scale.

    A step that overflowed halves it; ``growth_interval`` good steps in a row double it.
    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018.
    """

    scale: float = 1.0
    dynamic: bool = False
    growth_interval: int = 2000
    good: int = 0

    @classmethod
    def of(cls, given: float | str | None) -> LossScale:
        """None: no scale; a number: fixed; ``"dynamic"``: from 2 ** 16."""
        if given is None:
            return cls()
        if isinstance(given, str):
            if given != "dynamic":
                raise ValueError(f"loss_scale is None, a positive number or 'dynamic'; found {given!r}")
            return cls(2.0**16, dynamic=True)
        if not given > 0:
            raise ValueError(f"loss_scale is None, a positive number or 'dynamic'; found {given!r}")
        return cls(float(given))

    def update(self, overflowed: bool) -> None:
        """After a step: shrink, grow or stay."""
        if not self.dynamic:
            return
        self.good = 0 if overflowed else self.good + 1
        if overflowed:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good >= self.growth_interval:
            self.scale, self.good = min(self.scale * 2, 2.0**24), 0
