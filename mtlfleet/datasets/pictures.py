"""Picture files as arrays of bytes, through Pillow (``pip install mtlfleet[vision]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.errors import EnvironmentProblem


def pillow() -> Any:
    """The module PIL.Image. Raises EnvironmentProblem where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise EnvironmentProblem("reading pictures needs Pillow", help="pip install 'mtlfleet[vision]'") from None
    return Image


def picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [3, H, W] of a JPEG, PNG or PPM file, resized (bilinear) to ``size`` (H, W).

    Raises EnvironmentProblem for a file that is missing or no picture.
    """
    image = pillow()
    try:
        with image.open(path) as opened:
            shown = opened.convert("RGB")
            if size is not None and shown.size != size[::-1]:
                shown = shown.resize(size[::-1], image.Resampling.BILINEAR)
            return np.ascontiguousarray(np.asarray(shown, np.uint8).transpose(2, 0, 1))
    except OSError as error:
        raise EnvironmentProblem(f"{path} is no picture that can be read: {error}") from None


def raw(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """[H, W] numbers of a picture of one channel, of 8 or 16 bits, resized by nearest pixels: labels, disparities."""
    image = pillow()
    try:
        with image.open(path) as opened:
            if size is not None and opened.size != size[::-1]:
                opened = opened.resize(size[::-1], image.Resampling.NEAREST)
            found = np.asarray(opened)
    except OSError as error:
        raise EnvironmentProblem(f"{path} is no picture that can be read: {error}") from None
    return found if found.ndim == 2 else found[..., 0]


def finding(path: Path) -> str | None:
    """What is wrong with a picture file, by its size and its first bytes."""
    if not path.is_file():
        return f"{path}: missing"
    with path.open("rb") as file:
        start = file.read(8)
    known = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"P6", b"P5")
    return None if start.startswith(known) else f"{path}: no JPEG, PNG or PPM (starts with {start!r})"
