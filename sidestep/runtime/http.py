"""Requests with a secret in them, which go to nobody but whom they are sent to."""

import urllib.request
from typing import Any
from urllib.error import HTTPError, URLError


class _StaysHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the secret would go along, and a POST would arrive as a GET, without its body."""

    def redirect_request(self, *_: Any) -> None:
        return None


def send(request: urllib.request.Request, timeout: float) -> None:
    """Send it; what is answered is not read.

    Raises HTTPError where the answer is no success, a redirect as well; OSError and HTTPException where none
    comes that can be read.
    """
    try:
        urllib.request.build_opener(_StaysHere).open(request, timeout=timeout).close()
    except HTTPError:
        raise
    except URLError as error:  # it only wraps what went wrong
        raise (error.reason if isinstance(error.reason, OSError) else error) from None
