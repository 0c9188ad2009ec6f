"""How fast a rank is fed from folders in MTAN's layout, beside numpy alone reading the same files; and what memory it
takes.

    python benchmarks/data.py [--images 64] [--height 288] [--width 384] [--batch 2] [--epochs 3] [--root DIR]

Writes a folder of NYUv2's layout and size per image, prepares it, and reads it in the trainer's order: batches of
samples as tensors. Numbers are CPU seconds of this process, both ways in turn, and their ratio; memory is the peak of
numpy's and torch's allocations as Python's tracemalloc sees the former, per epoch: it must not grow.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mtlfleet import registry
from mtlfleet.datasets.base import Split
from mtlfleet.datasets.mtan import FolderSamples
from mtlfleet.train.feed import Feed

KINDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
TASKS = ("segmentation", "depth", "normals")


def write(root: Path, images: int, height: int, width: int) -> None:
    rng = np.random.RandomState(0)
    for part, count in (("train", images), ("val", 2)):
        for kind, channels in KINDS.items():
            folder = root / part / kind
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (height, width, channels) if channels else (height, width)
                array = rng.rand(*shape).astype(np.float32) if channels else rng.randint(-1, 13, shape)
                np.save(folder / f"{i}.npy", array.astype(np.float32))


def numpy_alone(samples: FolderSamples, order: np.ndarray) -> int:
    """Every file of every sample, read and dropped: the least that any loader must do."""
    seen = 0
    for i in samples.numbers[order]:
        for kind in samples.data.folders():
            seen += np.load(samples.data.file(samples.part, kind, int(i))).shape[0]
    return seen


def fed(feed: Feed, steps: int, first: int) -> int:
    seen = 0
    for step in range(first, first + steps):
        seen += len(feed.at(step).batch)
    return seen


def seconds(work: Callable[[], int]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("images", 64), ("height", 288), ("width", 384), ("batch", 2), ("epochs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--root", type=Path)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=given.root))
    try:
        write(root, given.images, given.height, given.width)
        data = registry.build("dataset", "nyuv2", root=str(root))
        start = time.process_time()
        data.prepare()
        print(f"prepare: {time.process_time() - start:.2f} CPU s for {given.images} images")
        samples = data.split(Split.TRAIN)
        feed = Feed(samples, TASKS, given.batch, seed=0, rank=0, world=1)
        order = np.arange(len(samples))
        ours, theirs, peaks = [], [], []
        numpy_alone(samples, order)  # warm the page cache for both
        for epoch in range(given.epochs):
            theirs.append(seconds(lambda: numpy_alone(samples, order)))
            ours.append(seconds(lambda e=epoch: fed(feed, feed.steps_per_epoch, e * feed.steps_per_epoch)))
            gc.collect()
            tracemalloc.start()
            fed(feed, feed.steps_per_epoch, 0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        rate, bare = len(samples) / min(ours), len(samples) / min(theirs)
        print(f"samples per CPU second: {rate:.1f} in batches, {bare:.1f} by numpy alone: {rate / bare:.2f} of it")
        sample = sum(max(1, c) for c in KINDS.values()) * given.height * given.width * 4 / 2**20
        print(f"peak MiB by epoch: {', '.join(f'{p / 2**20:.1f}' for p in peaks)} (a sample on disk is {sample:.1f})")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
