"""What was begun in a bucket and never completed: uploads in parts, which no listing of files shows."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sidestep.storage.store import PROBE, Unfinished


def find_unfinished(requests: Any, bucket: str, prefix: str) -> Iterator[Unfinished]:
    """Uploads and probes below `prefix`, which is "" or ends with a slash. `requests` is boto3's client."""
    pages = requests.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        for upload in page.get("Uploads", ()):
            key, name = upload["Key"], upload["UploadId"]
            parts = requests.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=name)
            sent = [part["LastModified"] for answer in parts for part in answer.get("Parts", ())]
            age = (_date(page) - max([upload["Initiated"], *sent])).total_seconds()
            yield Unfinished(key.removeprefix(prefix), age, name)
    pages = requests.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + PROBE)
    for page in pages:
        for found in page.get("Contents", ()):
            age = (_date(page) - found["LastModified"]).total_seconds()
            yield Unfinished(found["Key"].removeprefix(prefix), age)


def _date(answer: dict[str, Any]) -> datetime:
    """When the server answered, by its own clock; where it does not say, nothing there is old."""
    try:
        said = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
    except ValueError:
        said = datetime.min
    return said if said.tzinfo else said.replace(tzinfo=UTC)
