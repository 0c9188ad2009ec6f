"""How fast a rank is fed from folders in MTAN's layout, beside numpy alone reading the same files and beside what a
SegNet trains in that time; and what memory it takes.

    python benchmarks/data.py [--images 64] [--height 288] [--width 384] [--batch 2] [--epochs 3] [--root DIR]
                              [--channels 64] [--train-steps 1]

Writes a folder of NYUv2's layout and size per image, prepares it, and reads it in the trainer's order: batches of
samples as tensors. Numbers are CPU seconds of this process, both ways in turn, and their ratio; memory is the peak of
numpy's and torch's allocations as Python's tracemalloc sees the former, per epoch: it must not grow.

The trainer is the least that any method does: one backward of the summed losses and an Adam step, hard sharing on the
recipe's SegNet (depth 5, ``--channels`` 64). A rank loads in its own process, between steps: it counts as fed when
loading is at least ``FED`` times as fast, so that at most a ninth of what a step costs is added to it.
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
import torch

from mtlfleet import registry
from mtlfleet.architectures.base import Context
from mtlfleet.datasets.base import Dataset, Split
from mtlfleet.datasets.mtan import FolderSamples
from mtlfleet.train.feed import Feed

KINDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
TASKS = ("segmentation", "depth", "normals")
FED = 9.0


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


def training(data: Dataset, feed: Feed, channels: int, steps: int) -> float:
    """CPU seconds of ``steps`` training steps, without those of loading their batches."""
    facts = data.facts()
    torch.manual_seed(0)
    recipe = {"backbone": "segnet", "width": channels, "depth": 5, "head_hidden": channels}
    model = registry.build("architecture", "hps", **recipe).build(facts.tasks, facts.input_shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batches = [feed.at(step).batch for step in range(steps)]

    def step() -> int:
        for batch in batches:
            output = model(batch, Context())
            optimizer.zero_grad()
            losses = [data.loss(task, output.predictions[task.name], batch) for task in facts.tasks]
            torch.stack(losses).sum().backward()
            optimizer.step()
        return steps

    return seconds(step)


def seconds(work: Callable[[], int]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


NUMBERS = (
    ("images", 64), ("height", 288), ("width", 384), ("batch", 2), ("epochs", 3), ("channels", 64), ("train-steps", 1),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--root", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
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
        trained = given.batch * given.train_steps / training(data, feed, given.channels, given.train_steps)
        print(
            f"fed: {'yes' if rate >= FED * trained else 'no'} (samples per CPU second: loading {rate:.1f}, training "
            f"{trained:.3f}: loader / trainer {rate / trained:.0f})"
        )
        sample = sum(max(1, c) for c in KINDS.values()) * given.height * given.width * 4 / 2**20
        flat = "flat" if max(peaks) <= 1.05 * peaks[0] else "growing"
        each = ", ".join(f"{p / 2**20:.1f}" for p in peaks)
        print(f"peak MiB by epoch: {each}: {flat} (a sample on disk is {sample:.1f})")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
