"""SIGKILL at every moment that matters: is a row lost, doubled or of the wrong attempt, and does a reader ever see it?

    python tests/e2e/store_kill_loop.py [--kills 150] [--seed 0] [--s3] [--mutant NAME] [--json]

Six trials are written at a time, an ingester publishes, a second one with a private file of its own joins it now and
then, and this process keeps reading. Every writer and ingester kills itself at a point drawn from those of
`mtlfleet.store.failpoints` and is started again; some writers stop there instead, are given up, and wake up later as
zombies. Half of the ingesters seal the bulk rows of ended trials. With `--s3` the store is a bucket of a moto server,
and the ingesters are machines with copies of their own, which are lost now and then. What ought to be there is worked
out from claim files, checkpoints and an acknowledgement log by plain Python. A `--mutant` breaks one protection; the
loop must then find problems. Exit status: 0 nothing found, 1 problems found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS, EVERY, FLUSH, ROWS = 24, 6, 3, 8  # steps of a trial; steps between checkpoints, flushes; rows a step
STUDY = "kills"
MUTANTS = (
    "ledger-in-its-own-transaction", "checkpoint-before-flush", "no-attempt-window", "ack-before-durable",
    "no-checkpoint-window",
)  # fmt: skip
# point -> how often it may have been passed before; the program's own points are `mid-step` and the one after it
WORKER_POINTS = {
    "before-link": 2, "after-link": 2, "half-written": 6, "before-rename": 6, "after-rename": 6,
    "durable-not-acknowledged": 6, "flushed-not-ended": 1,
    "mid-step": 10, "flushed-before-checkpoint": 2, "half-checkpoint": 2, "after-checkpoint-rename": 2,
}  # fmt: skip
INGESTER_POINTS = {
    "between-rows-and-ledger": 3, "before-commit": 3, "after-commit": 3, "before-checkpoint": 3, "after-checkpoint": 3,
    "half-copied": 3, "before-rename": 3, "after-rename": 3,
    "half-written": 2, "sealed": 2, "half-relieved": 2, "relieved": 2,
}  # fmt: skip
SEALING_POINTS = ("half-written", "sealed", "half-relieved", "relieved")


class NoPandas:
    """Arrow imports pandas where it is installed: half a second for nothing."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoPandas())  # type: ignore[arg-type]


def value(trial: str, step: int, row: int) -> float:
    """What the trial measures, whoever runs it."""
    return float(sum(map(ord, trial)) * 1000 + 10 * step + row)


def work(root: str, acks: str, trial: str, mutant: str, point: str, quick: bool) -> None:
    """One attempt of a trial, from the newest checkpoint that counts to its end."""
    from mtlfleet.store import AttemptWriter, failpoints, new_checkpoint, restorable, writer
    from mtlfleet.store.failpoints import failpoint

    spoil(mutant)
    failpoints.arm(point)
    if quick:
        writer.FLUSH_S = 0.01  # the background thread takes part
    found = restorable(root, STUDY, trial)
    start = found.step if found else 0
    log = AttemptWriter.claim(
        root, STUDY, trial, restored_step=start, restored_checkpoint=found.key if found else None, world_size=1
    )
    told = Path(acks) / f"{trial}-{log.attempt}"
    told.touch()
    for step in range(start + 1, STEPS + 1):
        log.metric(step, step / STEPS, "train", "a", "loss", value(trial, step, 0))
        for row in range(1, ROWS):
            log.step_metric(step, "a", f"loss{row}", value(trial, step, row))
        failpoint("mid-step")
        if step % FLUSH == 0:
            log.flush()
            told.write_text(str(step))
        if step % EVERY == 0 and step < STEPS:
            for row in range(ROWS):
                log.metric(step, 0.0, "val", f"t{row}", "loss", value(trial, step, row))
            if mutant != "checkpoint-before-flush":
                log.flush()
                failpoint("flushed-before-checkpoint")
            with new_checkpoint(root, STUDY, trial, step, log.attempt) as folder:
                (folder / "state").write_text(str(step))
            log.flush()
        time.sleep(0.002)
    log.close("done", last_step=STEPS)


def ingest(root: str, cache: str, mutant: str, point: str, host: str, sealing: bool) -> None:
    """An ingester's life: five rounds, a publication in each."""
    from mtlfleet.store import Ingester, failpoints, sealing

    spoil(mutant)
    failpoints.arm(point)
    sealing.WORTHWHILE = 10**9  # each trial, as soon as it has ended
    os.environ["XDG_CACHE_HOME"] = f"{cache}/{host}"  # where the copies of a bucket lie
    private = Path(root) / f".work-{host}.duckdb" if host and "://" not in root else None
    with Ingester(root, work=private, max_bytes=1 if sealing else None) as ingester:
        for _ in range(5):
            ingester.run_once()
            ingester.publish()
            time.sleep(0.05)


