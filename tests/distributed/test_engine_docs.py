"""The program in docs/engine.md, as a reader would start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_documented_loop_runs_under_torchrun_and_ranks_agree(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engine.md").read_text(), re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # unbuffered ranks write a line and its end apart: two lines may share one
    told = re.findall(r"rank (\d) weights (\S+) by ([\w ]+): \[([^]]*)\]", done.stdout)
    assert sorted(rank for rank, *_ in told) == ["0", "1"]
    assert told[0][1:] == told[1][1:]
    assert told[0][2] == "heads first"
