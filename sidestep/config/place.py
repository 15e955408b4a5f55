"""What a place may look like. A URI with a slip of the pen in it must not become a folder of that name."""

import re

SCHEMES = ("s3", "file", "memory", "gs", "az", "http", "https", "hf")
"""Of the URIs that a place may be; `storage.open` knows what each is."""

REPOSITORY = re.compile(r"(?:(datasets)/)?(?!datasets/)([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", re.ASCII)
"""What is behind hf://: "datasets" or nothing, owner/name, a revision, and a folder in it."""

_QUOTES = tuple("\"'`“”‘’«»")
_UNEXPANDED = re.compile(
    r"\$\{[^}]*\}?|\$\([^)]*\)?|\{\{.*?(\}\}|$)|(?<![^/])\$[A-Za-z_]\w*(?![^/])|%[A-Za-z_]\w*%"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b\ufeff]")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(:?)(/*)")
_BUCKET = re.compile(r"arn:.+|[A-Za-z0-9._-]+")
_ANY_NAME = "a folder that is really called so is written ./NAME or file:///…"


def check_place(place: str) -> str:
    """The place as it is; raises ValueError where it looks like a URI or a template and is none.

    What begins with `./`, `../` or `file://` may hold anything but control characters.
    """
    if place != place.strip():
        raise ValueError("begins or ends with a blank: leave it out")
    if found := _CONTROL.search(place):
        raise ValueError(f"has the character {found[0]!a} in it, which no place has")
    if re.match(r"\.\.?/|file://", place, re.IGNORECASE):
        return place
    if place.startswith(_QUOTES) or ("://" in place and place.endswith(_QUOTES)):
        raise ValueError(f"begins or ends with a quote, and is meant without; {_ANY_NAME}")
    if found := _UNEXPANDED.search(place):
        raise ValueError(f"has {found[0]} in it, and nothing put a value there; {_ANY_NAME}")
    if begin := _URI.match(place):
        _check_uri(place, begin[1].lower(), bool(begin[2]), len(begin[3]))
    return place


def check_folder(path: str) -> str:
    """The same of a path alone: a URI is no local folder."""
    if "://" in check_place(path) and not path.startswith(("./", "../")):
        raise ValueError("is a URI, and must be a local folder")
    return path


def _check_uri(place: str, scheme: str, colon: bool, slashes: int) -> None:
    """`s3:/x`, `s3:x`, `s3//x`, `s3:///x`, `S4://x` and `C:\\x` are no places."""
    known = ", ".join(f"{name}://" for name in SCHEMES)
    if colon and (slashes == 2 or (scheme, slashes) == ("memory", 3)):
        if scheme not in SCHEMES:
            raise ValueError(f"begins with {scheme}://, which is not a kind of place: use a path, or {known}")
        bucket = place.split("/")[2]
        if scheme in ("s3", "gs") and "@" not in bucket and not _BUCKET.fullmatch(bucket):
            raise ValueError(f"names no bucket: it looks like {scheme}://bucket/folder")
        if scheme == "hf" and not REPOSITORY.fullmatch(place.split("://", 1)[1]):
            raise ValueError("names no repository: it looks like hf://owner/name@revision")
    elif scheme in SCHEMES and (colon or slashes > 1):
        raise ValueError(f"is not a URI, though it looks like {scheme}://bucket/folder; {_ANY_NAME}")
    elif colon and scheme == "arn":
        raise ValueError(f"is an ARN: write s3://bucket/folder, or s3://arn:…; {_ANY_NAME}")
    elif colon and (slashes or re.match(r".:\\", place)):
        raise ValueError(f"looks like a URI and is none: use a path, or {known}; {_ANY_NAME}")
