"""A store below a prefix of an S3 bucket, through obstore (the extra ``[s3]``).

One PUT is atomic and durable when it is acknowledged; ``If-None-Match: *`` makes it exclusive. An acknowledgement can
be lost, and the repeated request is then told that the object exists: every exclusive PUT carries a word of its own,
so that a caller who won is never told that he lost. A folder is whole once its seal is there, which is written last
and removed first. Region, endpoint and credentials come from the ``AWS_*`` variables of each process and are kept
nowhere.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from mtlfleet.errors import UsageError
from mtlfleet.plan.place import Root, bucket_and_prefix
from mtlfleet.store import connection
from mtlfleet.store.failpoints import failpoint
from mtlfleet.store.place import Leftover

T = TypeVar("T")

SEAL = ".sealed"
TOGETHER = 16  # requests under way at once
_MARK = "mtlfleet-write"  # metadata of exclusive objects: who wrote it
_TIMES = 3  # an exclusive PUT that nobody won is asked for so often


class Bucket:
    """The objects below ``s3://bucket/prefix``. Raises UsageError for a malformed URL, EnvironmentProblem without the
    extra."""

    def __init__(self, root: Root) -> None:
        try:
            bucket, prefix = bucket_and_prefix(root)
        except ValueError as error:
            raise UsageError(f"{root}: {error}") from None
        self.bucket = bucket
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._obs = connection.extra()
        self._store = connection.connect(bucket, prefix)
        self._hands = ThreadPoolExecutor(TOGETHER, thread_name_prefix="bucket")

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    @property
    def root(self) -> Root:
        return self.url

    def _asked(self, doing: str, key: str, action: Callable[[], T]) -> T:
        return connection.asked(doing, f"{self.url}/{key}", action)

    def verify(self) -> None:
        key = f".probe-{uuid.uuid4().hex}"
        exclusive = self.put_new(key, b"1") and not self.put_new(key, b"2")
        self.delete([key])
        if not exclusive:
            raise connection.problem(
                "use", self.url, "the server ignores `If-None-Match: *`, so two processes could claim the same attempt"
            )

    def put_new(self, key: str, content: bytes) -> bool:
        mark = uuid.uuid4().hex
        failpoint("before-link")
        made = self._put_marked(key, content, mark)
        failpoint("after-link")
        return made

    def _put_marked(self, key: str, content: bytes, mark: str) -> bool:
        from obstore import exceptions

        def create() -> None:
            self._obs.put(self._store, key, content, mode="create", attributes={_MARK: mark}, use_multipart=False)

        for _ in range(_TIMES):
            try:
                self._asked("write", key, create)
            except exceptions.AlreadyExistsError:  # perhaps by an earlier request of ours, whose answer was lost
                holder = self._holder(key)
                if holder is not None:
                    return holder == mark
            else:
                return True
        raise connection.problem("write", f"{self.url}/{key}", "another request for it was always under way")

    def _holder(self, key: str) -> str | None:
        """Whose object ``key`` is; None when there is none: two requests met, and the server turned both away."""
        try:
            found = self._asked("read", key, lambda: self._obs.get(self._store, key, options={"head": True}))
        except FileNotFoundError:
            return None
        return str(found.attributes.get(_MARK, ""))

    def put(self, key: str, content: bytes) -> None:
        failpoint("before-rename")
        self._asked("write", key, lambda: self._obs.put(self._store, key, content))
        failpoint("after-rename")

    def put_file(self, key: str, source: Path) -> None:
        failpoint("before-rename")
        self._asked("write", key, lambda: self._obs.put(self._store, key, source))
        failpoint("after-rename")

    def read(self, key: str) -> bytes:
        return self._asked("read", key, lambda: bytes(self._obs.get(self._store, key).bytes()))

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        return list(self._hands.map(self._read_if_there, keys))

    def _read_if_there(self, key: str) -> bytes:
        try:
            return self.read(key)
        except FileNotFoundError:
            return b""

    def version(self, key: str) -> str | None:
        """The ETag of an object, None when it is not there."""
        try:
            return str(self._asked("read", key, lambda: self._obs.head(self._store, key))["e_tag"])
        except FileNotFoundError:
            return None

    def fetch(self, key: str, target: Path) -> str:
        """Write an object to the new file ``target`` of this machine. Returns its ETag."""

        def stream() -> str:
            found = self._obs.get(self._store, key)
            with target.open("wb") as out:
                for chunk in found.stream(min_chunk_size=1 << 20):
                    out.write(chunk)
            return str(found.meta["e_tag"])

        return self._asked("read", key, stream)

    def fetch_all(self, pairs: Sequence[tuple[str, Path]]) -> None:
        """``fetch`` of many, together; what is no longer there is left out."""
        list(self._hands.map(lambda pair: self._fetch_if_there(*pair), pairs))

    def _fetch_if_there(self, key: str, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:12]}")
        try:
            self.fetch(key, temporary)
            temporary.replace(target)
        except FileNotFoundError:
            return
        finally:
            temporary.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        found = self._asked("list", folder, lambda: self._obs.list_with_delimiter(self._store, folder or None))
        below = [f"{_last(prefix)}/" for prefix in found["common_prefixes"]]
        return sorted([*below, *(name for o in found["objects"] if not (name := _last(o["path"])).startswith("."))])

    def names_in(self, folders: Sequence[str]) -> list[list[str]]:
        return list(self._hands.map(self.names, folders))

    def walk(self, folder: str) -> Iterator[str]:
        for found in self._listed(folder):
            if not _last(found["path"]).startswith("."):
                yield found["path"]

    def _listed(self, folder: str) -> list[Any]:
        def collect() -> list[Any]:
            return [o for chunk in self._obs.list(self._store, folder, chunk_size=1000) for o in chunk]

        return sorted(self._asked("list", folder, collect), key=lambda o: o["path"])

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self._asked("delete", keys[0], lambda: self._obs.delete(self._store, list(keys)))

    def move(self, keys: Sequence[str], folder: str) -> None:
        self._copy(keys, folder)
        self.delete(keys)

    def _copy(self, keys: Sequence[str], folder: str) -> None:
        def copy(key: str) -> None:
            self._asked("move", key, lambda: self._obs.copy(self._store, key, f"{folder}/{key}"))

        list(self._hands.map(copy, keys))

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:  # noqa: ARG002
        with tempfile.TemporaryDirectory(prefix="mtlfleet-") as folder:
            yield Path(folder)

    def put_folder(self, key: str, staged: Path) -> None:
        self.delete([f"{key}/{SEAL}"])  # the same attempt at the same step: an earlier call got this far
        files = sorted(p for p in staged.iterdir() if p.is_file())
        list(self._hands.map(lambda file: self.put_file(f"{key}/{file.name}", file), files))
        failpoint("half-checkpoint")
        self.put(f"{key}/{SEAL}", json.dumps({file.name: file.stat().st_size for file in files}).encode())
        failpoint("after-checkpoint-rename")

    def folders(self, key: str) -> list[str]:
        paths = [o["path"].split("/") for o in self._listed(key)]
        return sorted(path[-2] for path in paths if path[-1] == SEAL)

    @contextmanager
    def open_folder(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="mtlfleet-") as folder:
            names = json.loads(self.read(f"{key}/{SEAL}"))
            self.fetch_all([(f"{key}/{name}", Path(folder) / name) for name in names])
            yield Path(folder)

    def delete_folder(self, key: str) -> None:
        self.delete([f"{key}/{SEAL}"])
        self.delete([o["path"] for o in self._listed(key)])

    def move_folder(self, key: str, folder: str) -> None:
        self._copy([o["path"] for o in self._listed(key)], folder)
        self.delete_folder(key)

    def size(self, key: str) -> int:
        return sum(int(o["size"]) for o in self._listed(key))

    def age_s(self, key: str) -> float:
        found = self._asked("read", key, lambda: self._obs.head(self._store, key))
        return float((datetime.now(UTC) - found["last_modified"]).total_seconds())

    def leftovers(self, older_s: float) -> list[Leftover]:
        """Checkpoints without a seal: their process was killed while it wrote them."""
        inside: dict[str, list[Any]] = {}
        for found in self._listed("checkpoints"):
            inside.setdefault(found["path"].rpartition("/")[0], []).append(found)
        limit = datetime.now(UTC) - timedelta(seconds=older_s)
        return [
            Leftover(folder, sum(int(o["size"]) for o in objects))
            for folder, objects in sorted(inside.items())
            if all(_last(o["path"]) != SEAL and o["last_modified"] < limit for o in objects)
        ]

    def discard(self, key: str) -> None:
        self.delete_folder(key)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
