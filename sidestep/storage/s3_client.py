"""boto3's client for S3 and what speaks its protocol: how it is made, and when a request is sent again.

Which failures are tried again, and for how long, is decided here and not by botocore, whose own laws count
tries and not seconds, and stop trying at all once enough requests of a process have failed.
"""

import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError, ReadTimeoutError
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp
from s3transfer.manager import TransferConfig, TransferManager
from urllib3.exceptions import NameResolutionError

from sidestep.config.schema import StorageSpec
from sidestep.runtime.credentials import hide_in_place
from sidestep.runtime.errors import AccessError, BadSpecError
from sidestep.runtime.secrets import remember
from sidestep.storage.retry import Limits, Retry

_descriptions = create_loader()  # of S3 and its endpoints: to read them takes a client 0.3 s, the first one
PASSING_STATUSES = (429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted")
TOO_LARGE = 413
REDIRECTS = (301, 302, 303, 307, 308)  # S3's own have its headers, or say in XML where to
_AWS = re.compile(r"(.+\.)?amazonaws\.(com|com\.cn|eu)")


@dataclass
class S3Client:
    """boto3's client, and what moves files with it. Both may be used by many threads at a time.

    Attributes:
        transfers: sends files.
        parts: the threads that read parts of large files.
        has_conditions: whether the server takes `If-None-Match`; None until one was sent.
        keeps_all: whether it has refused to delete a file, and that was said.
    """

    requests: Any
    transfers: TransferManager
    parts: Executor
    has_conditions: bool | None = None
    keeps_all: bool = False


def connect(bucket: str, options: StorageSpec, limits: Limits) -> S3Client:
    """Return a client as the spec says. Credentials are left to botocore's own chain. Nothing is sent yet.

    Raises BadSpecError where the endpoint is none, or names the bucket.
    """
    # A session of its own: the one that boto3 shares is not made for threads, and keeps old credentials.
    botocore_session = botocore.session.Session()
    botocore_session.register_component("data_loader", _descriptions)
    parsers = botocore_session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=parse_time)
    session = boto3.session.Session(botocore_session=botocore_session)

    if not options.anonymous:
        find_credentials(session)  # as the client does with its first breath, but in our words

    def make(config: Config) -> Any:
        try:
            return session.client(
                "s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config
            )
        except ValueError as error:  # of an endpoint that a variable or a profile names
            raise BadSpecError(f"s3://{bucket}: the endpoint cannot be used: {error}") from error
        except (AttributeError, TypeError) as error:  # of `s3 = yes`, where botocore wants more lines
            raise BadSpecError(
                f"s3://{bucket}: ~/.aws/config, or the file that AWS_CONFIG_FILE names, has a setting that "
                f"is not of its kind ({error})"
            ) from error

    config = _config(options, limits)
    if not _is_chosen(botocore_session, "response_checksum_validation"):
        # Otherwise each download would begin with one more request, for the checksum of the whole.
        config = config.merge(Config(response_checksum_validation="when_required"))
    requests = make(config)
    if not is_aws(requests.meta.endpoint_url):
        _refuse_bucket_twice(requests.meta.endpoint_url, bucket, options)
        if not _is_chosen(botocore_session, "request_checksum_calculation"):
            # Many servers refuse the checksums that newer clients add unasked.
            requests = make(config.merge(Config(request_checksum_calculation="when_required")))
    _listen(requests, session, options, limits.retry)
    transfers = TransferConfig(
        multipart_threshold=limits.part_bytes,
        multipart_chunksize=limits.part_bytes,
        max_request_concurrency=options.connections,
    )
    parts = ThreadPoolExecutor(options.connections, thread_name_prefix="part")
    return S3Client(requests, TransferManager(requests, transfers), parts)


def parse_time(text: Any) -> datetime:
    """A time in an answer. Botocore's own parser takes most of a listing's time; it is left what is rare."""
    with suppress(TypeError, ValueError):
        if (time := datetime.fromisoformat(text)).tzinfo:
            return time
    other: datetime = parse_timestamp(text)
    return other


def find_credentials(session: Any) -> Any:
    """What the chain of a boto3 or botocore session finds; None where that is nothing.

    Raises AccessError where a program or an address that it leads to does not work, else botocore's errors.
    """
    try:
        return session.get_credentials()
    except BotoCoreError:
        raise
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise AccessError(
            "no usable credentials: what credential_process in ~/.aws or the variable "
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI leads to does not work ({type(error).__name__}: {error})"
        ) from error


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint is AWS's own, also a FIPS or VPC one, or in China."""
    return bool(_AWS.fullmatch(urlsplit(endpoint).hostname or ""))


class StayedSilentError(HTTPClientError):  # type: ignore[misc]  # published without types
    """A server answered nothing, time and again. The transfer manager would ask on after ReadTimeoutError."""

    fmt = "No answer from {endpoint_url}"


class NoS3Error(BotoCoreError):  # type: ignore[misc]  # published without types
    """Something answered that is no S3 server: a web page, for one."""

    fmt = "{endpoint_url} answers with {status} and no XML"