def spoil(mutant: str) -> None:
    """Break the store in this process, in one of the ways that must be noticed."""
    from mtlfleet.store import AttemptWriter, attempts, session, workfile
    from mtlfleet.store import ingest as module

    if mutant == "ledger-in-its-own-transaction":
        load = module.load_segments

        def load_and_commit(con: Any, *args: Any) -> None:
            load(con, *args)
            con.commit()
            con.begin()

        module.load_segments = load_and_commit  # type: ignore[assignment]
    if mutant == "no-attempt-window":
        create = session.create_views

        def create_without_window(con: Any, *folder: str, **asked: Any) -> None:
            create(con, *folder, **asked)
            here = "SELECT view_name FROM duckdb_views() WHERE database_name = current_database()"
            made = {view for (view,) in con.execute(here).fetchall()}
            for table in made & {"metrics", "step_metrics"}:
                con.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM {table}_all")

        workfile.create_views = session.create_views = create_without_window
    if mutant == "ack-before-durable":
        AttemptWriter.flush = lambda self: self._wake.set()  # type: ignore[method-assign]
    if mutant == "no-checkpoint-window":
        attempts.upper_bound = lambda restored, attempt: None


@dataclass
class Trial:
    """One trial and the process that writes it."""

    name: str
    process: Any = None
    point: str = ""
    done: bool = False


