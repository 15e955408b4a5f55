"""What a failure of a store behind fsspec means for the user, and what to do. Never shows a secret."""

import aiohttp

from sidestep.runtime.errors import AccessError, MissingInputError, SideStepError, StorageError
from sidestep.storage import local

FAILURES = (OSError, TimeoutError, aiohttp.ClientError)


def explained(error: BaseException, where: str) -> SideStepError:
    """The user's message for a failure at `where`.

    The server's own words are left out: they can repeat what was sent to it. The log file has them.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        return _of_a_web_server(error, where)
    if isinstance(error, PermissionError) and not error.errno:
        return AccessError(
            f"{where}: the store refuses access (permission denied). Check the credentials, that they have "
            "not expired, and that they may do this there."
        )
    if isinstance(error, FileNotFoundError) and not error.errno:
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    is_web = isinstance(error, aiohttp.ClientError)  # its failures to connect have an errno too
    if isinstance(error, OSError) and error.errno and not is_web:
        return local.explained(error, where)  # the other end of a copy
    return StorageError(
        f"{where}: the store is out of reach ({type(error).__name__}), after several tries. "
        "Check the network and the place, then run the same command again."
    )


def _of_a_web_server(error: aiohttp.ClientResponseError, where: str) -> SideStepError:
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
