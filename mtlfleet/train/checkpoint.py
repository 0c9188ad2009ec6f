"""A checkpoint: everything a trial needs to go on as if nothing had happened, in a folder.

``model.safetensors`` and ``best.safetensors`` hold weights; ``state.pt`` holds optimizer, method, position and every
rank's random state, and is read with ``weights_only``: loading a checkpoint runs no code from it. ``sha256.json`` tells
whether each file still is what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtlfleet.plan.place import Root
from mtlfleet.store import open_checkpoint, restorables

log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]
Loaded = tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any]]  # model, best or None, the rest

MANIFEST = "sha256.json"  # of every other file: a flipped bit in weights would train on without a word

UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class Saved:
    """What a written checkpoint is known by."""

    size_bytes: int
    sha256: str


def random_state() -> Tensor:
    """This rank's torch, numpy and Python generators as one uint8 vector."""
    legacy = np.random.get_state(legacy=False)["state"]
    key, position = np.asarray(legacy["key"]), int(legacy["pos"])
    version_state = random.getstate()[1]
    parts = [
        torch.get_rng_state(),
        torch.from_numpy(np.append(key.astype(np.int64), position)).view(torch.uint8),
        torch.tensor(version_state, dtype=torch.int64).view(torch.uint8),
    ]
    return torch.cat(parts)


def set_random_state(packed: Tensor) -> None:
    """Inverse of ``random_state``."""
    torch_size = torch.get_rng_state().numel()
    numpy_size = 625 * 8
    torch.set_rng_state(packed[:torch_size].clone())
    numbers = packed[torch_size : torch_size + numpy_size].clone().view(torch.int64).numpy()
    np.random.set_state(("MT19937", numbers[:624].astype(np.uint32), int(numbers[624]), 0, 0.0))
    python = packed[torch_size + numpy_size :].clone().view(torch.int64).tolist()
    random.setstate((3, tuple(python), None))


def save(folder: Path, model: Weights, best: Weights | None, state: Mapping[str, Any]) -> Saved:
    """Write every file into an empty folder, the manifest last. What makes the folder a checkpoint is
    ``store.new_checkpoint``: a reader finds a whole one or none."""
    save_file(plain(model), folder / "model.safetensors")
    if best is not None:
        save_file(plain(best), folder / "best.safetensors")
    torch.save(dict(state), folder / "state.pt")
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    manifest = json.dumps(sums, sort_keys=True)
    (folder / MANIFEST).write_text(manifest)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Saved(size, hashlib.sha256(manifest.encode()).hexdigest())


def load(path: Path) -> Loaded:
    """(model weights, best weights or None, state). Raises one of UNREADABLE for anything but what was written."""
    for name, told in json.loads((path / MANIFEST).read_text()).items():
        if _sha256(path / name) != told:
            raise ValueError(f"{name} is not what was written: its SHA-256 is not the one in {MANIFEST}")
    best = path / "best.safetensors"
    state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
    return load_file(path / "model.safetensors"), load_file(best) if best.exists() else None, state


def plain(weights: Weights) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest(root: Root, study: str, trial: str) -> tuple[str, Loaded] | None:
    """The newest checkpoint that counts and can be read whole; a damaged one costs work, not the trial."""
    for found in restorables(root, study, trial):
        try:
            return found.key, read(root, found.key)
        except UNREADABLE as error:
            log.warning("checkpoint %s cannot be read and is passed over: %s", found.key, error)
    return None


def read(root: Root, key: str) -> Loaded:
    """``load`` of the checkpoint with a key in the store."""
    with open_checkpoint(root, key) as folder:
        return load(folder)
