"""Secrets are hidden by their values, whatever is said: also in what a library says of its errors."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

SHORTEST = 8  # characters: a shorter value would stand in ordinary words, too
TOKEN = 16  # characters, at the least, of what may be one in a URL's path
MASK = "***"

_NAMES = re.compile(r"(SECRET|TOKEN|PASSWORD|CONNECTION_STRING|(SECRET|ACCESS|API)_KEY)$|^AZURE_\w*KEY$")
_ADDRESSES = re.compile(r"(URL|URI|ENDPOINT|PROXY)(_\w+)?$", re.IGNORECASE)  # of variables
_USERINFO = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:/+)?(?:[^/@:\s]*:)?([^/@\s]+)@", re.IGNORECASE)
_AWS_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
}
_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
_GOOGLE_FILES = {
    "GOOGLE_APPLICATION_CREDENTIALS": "~/.config/gcloud/application_default_credentials.json",
}
_GOOGLE_FIELD = re.compile(r'"(?:private_key|client_secret|refresh_token)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_FOLDERS = ("/run/secrets", "/var/run/secrets/kubernetes.io/serviceaccount")
_AWS_LINE = re.compile(r"^\s*aws_(?:secret_access_key|session_token)\s*=\s*(\S+)", re.MULTILINE)
_LARGEST_FILE = 100_000  # bytes

# What is secret in a URL by its form: the user and password, and a presigned URL's signature. The path of a
# store's file may quote the question mark.
_USER = re.compile(
    r"(?<=://)[^/@:\s]+:(?!\d+(?:/|\s|$))[^@\s]+@|(?<=https://)[^/@\s]+@|(?<=http://)[^/@\s]+@"
)
_SIGNATURE = re.compile(
    r"((?:[?&;]|%3F|%26)(?:[\w-]*(?:signature|credential|token|secret|password|api[-_]?key)|sig|AWSAccessKeyId)"
    r"(?:=|%3D))[^&;#\s'\":,)]+",
    re.IGNORECASE,
)

_seen: set[str] = set()  # an old token stays a secret when another takes its place


def remember(*values: str | None) -> None:
    """Hide these from now on, too: what a client was given by a role, a login or a command."""
    _seen.update(value for value in values if value)


def remember_url(url: str) -> None:
    """The same for a URL that is a secret as a whole, such as a webhook's: also what is behind its host, and
    each part of that which is long enough for a token. A client's error may show these alone."""
    _, _, rest = url.partition("://")
    tokens = [part for part in re.split(r"[/?&=#@:,]+", rest.partition("/")[2]) if len(part) >= TOKEN]
    whole = [] if url.endswith("://") else [url]  # a scheme alone stands in many a message
    remember(*whole, *tokens, *([rest.partition("/")[2]] if tokens else []))


def hide(text: str) -> str:
    """`text` with *** in place of every secret.

    By its value, where this process can know it: as given, escaped, quoted as in a URL, in base64. By its
    form in a URL: user and password, a signature.
    """
    _seen.update(_values())
    if _seen and (pattern := _pattern(frozenset(_seen))):
        text = pattern.sub(MASK, text)
    if "://" in text:
        text = _USER.sub(f"{MASK}@", text)
    return _SIGNATURE.sub(rf"\g<1>{MASK}", text) if "=" in text or "%3D" in text else text


def hide_in(error: BaseException) -> None:
    """Hide them in the texts of `error` and of all errors behind it: Python prints the whole chain."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.args = tuple(hide(part) if isinstance(part, str) else part for part in one.args)
            errors += [one.__cause__, one.__context__]


def _values() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAMES.search(name) and not name.startswith("SIDESTEP_"):
            yield value.strip()
            if name.endswith("CONNECTION_STRING"):  # the key in it is said alone, too
                yield from (part.partition("=")[2] for part in value.split(";") if "Key=" in part)
        if _ADDRESSES.search(name) and (user := _USERINFO.match(value)):  # also where the address is none
            yield user[1]
    for variable, usual in _AWS_FILES.items():
        yield from _AWS_LINE.findall(_text(Path(os.environ.get(variable) or usual)))
    for variable in _TOKEN_FILES:
        if token_file := os.environ.get(variable):
            yield _text(Path(token_file)).strip()
    for variable, usual in _GOOGLE_FILES.items():
        for value in _GOOGLE_FIELD.findall(_text(Path(os.environ.get(variable) or usual))):
            plain = _UNICODE.sub(lambda code: chr(int(code[1], 16)), value).replace("\\n", "\n")
            # A key of many lines is shown in pieces, too; its first and last line are no secret.
            yield from (line for line in plain.splitlines() if not line.startswith("-----"))
    for folder in _FOLDERS:
        yield from (_text(file).strip() for file in _files(folder))


@lru_cache(maxsize=8)
def _pattern(values: frozenset[str]) -> re.Pattern[str] | None:
    """One pattern for all values in every spelling, the longest first: one may be a part of another."""
    spelt = {form for value in values if len(value) >= SHORTEST for form in _spellings(value)}
    return re.compile("|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))) if spelt else None


def _spellings(value: str) -> set[str]:
    from base64 import b64encode
    from json import dumps
    from urllib.parse import quote, quote_plus

    quoted = {quote(value), quote(value, safe=""), quote_plus(value)}
    return {
        *(value, repr(value)[1:-1], repr(value.encode())[2:-1], dumps(value)[1:-1]),
        *(*quoted, *(re.sub("%..", lambda code: code[0].lower(), form) for form in quoted)),
        b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("="),
    }


def _text(file: Path) -> str:
    """What the file has now; nothing where it cannot be read, or is no such file."""
    try:
        file = file.expanduser()
        status = file.stat()
    except (OSError, RuntimeError):
        return ""
    return _read(file, status.st_mtime_ns) if status.st_size <= _LARGEST_FILE else ""


@lru_cache(maxsize=64)
def _read(file: Path, changed: int) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _files(folder: str) -> list[Path]:
    try:
        return [file for file in Path(folder).iterdir() if file.is_file()]
    except OSError:
        return []
