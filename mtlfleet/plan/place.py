"""Where a study's results go: a folder, or a prefix of a bucket. Words only; nothing is opened here."""

from __future__ import annotations

import re
from pathlib import Path

Root = Path | str  # a folder, or ``s3://bucket/prefix``
PUBLISH_MAX_BYTES = 2_000_000_000  # of results.duckdb; copying more at each publication is not sensible

_URL = re.compile(r"s3:/{1,2}(?P<bucket>[^/]+)(?:/(?P<prefix>.*))?", re.DOTALL)  # a Path folds the two slashes to one
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STEP = re.compile(r"[A-Za-z0-9!_.*'()=+@-]{1,255}")


def is_object_storage(root: Root) -> bool:
    """Whether ``root`` means a bucket.

    >>> is_object_storage("s3://lab/runs"), is_object_storage(Path("runs"))
    (True, False)
    """
    return str(root).startswith("s3:/")


def bucket_and_prefix(root: Root) -> tuple[str, str]:
    """The two halves of ``s3://bucket/prefix``; the prefix may be empty. Raises ValueError with the reason.

    >>> bucket_and_prefix("s3://lab/mto/quickstart/")
    ('lab', 'mto/quickstart')
    """
    found = _URL.fullmatch(str(root))
    if found is None or not _BUCKET.fullmatch(found["bucket"]):
        raise ValueError("expected s3://bucket/prefix, with a bucket of 3 to 63 lower-case letters, digits, `-`, `.`")
    prefix = (found["prefix"] or "").rstrip("/")
    for step in prefix.split("/") if prefix else ():
        if step in (".", "..") or not _STEP.fullmatch(step):
            raise ValueError(
                f"`{step}` cannot be a step of the prefix; credentials and options come from AWS_* variables"
            )
    return found["bucket"], prefix