def is_unknown_host(error: BaseException | None) -> bool:
    """Whether a request failed as the name of its host could not be resolved."""
    return any(isinstance(one, NameResolutionError | socket.gaierror) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what is behind it: botocore and urllib3 each have a way of their own to keep that."""
    while error is not None:
        yield error
        inner = getattr(error, "kwargs", {}).get("error") or getattr(error, "original_error", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _config(options: StorageSpec, limits: Limits) -> Config:
    # Left to botocore, it is path style for any endpoint but AWS's.
    style = None if options.path_style is None else "path" if options.path_style else "virtual"
    return Config(
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},  # see `_Patience`
        max_pool_connections=2 * options.connections,
        s3={"addressing_style": style} if style else None,
        signature_version=UNSIGNED if options.anonymous else None,
    )


def _is_chosen(session: Any, setting: str) -> bool:
    """Whether the user's environment or profile says something of one of botocore's settings."""
    return bool(os.environ.get(f"AWS_{setting.upper()}") or session.get_scoped_config().get(setting))


def _refuse_bucket_twice(endpoint: str, bucket: str, options: StorageSpec) -> None:
    """An endpoint with the bucket in it would make a folder of that name in the bucket, or find nothing."""
    url = urlsplit(endpoint)
    host, path = url.hostname or "", url.path
    is_in_host = host.startswith(f"{bucket}.".lower()) and not re.fullmatch(r"[\d.]+", host)
    if options.path_style or not (is_in_host or f"/{bucket}/" in f"{path}/"):
        return
    raise BadSpecError(
        f"s3://{bucket}: the endpoint {hide_in_place(endpoint)} has the bucket's name in it already. Leave "
        "it out of storage.endpoint_url (or AWS_ENDPOINT_URL), or, if the server itself is called so, set "
        "storage.path_style."
    )


def _listen(requests: Any, session: Any, options: StorageSpec, retry: Retry) -> None:
    """Hook into what botocore does with each request."""
    events = requests.meta.events
    # First, before botocore looks for the region behind a redirect.
    events.register_first("needs-retry.s3", _Patience(retry, requests.meta.endpoint_url).pause)
    if payer := options.request_payer:
        events.register("before-call.s3", lambda params, **_: params["headers"].update(_payer(payer)))
    # By now they have been looked for, and not yet asked for: a role's are fetched with the first request.
    credentials = None if options.anonymous else session.get_credentials()
    if credentials:

        def remember_secrets(**_: Any) -> None:
            now = credentials.get_frozen_credentials()  # those that this request is signed with
            remember(now.secret_key, now.token)

        events.register("before-sign.s3", remember_secrets)


def _payer(payer: str) -> dict[str, str]:
    return {"x-amz-request-payer": payer}


class _Patience:
    """Whether and when a request is sent again, by what became of it."""

    def __init__(self, retry: Retry, endpoint: str) -> None:
        self._retry, self._endpoint = retry, endpoint
        self._has_answered = False

    def pause(
        self,
        response: tuple[Any, dict[str, Any]] | None,
        caught_exception: Exception | None,
        attempts: int,
        operation: Any,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """botocore asks this after every answer and failure: seconds until it is sent again, or None.

        Raises NoS3Error, StayedSilentError.
        """
        retry = self._retry
        if response is None:
            may_pass = isinstance(caught_exception, ConnectionError | HTTPClientError)
            if not self._has_answered and is_unknown_host(caught_exception):
                retry = replace(retry, seconds=0)  # more likely a slip of the pen than a network's
        else:
            if operation.name == "HeadBucket":
                # Where botocore looks for the region. Redirected as well, it would look there without end.
                request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True
            else:
                is_file = operation.has_streaming_output and response[0].raw.status < 300
                _refuse_pages(self._endpoint, response[0], is_file)
            self._has_answered = True
            code = response[1].get("Error", {}).get("Code")
            may_pass = code in PASSING_CODES or response[0].status_code in PASSING_STATUSES
        if not may_pass or operation.name == "AbortMultipartUpload":  # this tidies up after a failure
            return None
        first = request_dict["context"].setdefault("first_failure", retry.clock())
        pause = retry.pause(attempts, retry.clock() - first)
        if pause is None and isinstance(caught_exception, ReadTimeoutError):
            raise StayedSilentError(
                endpoint_url=caught_exception.kwargs["endpoint_url"]
            ) from caught_exception
        return pause


def _refuse_pages(endpoint: str, answer: Any, is_file: bool) -> None:
    """Raise NoS3Error for the answer of what is no S3 server: read as its XML, a web page is an empty bucket.

    `answer` is botocore's, before it was read as XML; `is_file` says that its content is not read yet.
    """
    headers = {name.lower(): str(value) for name, value in answer.headers.items()}
    status = answer.raw.status  # botocore makes 500 of 200 where it finds no XML
    if status in (*PASSING_STATUSES, TOO_LARGE) or any(key.startswith("x-amz-") for key in headers):
        return  # a proxy has a page of its own for a server that is gone
    if is_file:  # any may be a page, but one of S3's has an ETag, or none has
        is_foreign = "html" in headers.get("content-type", "") and "etag" not in headers
    else:
        begin = answer.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
        is_html = begin.startswith((b"<!doctype", b"<html"))
        is_elsewhere = status in REDIRECTS and not begin.startswith(b"<")
        is_foreign = is_html or is_elsewhere or (status in (200, 404) and begin[:1] not in (b"", b"<"))
    if is_foreign:
        answer.raw.close()
        raise NoS3Error(endpoint_url=endpoint, status=status)
