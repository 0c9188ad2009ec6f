"""Write a store of today's version, to be kept: python tests/data/make_golden_store.py NAME

Run once when the schema version or the form of the files changes, by the version that introduces it; never again for a
name that is there. `tests/unit/store/test_golden_stores.py` opens every one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from mtlfleet.store import AttemptWriter, Ingester, Store, digest

HERE = Path(__file__).parent
CONFTEST = HERE.parent / "unit" / "store" / "conftest.py"


def main(name: str) -> None:
    spec = importlib.util.spec_from_file_location("small", CONFTEST)
    assert spec is not None and spec.loader is not None
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        rows = small.trial_rows()
        small.write_documents(root, rows)
        for row in rows:
            small.write_trial(root, row)
        with Ingester(root) as ingester:
            ingester.run_once()
            ingester.publish()
        pending = AttemptWriter.claim(
            root, "s", rows[0]["trial_id"], restored_step=5, restored_checkpoint=None, world_size=1
        )
        pending.step_metric(6, "a", "loss", 0.25)  # after the publication, and a window that cuts
        pending.flush()
        pending.abandon()
        board = Store(root).rows("SELECT * FROM leaderboard ORDER BY ALL")
        told = {
            "digest": digest(Store(root), "s"),
            "leaderboard": [{k: str(v) for k, v in row.items()} for row in board],
        }
        for leftover in root.glob(".*"):
            leftover.unlink()
        with tarfile.open(HERE / f"{name}.tar.gz", "w:gz") as tar:
            tar.add(root, arcname="store")
    (HERE / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
