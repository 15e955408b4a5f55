"""What a failure of a store behind fsspec means for the user, and what to do. Never shows a secret."""

import aiohttp

from sidestep.runtime import diskerrors
from sidestep.runtime.errors import AccessError, MissingInputError, SideStepError, StorageError
from sidestep.storage.access import ACCESS, NONE

FAILURES = (OSError, TimeoutError, aiohttp.ClientError)
CLOUD_FAILURES = {
    "gcsfs.retry.HttpError",
    "google.auth.exceptions.GoogleAuthError",
    "azure.core.exceptions.AzureError",
}
"""What gcsfs and adlfs raise beside those, by name: neither is installed by default."""


def is_failure(error: BaseException) -> bool:
    """Return whether this is how a store fails, and no bug."""
    return isinstance(error, FAILURES) or _is_of_a_cloud(error)


def to_user_error(error: BaseException, where: str) -> SideStepError:
    """Return what a failure at `where` means for the user.

    The server's own words are left out: they can repeat what was sent to it. The log file has them.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        return _from_http_status(error, where)
    if _refuses(error):
        return AccessError(
            f"{where}: the store refuses access. Check the credentials{_from(where)}, that they have not "
            "expired, and that they may do this there."
        )
    if (isinstance(error, FileNotFoundError) and not error.errno) or _status(error) == 404:
        in_cloud = bool(_from(where))
        bucket = ", and that the bucket or container is there" if in_cloud else ""
        return MissingInputError(f"{where} does not exist. Check the place and the name{bucket}.")
    if status := _status(error):
        return StorageError(
            f"{where}: the store answered with {status}, after several tries. "
            "If that does not pass, ask who runs it."
        )
    is_web = isinstance(error, aiohttp.ClientError)  # its failures to connect have an errno too
    if isinstance(error, OSError) and error.errno and not is_web:
        return diskerrors.to_user_error(error, where)  # the other end of a copy
    return StorageError(
        f"{where}: the store is out of reach ({type(error).__name__}), after several tries. "
        "Check the network and the place, then run the same command again."
    )


def no_credentials(scheme: str) -> AccessError:
    """Return the error for a client of `scheme` that could not be made for lack of credentials."""
    return AccessError(f"{scheme}://: no usable credentials were found{_from(f'{scheme}://')}.")


def _from(where: str) -> str:
    """Where credentials for a place come from, in brackets; "" where there is but one way."""
    source = ACCESS.get(where.partition("://")[0], NONE).said
    return f" ({source})" if source else ""


def _is_of_a_cloud(error: BaseException) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in CLOUD_FAILURES for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that a cloud's store answered with: `status_code` for Azure, `code` for gcsfs."""
    found = getattr(error, "status_code", getattr(error, "code", None)) if _is_of_a_cloud(error) else None
    return found if isinstance(found, int) else None


def _refuses(error: BaseException) -> bool:
    is_forbidden = isinstance(error, PermissionError) or str(error).startswith("Forbidden: ")  # gcsfs' 403
    if isinstance(error, OSError) and not error.errno and is_forbidden:
        return True
    return type(error).__name__ in ("DefaultCredentialsError", "RefreshError") or _status(error) in (401, 403)


def _from_http_status(error: aiohttp.ClientResponseError, where: str) -> SideStepError:
    if error.status in (401, 403, 407):
        return AccessError(
            f"{where}: the web server refuses access ({error.status}). Files are read there without "
            "credentials: use what anyone may read, or another place."
        )
    if error.status in (404, 410):
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    return StorageError(
        f"{where}: the web server answered with {error.status}, after several tries. "
        "If that does not pass, ask who runs it."
    )
