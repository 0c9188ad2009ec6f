"""A store as Python sees it: open by study file or folder, ask in SQL, get Arrow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlfleet.errors import EnvironmentProblem, QueryFailed, UsageError
from mtlfleet.plan.place import PUBLISH_MAX_BYTES, Root, is_object_storage
from mtlfleet.store import layout
from mtlfleet.store.freshness import Freshness
from mtlfleet.store.place import at

if TYPE_CHECKING:  # DuckDB and Arrow are imported when a session opens: finding a store must stay instant
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Store:
    """The results under ``root``. Never writes.

    Where it was opened by its study file, that says more: ``study``, its name; ``max_bytes``, above what size of the
    published file its ingesters seal; ``site``, where on this machine a launch of it keeps its lock.
    """

    root: Root
    study: str | None = None
    max_bytes: int = PUBLISH_MAX_BYTES
    site: Path | None = None

    def files(self, *, use_snapshot: bool = True) -> AbstractContextManager[Path]:
        """A folder of this machine with every file of the store as of now; for a store in a folder, that folder."""
        from mtlfleet.store.mirror import files

        return files(self.root, use_snapshot=use_snapshot)

    @contextmanager
    def session(self, *, use_snapshot: bool = True, asked: str | None = None) -> Iterator[Session]:
        """One consistent state for several queries: everything flushed up to now, and nothing later.

        ``asked``: the one query, if it is known: opening then costs less.
        """
        import duckdb

        from mtlfleet.store.session import attach_live, lock_down

        # The scratch folder is where large sorts spill to.
        with (
            self.files(use_snapshot=use_snapshot) as folder,
            tempfile.TemporaryDirectory(prefix="mtlfleet-") as scratch,
        ):
            con = duckdb.connect(":memory:", config={"temp_directory": scratch})
            try:
                freshness = attach_live(con, folder, use_snapshot=use_snapshot, asked=asked)
                lock_down(con)
                yield Session(con, freshness)
            finally:
                con.close()

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer one query from the snapshot and the segments flushed since. Raises QueryFailed with DuckDB's words."""
        with self.session(asked=query) as session:
            return session.sql(query, params)

    def arrow(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """``sql`` under the name that DuckDB's relations give it."""
        return self.sql(query, params)

    def df(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """``sql`` as a pandas DataFrame; integers that may be NULL stay integers. Raises EnvironmentProblem without
        pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise EnvironmentProblem("pandas is not installed", help="pip install pandas, or use .sql()") from None
        table = self.sql(query, params)
        return table.to_pandas(types_mapper=lambda t: pd.Int64Dtype() if str(t) in ("int32", "int64") else None)

    def rows(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """``sql`` as a list of dicts."""
        found: list[dict[str, Any]] = self.sql(query, params).to_pylist()
        return found

    def studies(self) -> list[str]:
        """Names of the studies with files here."""
        return layout.studies_in(at(self.root))

    def one_study(self) -> str:
        """The study this store is about. Raises UsageError when that is not clear."""
        if self.study is not None:
            return self.study
        known = self.studies()
        if len(known) == 1:
            return known[0]
        raise UsageError(
            f"{self.root} holds {len(known)} studies",
            notes=[f"known: {', '.join(known) or 'none'}"],
            help="name the study file instead of the folder",
        )


class Session:
    """Queries against one state of a store."""

    def __init__(self, con: duckdb.DuckDBPyConnection, freshness: Freshness) -> None:
        self.con = con
        self.freshness = freshness

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        import duckdb

        from mtlfleet.store.session import fetch

        try:
            return fetch(self.con, query, params)
        except duckdb.Error as error:
            raise QueryFailed(str(error)) from error

    def stream(self, query: str, params: Mapping[str, Any] | None = None) -> pa.RecordBatchReader:
        """The answer in batches, for what may not fit into memory."""
        import duckdb

        try:
            return self.con.sql(query, params=params).to_arrow_reader(65_536)
        except duckdb.Error as error:
            raise QueryFailed(str(error)) from error


def open_store(path: Root) -> Store:
    """The store of a study file, of a store folder or ``s3://bucket/prefix``, or of its ``results.duckdb``.

    Raises EnvironmentProblem when there is nothing to open yet, StudyInvalid for a study file with errors.
    """
    if is_object_storage(path):
        return _open_root(at(path).root)
    path = Path(path)
    if path.is_dir() or path.name == layout.SNAPSHOT:
        return _open_root((path if path.is_dir() else path.parent).resolve())
    if not path.exists():
        raise UsageError(f"no such study file or store: {path}")
    from mtlfleet.plan import Study

    study = Study.load(path)
    if not layout.is_store(at(study.root)):
        raise EnvironmentProblem(f"nothing has run: {study.root} holds no results", help=f"mtlfleet launch {path}")
    return Store(study.root, study.name, study.publish_max_bytes, study.folder)


def _open_root(root: Root) -> Store:
    if not layout.is_store(at(root)):
        raise EnvironmentProblem(
            f"{root} is not a results store",
            notes=["expected segments/, documents/ or results.duckdb in it"],
            help="name the study file, or the folder `runs/<study>` beside it",
        )
    return Store(root, site=root if isinstance(root, Path) else None)
