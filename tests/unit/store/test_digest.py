"""Equal results, equal digest; any other result, another digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from mtlfleet.store import AttemptWriter, Ingester, Store, digest, write_document
from mtlfleet.store.result_digest import digest as digest_from


def test_the_source_of_the_rows_does_not_matter(make_study: Callable[..., Path]) -> None:
    root = make_study(spoil={"ls0": ("a", "accuracy")})
    store = Store(root)
    live = digest(store, "s")
    with Ingester(root) as ingester:
        ingester.run_once()
    assert digest(store, "s") == live == digest_from(store, "s", use_snapshot=False)
    assert live == digest(Store(make_study("again", spoil={"ls0": ("a", "accuracy")})), "s")


def test_interruptions_hosts_and_flushes_do_not_matter(small: ModuleType, tmp_path: Path) -> None:
    rows = small.trial_rows(("ls",), seeds=1)
    for name, interrupted in (("once", False), ("twice", True)):
        root = tmp_path / name
        small.write_documents(root, rows)
        writer = AttemptWriter.claim(root, "s", "ls0", restored_step=0, restored_checkpoint=None, world_size=1)
        for step in range(1, 11):
            if interrupted and step == 8:
                writer.flush()
                writer.abandon()
                writer = AttemptWriter.claim(
                    root, "s", "ls0", restored_step=5, restored_checkpoint=None, world_size=1, facts={"node": "other"}
                )
                for again in (6, 7):
                    writer.step_metric(again, "a", "loss", 1 / again)
            writer.step_metric(step, "a", "loss", 1 / step)
        writer.event(10, "info", "note", name)
        writer.close("done", name, 10, 1.0, 1.0)
    assert digest(Store(tmp_path / "once"), "s") == digest(Store(tmp_path / "twice"), "s")


def test_every_result_matters(make_study: Callable[..., Path], small: ModuleType, tmp_path: Path) -> None:
    seen = {digest(Store(make_study("a")), "s"), digest(Store(make_study("b", spoil={"ls0": ("a", "error")})), "s")}
    seen.add(digest(Store(make_study("c", skip=("ls1",))), "s"))
    root = make_study("d")
    write_document(root, "s", "trials", small.trial_rows(("ls",)))  # fewer trials asked for
    seen.add(digest(Store(root), "s"))
    root = tmp_path / "e"
    small.write_documents(root, small.trial_rows())
    for row in small.trial_rows():
        small.write_trial(root, row, state="diverged" if row["trial_id"] == "ls0" else "done")
    seen.add(digest(Store(root), "s"))
    assert len(seen) == 5
