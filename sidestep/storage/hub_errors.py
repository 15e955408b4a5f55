"""What a failure of the Hugging Face Hub means to a user: where to read from it, and where to write."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.storage.http import PASSING

FAILURES = (HfHubHTTPError, httpx2.HTTPError, EntryNotFoundError, OfflineModeIsEnabled, HFValidationError)
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
"""What huggingface_hub raises over an answer that is not the Hub's: a proxy's page, another server's JSON."""

HAS_MOVED = 412  # the branch is at another commit than the one that a change was made for
_USED_UP = re.compile(r"storage|quota|limit reached|exceed", re.IGNORECASE)
_SAID_AT_MOST = 300  # characters of what the server says


@contextmanager
def read_failures(where: str) -> Iterator[None]:
    """Failures of reading `where`, as errors for the user."""
    try:
        yield
    except FAILURES as error:
        raise _of_reading(error, where) from error


@contextmanager
def write_failures(where: str) -> Iterator[None]:
    """Failures of writing to the repository `where`, as errors for the user."""
    try:
        yield
    except SideStepError:
        raise
    except (*FAILURES, *MALFORMED, RuntimeError) as error:
        # Uploads run in threads, and what failed in one is wrapped.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        if not isinstance(cause, (*FAILURES, *MALFORMED)):
            raise
        raise _of_writing(cause, where) from error


def hub_endpoint() -> str | None:
    """The server that HF_ENDPOINT names; None for huggingface.co.

    Raises BadSpecError where it is no address, which is not shown: it may hold a password.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint):
        raise BadSpecError(
            "HF_ENDPOINT is no address of a server, which looks like https://hub.example.org. Leave it out "
            "for huggingface.co."
        )
    return endpoint or None


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if type(error) is RuntimeError and error.__cause__:
        return may_pass(error.__cause__)
    status = status_of(error)
    if status is not None:
        return status in PASSING
    return isinstance(error, httpx2.TransportError)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer that is an error; None where there was no answer."""
    answer: Any = getattr(error, "response", None)
    return answer.status_code if isinstance(error, HfHubHTTPError) and answer is not None else None


def no_hub(where: str) -> BadSpecError:
    """What answered is not the Hub."""
    return BadSpecError(
        f"{where}: what answers there is not the Hugging Face Hub, as its answers are not the Hub's. Check "
        "HF_ENDPOINT: leave it out for huggingface.co; behind a proxy, check that it lets the Hub through."
    )


def _of_writing(error: BaseException, where: str) -> SideStepError:
    status, said = status_of(error), _said(error)
    if isinstance(error, OfflineModeIsEnabled):
        return StorageError(f"{where} cannot be written: HF_HUB_OFFLINE is set. Unset it.")
    if isinstance(error, HFValidationError):
        return BadSpecError(f"{where} names no repository that the Hub allows: {error}")
    if status in (402, 413, 507) or (status == 403 and _USED_UP.search(said)):
        return StorageError(
            f"{where}: the Hub has no room left for this account ({status}{said}). Delete what is not needed "
            "there, or get more, then run the same command again: what has been sent is not sent twice."
        )
    if status in (401, 403, 409) or isinstance(error, RepositoryNotFoundError | DisabledRepoError):
        return AccessError(
            f"{where}: the Hub refuses to write there ({status}{said}). Check owner and name, and that the "
            "token in HF_TOKEN has not expired and may write to this repository, or create it."
        )
    if status == 400:
        return BadSpecError(f"{where}: the Hub refuses this (400{said}).")
    if status == HAS_MOVED:
        return StorageError(
            f"{where}: somebody else changes the repository at the same time, time and again. Run the same "
            "command again once they are done."
        )
    if status is not None and (status < 400 or status == 404):
        return no_hub(where)
    if status is None and isinstance(error, ValueError) and str(error).startswith("LFS batch API"):
        return StorageError(f"{where}: the Hub does not take a file: {error}")
    if status is None and isinstance(error, MALFORMED) and not isinstance(error, httpx2.HTTPError):
        return no_hub(where)
    return _passing(where, status, error)


def _said(error: BaseException) -> str:
    """What the server says of its refusal, to be put behind the status."""
    words = getattr(error, "server_message", None)
    if not words:
        return ""
    return f": {' '.join(str(words).split())[:_SAID_AT_MOST]}"


def _of_reading(error: Exception, where: str) -> SideStepError:
    """What a failure at `where` means. The server's own words are left out: the log file has them."""
    if isinstance(error, OfflineModeIsEnabled):
        return StorageError(
            f"{where} cannot be read: HF_HUB_OFFLINE is set. Unset it, or name a local folder."
        )
    if isinstance(error, GatedRepoError | DisabledRepoError):
        return AccessError(
            f"{where}: the repository is gated. Accept its terms on its page, signed in as the owner of the "
            "token, and set HF_TOKEN to one that may read it."
        )
    if isinstance(error, RepositoryNotFoundError):
        return MissingInputError(
            f"{where}: there is no such repository, or it is private. Check owner and name; for a private "
            "one, set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        return MissingInputError(
            f"{where}: the repository has no such revision. It is a branch, a tag or a whole commit, after @."
        )
    if isinstance(error, HFValidationError):
        return BadSpecError(f"{where} names no repository: it looks like hf://owner/name@revision.")
    status = status_of(error)
    if isinstance(error, EntryNotFoundError) or status == 404:
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    if status in (401, 403):
        return AccessError(
            f"{where}: the Hub refuses access ({status}). Check HF_TOKEN, that it has not expired, and that "
            "it may read this repository."
        )
    return _passing(where, status, error)


def _passing(where: str, status: int | None, error: BaseException) -> StorageError:
    if status is not None:
        return StorageError(
            f"{where}: the Hub answered with {status}, after several tries. If that does not pass, check "
            "HF_ENDPOINT, or try later."
        )
    return StorageError(
        f"{where}: the Hub is out of reach ({type(error).__name__}), after several tries. Check the network "
        "and HF_ENDPOINT, then run the same command again."
    )
