"""How this process reaches a bucket: the extra, the ``AWS_*`` variables, how long it insists, and what it says when it
could not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mtlfleet.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

RETRY_S = 60.0  # how long a server may fail or throttle; MTLFLEET_OBJECT_RETRY_S says otherwise


def extra() -> Any:
    """The library. Raises EnvironmentProblem with the command that installs it."""
    try:
        import obstore
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            "results in object storage need obstore, which is not installed", help="pip install 'mtlfleet[s3]'"
        ) from None
    return obstore


def endpoint() -> str | None:
    """Where the requests go; None for the region's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def connect(bucket: str, prefix: str) -> S3Store:
    """The objects of ``bucket`` below ``prefix``, by the variables of this process. No request is sent yet."""
    from obstore import exceptions
    from obstore.store import S3Store

    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": _allow_http(),
                "timeout": timedelta(seconds=300),
                "connect_timeout": timedelta(seconds=5),
            },
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=_retry_s()),
                "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
            },
        )
    except exceptions.BaseError as error:
        raise EnvironmentProblem(
            f"cannot use s3://{bucket}: {_words(error)}", help="check the AWS_* variables of this process"
        ) from None


def asked(doing: str, url: str, action: Callable[[], T]) -> T:
    """What ``action`` gives. What the server refuses becomes something a user can act on; FileNotFoundError for an
    object that is not there, and obstore's AlreadyExistsError, are for the caller."""
    from obstore import exceptions

    try:
        return action()
    except exceptions.AlreadyExistsError:
        raise
    except exceptions.BaseError as error:
        if "NoSuchBucket" in str(error):
            raise problem(doing, url, "there is no such bucket") from None
        if isinstance(error, exceptions.NotFoundError):
            raise FileNotFoundError(url) from None
        refused = isinstance(error, exceptions.UnauthenticatedError | exceptions.PermissionDeniedError)
        raise problem(doing, url, f"not allowed: {_words(error)}" if refused else _words(error)) from None


def problem(doing: str, url: str, why: str) -> EnvironmentProblem:
    at = endpoint()
    plain = (at or "").startswith("http://") and not _allow_http()
    return EnvironmentProblem(
        f"cannot {doing} {url}: {why}",
        notes=[
            f"endpoint: {at or 'of the region'}; a failing server is asked again for {_retry_s():g} s",
            "what was acknowledged is kept; the same command goes on from there",
        ],
        help="a plain http endpoint is used only with AWS_ALLOW_HTTP=true"
        if plain
        else "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and the bucket's policy",
    )


def _words(error: BaseException) -> str:
    """The server's first words, on one line."""
    text = re.sub(r"\s+", " ", str(error).partition("Debug source")[0]).strip()
    return text[:300] or type(error).__name__


def _retry_s() -> float:
    given = os.environ.get("MTLFLEET_OBJECT_RETRY_S", "")
    try:
        return float(given or RETRY_S)
    except ValueError:
        raise UsageError(f"MTLFLEET_OBJECT_RETRY_S is `{given}`, expected a number of seconds") from None


def _allow_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").strip().lower() in ("true", "1")
