"""What S3's names and answers mean, whoever made the server: buckets, listings, versions of files."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ACCESS_POINT = re.compile(r"arn:[^/]+?:(?:outpost[/:][^/:]+[/:])?accesspoint[/:][^/]+")
_ETAG = re.compile(r'(?:W/)?"?(.*?)(?:[-;]{1,2}gzip)?"?', re.DOTALL)


def bucket_and_prefix(root: str) -> tuple[str, str]:
    """`studio/songs` → `studio`, `songs`. An access point's ARN, with a slash in it, is a bucket, too."""
    found = _ACCESS_POINT.match(root)
    bucket = found[0] if found else root.partition("/")[0]
    return bucket, root.removeprefix(bucket).removeprefix("/")


def version_of(answer: Mapping[str, Any]) -> str:
    """What changes with a file's content, by the answer to HEAD or an entry of a listing.

    The ETag, which some servers, or proxies before them, spell otherwise in HEAD: weak, in upper case, as of
    something packed. Where there is none, the time in seconds and the size. Raises KeyError without either.
    """
    if etag := answer.get("ETag"):
        match = _ETAG.fullmatch(etag)
        assert match, "it matches anything"
        return match[1].lower()
    size = answer["ContentLength"] if "ContentLength" in answer else answer["Size"]
    return f"{int(answer['LastModified'].timestamp())}-{size}"


def listed(requests: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The entries of a listing. `requests` is boto3's client.

    A server that knows the first version of the request alone answers with that, and says in its way where
    the next page begins.
    """
    asked = {"Bucket": bucket, "Prefix": prefix}
    for page in requests.get_paginator("list_objects_v2").paginate(**asked):
        yield from page.get("Contents", ())
        if page.get("IsTruncated") and not page.get("NextContinuationToken"):
            last = page.get("NextMarker") or page["Contents"][-1]["Key"]
            for rest in requests.get_paginator("list_objects").paginate(**asked, Marker=last):
                yield from rest.get("Contents", ())
