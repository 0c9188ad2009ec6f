"""How this process reaches a bucket: the extra, the ``AWS_*`` variables, how long it insists, and what it says when it
could not."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mtlfleet.errors import EnvironmentProblem, StoreAway, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

RETRY_S = 60.0  # how long a server may fail, throttle or be away; MTLFLEET_OBJECT_RETRY_S says otherwise
PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # between two requests, at first and at most
_UNCOUNTED = 1_000_000  # retries: how long it insists is said by the clock alone


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
                "max_retries": _UNCOUNTED,
                "retry_timeout": timedelta(seconds=_retry_s()),
                "backoff": {
                    "init_backoff": timedelta(seconds=PAUSE_S),
                    "max_backoff": timedelta(seconds=PAUSE_MAX_S),
                    "base": 2,
                },
            },
        )
    except exceptions.BaseError as error:
        raise EnvironmentProblem(
            f"cannot use s3://{bucket}: {_words(error)}", help="check the AWS_* variables of this process"
        ) from None


def asked(doing: str, url: str, action: Callable[[], T]) -> T:
    """What ``action`` gives. What the server refuses becomes something a user can act on; FileNotFoundError for an
    object that is not there, and obstore's AlreadyExistsError, are for the caller.

    ``action`` is done again when its answer was cut off, which obstore leaves to the caller: it repeats a request that
    was not answered at all, but a list, a copy or a deletion whose answer broke off only fails. So ``action`` must bear
    to be done twice.
    """
    from obstore import exceptions

    started, pause = time.monotonic(), PAUSE_S
    while True:
        try:
            return action()
        except exceptions.AlreadyExistsError:
            raise
        except exceptions.BaseError as error:
            if "NoSuchBucket" in str(error):
                raise problem(doing, url, "there is no such bucket") from None
            if isinstance(error, exceptions.NotFoundError):
                raise FileNotFoundError(url) from None
            spent = time.monotonic() - started
            if not _cut_off(error) or spent + pause > _retry_s():
                raise _told(doing, url, error, spent) from None
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_MAX_S)


def _cut_off(error: BaseException) -> bool:
    """Whether there was no answer, or not all of one; obstore has no class for it."""
    return "HTTP error: " in str(error) and "builder error" not in str(error)  # the latter was never sent


def _told(doing: str, url: str, error: BaseException, spent: float) -> EnvironmentProblem:
    """The error for a request that failed for good."""
    if _cut_off(error):
        return problem(doing, url, f"the server gave no answer in {spent:.0f} s", away=True)
    status = _STATUS.search(str(error))
    number = int(status["number"]) if status else 0
    refused = "not allowed: " if number in (401, 403) else ""
    return problem(doing, url, refused + _words(error), away=number >= 500)


def problem(doing: str, url: str, why: str, *, away: bool = False) -> EnvironmentProblem:
    """What a user can act on; ``away``: nobody answered, or only that it cannot be done now."""
    at = endpoint()
    plain = (at or "").startswith("http://") and not _allow_http()
    advice = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and the bucket's policy"
    if plain:
        advice = "a plain http endpoint is used only with AWS_ALLOW_HTTP=true"
    elif away:
        advice = (
            "check that the server is up and AWS_ENDPOINT_URL leads to it; MTLFLEET_OBJECT_RETRY_S=N insists longer"
        )
    kind = StoreAway if away else EnvironmentProblem
    return kind(
        f"cannot {doing} {url}: {why}",
        notes=[
            f"endpoint: {at or 'of the region'}; a failing server is asked again for {_retry_s():g} s",
            "what was acknowledged is kept; the same command goes on from there",
        ],
        help=advice,
    )


_STATUS = re.compile(r"status code: (?P<number>\d{3})( [A-Z][A-Za-z]+)*")
_ELEMENTS = re.compile(r"<(Code|Message)>(.*?)</", re.DOTALL)  # of S3's answer


def _words(error: BaseException) -> str:
    """What the server said, or the first words of whoever could not ask it, on one line."""
    text = re.sub(r"\s+", " ", str(error).partition("Debug source")[0]).strip()
    if status := _STATUS.search(text):
        text = ": ".join([status[0].removeprefix("status code: "), *(said for _, said in _ELEMENTS.findall(text))])
    return text[:300] or type(error).__name__


def _retry_s() -> float:
    given = os.environ.get("MTLFLEET_OBJECT_RETRY_S", "")
    try:
        return float(given or RETRY_S)
    except ValueError:
        raise UsageError(f"MTLFLEET_OBJECT_RETRY_S is `{given}`, expected a number of seconds") from None


def _allow_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").strip().lower() in ("true", "1")
