"""What the kill tests run in processes of their own: a writer, an ingester, and ways to break them on purpose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

STEPS = 20
EVERY = 5  # steps between checkpoints


def value(trial: str, step: int) -> float:
    """What the trial measures at a step, whoever runs it."""
    return float(sum(map(ord, trial)) * 1000 + step)


def work(root: Path | str, trial: str, mutant: str) -> None:
    from mtlfleet.store import AttemptWriter, new_checkpoint, restorable
    from mtlfleet.store.failpoints import failpoint

    found = restorable(root, "kills", trial)
    start = found.step if found else 0
    writer = AttemptWriter.claim(
        root, "kills", trial, restored_step=start, restored_checkpoint=found.key if found else None, world_size=1
    )
    for step in range(start + 1, STEPS + 1):
        writer.metric(step, step / STEPS, "train", "a", "loss", value(trial, step))
        writer.step_metric(step, "a", "loss", value(trial, step))
        failpoint("mid-step")
        if step % 3 == 0:
            writer.flush()
        if step % EVERY == 0 and step < STEPS:
            if mutant != "checkpoint-before-flush":
                writer.flush()
                failpoint("flushed-before-checkpoint")
            with new_checkpoint(root, "kills", trial, step, writer.attempt) as folder:
                (folder / "state").write_text(str(step))
            writer.flush()
    writer.close("done", last_step=STEPS)


def ingest(root: Path | str, mutant: str) -> None:
    from mtlfleet.store import Ingester

    spoil(mutant)
    with Ingester(root) as ingester:
        for _ in range(2):
            ingester.run_once()
            ingester.publish()


def spoil(mutant: str) -> None:
    """Break the store in this process, in one of the ways that the tests must notice."""
    from mtlfleet.store import ingest as module
    from mtlfleet.store import session, workfile

    if mutant == "ledger-in-its-own-transaction":
        load = module.load_segments

        def load_and_commit(con: Any, *args: Any) -> None:
            load(con, *args)
            con.commit()
            con.begin()

        module.load_segments = load_and_commit  # type: ignore[assignment]
    if mutant == "no-attempt-window":
        create = session.create_views

        def create_without_window(con: Any) -> None:
            create(con)
            con.execute("CREATE OR REPLACE VIEW metrics AS SELECT * FROM metrics_all")

        workfile.create_views = create_without_window
        session.create_views = create_without_window


class NoPandas:
    """Arrow imports pandas where it is installed: half a second in each of fifty processes, for nothing."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoPandas())  # type: ignore[arg-type]
    role, folder, name, broken = sys.argv[1:]
    if role == "work":
        work(folder, name, broken)
    else:
        ingest(folder, broken)
