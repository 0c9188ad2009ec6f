"""Uniform numbers that belong to coordinates: column i draws the same number whichever rank holds it."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(number: int) -> int:
    """A 64-bit pattern as torch's int64 has it."""
    return number - (1 << 64) if number >= 1 << 63 else number


GOLDEN, FIRST, SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x ^ (x >> bits), the shift unsigned."""
    return x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))


def uniform(key: int, columns: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """[n] float64 inside (0, 1): output i of the SplitMix64 generator seeded with ``key``, for i in ``columns``.

    A counter-based generator (Steele, Lea and Flood, OOPSLA 2014): no state, so any piece can be drawn anywhere.

    >>> whole = uniform(7, torch.arange(10))
    >>> torch.equal(whole[4:7], uniform(7, torch.arange(4, 7)))
    True
    """
    x = columns.to(device, torch.int64) + 1
    x = x * GOLDEN + _signed(key & ((1 << 64) - 1))
    x = _shifted(_shifted(x, 30) * FIRST, 27) * SECOND
    bits = (_shifted(x, 31) >> 11) & ((1 << 53) - 1)
    return (bits.to(torch.float64) + 0.5) * 2.0**-53
