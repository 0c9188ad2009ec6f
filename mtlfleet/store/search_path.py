"""Where DuckDB looks for sealed files: the views of a published file name them relative to the store, so that a store
can be moved, copied and mounted elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mtlfleet.errors import EnvironmentProblem
from mtlfleet.store.database import quoted

if TYPE_CHECKING:
    import duckdb


def search(con: duckdb.DuckDBPyConnection, root: Path, scratch: Path) -> Path:
    """Let the views of ``con`` find the sealed files of the store in ``root``; the folder as DuckDB now calls it.

    To DuckDB the setting is a list with commas in between, and nothing quotes one: a folder with a comma in its path is
    entered through a link in ``scratch``, which must be there as long as the views are used. Raises EnvironmentProblem
    when that has a comma, too.
    """
    found = root
    if is_list(root):
        found = scratch / "store"
        if is_list(found):
            raise EnvironmentProblem(
                f"DuckDB cannot find the sealed files of {root}: to it a comma ends the name of a folder",
                notes=[f"a name without one was tried in {scratch}"],
                help="export TMPDIR=... to a folder without a comma in its path, or rename the store's",
            )
        if not found.is_symlink():
            found.symlink_to(root.absolute(), target_is_directory=True)
    con.execute(f"SET file_search_path = {quoted(str(found))}")
    return found


def is_list(folder: Path) -> bool:
    """Whether DuckDB takes the name of a folder for the names of several."""
    return "," in str(folder)