@dataclass
class Loop:
    """Everything that runs, and what was seen. ``folder`` is for what is no part of the store."""

    root: str
    folder: Path
    mutant: str
    kills: int
    seed: int
    drawn: random.Random = field(init=False)
    context: Any = field(init=False)
    trials: list[Trial] = field(default_factory=list)
    zombies: list[Any] = field(default_factory=list)
    ingesters: dict[str, tuple[Any, str]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    polls: int = 0
    bad_polls: int = 0
    woken: int = 0

    def __post_init__(self) -> None:
        self.drawn = random.Random(self.seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, "duckdb", "mtlfleet.store.ingest", "mtlfleet.store.session"])
        self.acks.mkdir()

    @property
    def acks(self) -> Path:
        return self.folder / "acks"

    @property
    def over(self) -> bool:
        """Enough kills, a tenth of them of ingesters: on a busy machine those are slow to start and seldom die."""
        ingesters = sum(n for point, n in self.killed.items() if point.startswith("ingester"))
        return self.killed.total() >= self.kills and ingesters >= self.kills // 10

    def note(self, kind: str, what: object) -> None:
        self.problems[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {what}")

    def run(self, *, stop_early: bool) -> None:
        self.trials = [Trial(f"trial{n}") for n in range(6)]
        turn = 0
        while not (self.over and all(t.done for t in self.trials)):
            turn += 1
            for trial in [t for t in self.trials if not t.done]:
                self.turn(trial)
            if not self.over and all(t.done for t in self.trials[-6:]):
                self.trials += [Trial(f"trial{len(self.trials) + n}") for n in range(6)]
            self.fold("", 0.9)
            if turn % 10 == 9:
                self.fold("other-host", 0.5)
            if turn % 5 == 0:
                self.poll()
            time.sleep(0.05)
            if stop_early and self.problems:
                break
        self.finish()

    def start(self, target: Any, *arguments: str | bool) -> Any:
        process = self.context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def draw(self, points: dict[str, int], chance: float) -> str:
        if self.over or self.drawn.random() > chance:
            return ""
        reached = {point.partition(":")[2] for point in self.killed}
        rare = [name for name in sorted(points) if name not in reached and self.drawn.random() < 0.5]
        name = self.drawn.choice(rare or sorted(points))
        return f"{name}:{self.drawn.randint(1, points[name])}"

    def turn(self, trial: Trial) -> None:
        """Start a trial's next attempt, give up a stopped one, count a dead one."""
        if trial.process is None:
            trial.point = self.draw(WORKER_POINTS, 0.95)
            if trial.point and self.drawn.random() < 0.2:
                trial.point += ":stop"
            quick = self.drawn.random() < 0.5 and not trial.point.endswith(":stop")  # a request of its may not hang
            trial.process = self.start(work, self.root, str(self.acks), trial.name, self.mutant, trial.point, quick)
        elif trial.process.exitcode is not None:
            trial.done = self.count("writer", trial.process, trial.point)
            trial.process = None
        elif trial.point.endswith(":stop") and stopped(trial.process.pid):
            self.zombies.append(trial.process)
            trial.process = None
        for zombie in list(self.zombies):
            if self.drawn.random() < 0.1:
                self.wake(zombie)

    def count(self, who: str, process: Any, point: str) -> bool:
        """Whether the process came to its end."""
        if process.exitcode == -signal.SIGKILL:
            self.killed[f"{who}:{point.partition(':')[0]}"] += 1
        elif process.exitcode != 0:
            self.note("crash", f"{who} at {point}: exit status {process.exitcode}")
        return bool(process.exitcode == 0)

    def wake(self, zombie: Any) -> None:
        with suppress(ProcessLookupError):  # the system wakes what is stopped when the shell of this loop goes away
            os.kill(zombie.pid, signal.SIGCONT)
        self.zombies.remove(zombie)
        self.woken += 1
        zombie.join(20)

    def fold(self, host: str, chance: float) -> None:
        process, point = self.ingesters.get(host, (None, ""))
        if process is not None and process.exitcode is None:
            return
        if process is not None:
            self.count("ingester", process, point)
            if self.drawn.random() < 0.1:  # a machine is lost with its copies
                shutil.rmtree(self.folder / "caches" / host, ignore_errors=True)
        point = self.draw(INGESTER_POINTS, chance)
        sealing = point.partition(":")[0] in SEALING_POINTS or self.drawn.random() < 0.5
        self.ingesters[host] = (self.ingester(point, host, sealing=sealing), point)

    def ingester(self, point: str = "", host: str = "", *, sealing: bool = False) -> Any:
        return self.start(ingest, self.root, str(self.folder / "caches"), self.mutant, point, host, sealing)

    def poll(self) -> None:
        """Read as a user would; whatever is checkpointed now must be in the answer, once, and of the right attempt."""
        from mtlfleet.store import Store
        from mtlfleet.store.place import at

        if not at(self.root).names("segments"):
            return
        before = self.problems.total()
        covered = {t.name: checkpointed(self.root, t.name) for t in self.trials}
        rows = Store(self.root).rows("SELECT trial_id, attempt, step, split, task, value FROM metrics")
        self.check(rows, covered)
        self.polls += 1
        self.bad_polls += self.problems.total() > before

    def check(self, rows: list[dict[str, Any]], covered: dict[str, int]) -> None:
        keys = Counter((r["trial_id"], r["step"], r["split"], r["task"]) for r in rows)
        for key in [key for key, n in keys.items() if n > 1]:
            self.note("duplicate", key)
        for trial, upto in covered.items():
            for step in range(1, upto + 1):
                wanted = [("train", "a")]
                wanted += [("val", f"t{row}") for row in range(ROWS)] if step % EVERY == 0 and step < STEPS else []
                for split, task in wanted:
                    if (trial, step, split, task) not in keys:
                        self.note("lost", (trial, step, split, task))
        claims = {trial.name: restored_steps(self.root, trial.name) for trial in self.trials}
        for r in rows:
            row = int(r["task"][1:]) if r["split"] == "val" else 0
            if r["value"] != value(r["trial_id"], r["step"], row):
                self.note("wrong value", r)
            # a claim made after the answer may end a window, never open one
            restored = claims[r["trial_id"]]
            later = [s for b, s in restored.items() if b > r["attempt"] and s < r["step"]]
            if r["attempt"] not in restored or restored[r["attempt"]] >= r["step"] or (later and not self._young(r)):
                self.note("wrong attempt", r)

    def _young(self, row: dict[str, Any]) -> bool:
        """Whether a claim was made in the moment of the answer; then the answer is asked for again."""
        from mtlfleet.store import Store

        question = "SELECT count(*) AS n FROM metrics WHERE (trial_id, attempt, step) = (?, ?, ?)"
        return Store(self.root).rows(question, [row["trial_id"], row["attempt"], row["step"]])[0]["n"] == 0

    def finish(self) -> None:
        """Let the zombies end, fold everything in, and count."""
        for zombie in list(self.zombies):
            self.wake(zombie)
        for trial in self.trials:
            if trial.process is not None:
                trial.process.join(20)
        for process, _ in self.ingesters.values():
            process.join(20)
        last = self.ingester(sealing=True)
        last.join(60)
        if last.exitcode != 0:
            self.note("crash", f"the last ingester: {last.exitcode}")
        self.totals()

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        running = [*self.zombies, *(t.process for t in self.trials), *(p for p, _ in self.ingesters.values())]
        for process in running:
            if process is not None and process.exitcode is None:
                process.kill()

    def totals(self) -> None:
        from mtlfleet.store import Store

        done = [t.name for t in self.trials if t.done]
        val = ROWS * len([s for s in range(1, STEPS) if s % EVERY == 0])
        expected = {"metrics": STEPS + val, "step_metrics": STEPS * (ROWS - 1)}
        for snapshot in (True, False):
            with Store(self.root).session(use_snapshot=snapshot) as session:
                for table, count in expected.items():
                    query = f"SELECT trial_id, count(*) AS n FROM {table} GROUP BY ALL"
                    found = {r["trial_id"]: r["n"] for r in session.sql(query).to_pylist()}
                    for name in done:
                        if found.get(name, 0) != count:
                            kind = "lost" if found.get(name, 0) < count else "duplicate"
                            self.note(kind, f"{table} of {name}: {found.get(name, 0)} rows, expected {count}")
                query = (
                    "SELECT table_name, sum(rows)::BIGINT AS told, (SELECT count(*) FROM metrics_all) AS metrics,"
                    " (SELECT count(*) FROM step_metrics_all) AS step_metrics FROM segments GROUP BY ALL"
                )
                for row in session.sql(query).to_pylist() if snapshot else []:
                    if row["told"] != row.get(row["table_name"], row["told"]):
                        self.note(
                            "duplicate", f"the ledger says {row['told']} rows, the table has another number: {row}"
                        )
                raw = session.sql("SELECT trial_id, attempt, step FROM metrics_all WHERE split = 'train'").to_pylist()
                self.acknowledged({(r["trial_id"], r["attempt"], r["step"]) for r in raw})
                self.check(
                    session.sql("SELECT trial_id, attempt, step, split, task, value FROM metrics").to_pylist(),
                    dict.fromkeys(done, STEPS),
                )

    def acknowledged(self, raw: set[tuple[str, int, int]]) -> None:
        """Everything that a writer was told to be durable is there, whether it counts or not."""
        for log in self.acks.iterdir():
            trial, _, attempt = log.name.partition("-")
            start = restored_steps(self.root, trial)[int(attempt)]
            for step in range(start + 1, int(log.read_text() or 0) + 1):
                if (trial, int(attempt), step) not in raw:
                    self.note("acknowledged and lost", (trial, attempt, step))


def stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def restored_steps(root: str, trial: str) -> dict[int, int]:
    """Attempt -> step it restored, from the claim files."""
    from mtlfleet.store.place import at

    place, folder = at(root), f"segments/study={STUDY}/trial={trial}"
    names = [n for n in place.names(folder) if n.startswith("attempt=") and n.endswith(".json")]
    claims = [json.loads(c) for c in place.read_all([f"{folder}/{n}" for n in names if not n.endswith(".end.json")])]
    return {c["attempt"]: c["restored_step"] for c in claims}


def checkpointed(root: str, trial: str) -> int:
    """The largest step of a checkpoint that counts: no later attempt restored less."""
    from mtlfleet.store.place import at

    restored = restored_steps(root, trial)
    best = 0
    for name in at(root).folders(f"checkpoints/study={STUDY}/trial={trial}"):
        step, attempt = (int(part.partition("=")[2]) for part in name.split("-"))
        if all(step <= s for b, s in restored.items() if b > attempt):
            best = max(best, step)
    return best


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """A store's root in a bucket; every process started from here on finds the server."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import s3_server

    with s3_server.serving() as address:
        os.environ.update(s3_server.settings(address, str(folder / "caches" / "reader")))
        yield s3_server.make_bucket(address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true", help="a store in a bucket instead of a folder")
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    parser.add_argument("--stop-early", action="store_true", help="at the first problem")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="mtlfleet-kills-") as folder,
        bucket(Path(folder)) if options.s3 else nullcontext(f"{folder}/store") as root,
    ):
        loop = Loop(root, Path(folder), options.mutant, options.kills, options.seed)
        spoil(options.mutant)
        try:
            loop.run(stop_early=options.stop_early)
        finally:
            loop.end()
        attempts = [max(restored_steps(loop.root, t.name), default=0) for t in loop.trials]
    report = {
        "schema": "mtlfleet/store-kills/1",
        "mutant": options.mutant,
        "s3": options.s3,
        "kills": loop.killed.total(),
        "points": dict(sorted(loop.killed.items())),
        "zombies": loop.woken,
        "trials": len(loop.trials),
        "most_attempts": max(attempts),
        "polls": loop.polls,
        "bad_polls": loop.bad_polls,
        "problems": dict(loop.problems),
        "examples": loop.examples,
        "wall_s": round(time.monotonic() - started, 1),
    }
    text = (
        f"{report['kills']} kills at {len(loop.killed)} points, {loop.woken} zombies, {len(loop.trials)} trials with"
        f" up to {max(attempts)} attempts, {loop.polls} polls ({loop.bad_polls} bad);"
        f" problems: {dict(loop.problems) or 'none'}"
    )
    sys.stdout.write((json.dumps(report, indent=1) if options.json else text) + "\n")
    sys.exit(1 if loop.problems else 0)


if __name__ == "__main__":
    main()
