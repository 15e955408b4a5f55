"""Credentials within a place: how they are found, and hidden in what is said of it.

A place is written to logs, to rendered files and to the output's `job.yaml`. So none may have a password in
it, nor the query of a presigned URL; credentials come from the environment.
"""

import re

HIDDEN = "***"

# user:password@; host:port is something else, and so is Azure's container@account.
_PASSWORD = re.compile(r"(?<=://)[^/@:]+:(?!\d+(?:/|$))[^@]+@")
_USER = re.compile(r"(?<=s3://|gs://|hf://|tp://|ps://)[^/@:\s]+@", re.IGNORECASE)
_WEB_QUERY = re.compile(r"(https?://[^?#]*[?#]).+", re.IGNORECASE | re.DOTALL)
_KEYS = (
    r"x-(?:amz|goog|ms)-[\w-]+|sig|signature|policy|key|key-pair-id|googleaccessid|jwt|pwd|pass|auth\w*"
    r"|[\w-]*(?:token|secret|passw|credential|access-?_?key|api-?_?key)[\w-]*"
)
_SECRET_QUERY = re.compile(rf"([?&;#](?:{_KEYS})=)[^\s'\"]+", re.IGNORECASE)


def check_no_credentials(place: str) -> str:
    """The place or endpoint as it is; raises ValueError where it has a password or a query in it.

    A `?` may be part of an object's name, but not of a web server's address.
    """
    if _PASSWORD.search(place) or _USER.search(place):
        raise ValueError(
            "has a password in it: credentials come from the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY), never from the spec"
        )
    if _WEB_QUERY.match(place) or _SECRET_QUERY.search(place):
        raise ValueError(
            "has a query in it, as a presigned URL has, which would be shown and stored: name the bucket "
            "(s3://bucket/folder) with credentials from the environment, or a folder that anyone may read"
        )
    return place


def hide_in_place(place: str) -> str:
    """The same place with `***` for all that may be a credential; `secrets.hide` hides less, in any text."""
    place = _USER.sub(f"{HIDDEN}@", _PASSWORD.sub(f"{HIDDEN}@", place))
    return _SECRET_QUERY.sub(rf"\1{HIDDEN}", _WEB_QUERY.sub(rf"\1{HIDDEN}", place))
