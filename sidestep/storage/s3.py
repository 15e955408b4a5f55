"""S3 and what speaks its protocol, through boto3 and its transfer manager.

Which failures are tried again, and for how long, is decided here and not by botocore, whose own laws count
tries and not seconds, and stop trying at all once enough requests of a process have failed.
"""

import functools
import io
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.storage.clients import Clients
from sidestep.storage.retry import Limits, Retry, ShortAnswerError, check_answer, was_short
from sidestep.storage.s3_errors import FAILURES, error_code, to_user_error
from sidestep.storage.s3_unfinished import find_unfinished
from sidestep.storage.store import FileInfo, ProgressCallback, Store, Unfinished, no_progress

_descriptions = create_loader()  # of S3 and its endpoints: to read them takes a client 0.3 s, the first one
PARTIAL = 206
PASSING_STATUSES = (429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted")


@dataclass(frozen=True)
class S3Client:
    """boto3's client, and what moves files with it. Both may be used by many threads at a time."""

    requests: Any
    transfers: TransferManager


def open_s3(root: str, options: StorageSpec, limits: Limits) -> "S3Store":
    """Return the store at s3://root, a bucket or bucket/prefix."""
    return S3Store(root, options, Clients(lambda: connect(options, limits)), limits)


def connect(options: StorageSpec, limits: Limits) -> S3Client:
    """Return a client as the spec says. Credentials are left to botocore's own chain. Nothing is sent yet."""
    path_style = options.path_style if options.path_style is not None else options.endpoint_url is not None
    config = Config(
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},  # see `_pause_before_retry`
        max_pool_connections=2 * options.connections,
        s3={"addressing_style": "path" if path_style else "auto"},
        # Many servers that are not AWS refuse the checksums that newer clients add unasked.
        request_checksum_calculation="when_required" if options.endpoint_url else "when_supported",
        # Otherwise each download would begin with one more request, for the checksum of the whole.
        response_checksum_validation="when_required",
        signature_version=UNSIGNED if options.anonymous else None,
    )
    # A session of its own: the one that boto3 shares is not made for threads, and keeps old credentials.
    session = botocore.session.Session()
    session.register_component("data_loader", _descriptions)
    requests = boto3.session.Session(botocore_session=session).client(
        "s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config
    )
    requests.meta.events.register("needs-retry.s3", functools.partial(_pause_before_retry, limits.retry))
    transfers = TransferConfig(
        multipart_threshold=limits.part_bytes,
        multipart_chunksize=limits.part_bytes,
        max_request_concurrency=options.connections,
    )
    return S3Client(requests, TransferManager(requests, transfers))


class StayedSilentError(HTTPClientError):  # type: ignore[misc]  # published without types
    """A server answered nothing, time and again. The transfer manager would ask on after ReadTimeoutError."""

    fmt = "No answer from {endpoint_url}"


def _pause_before_retry(
    retry: Retry,
    response: tuple[Any, dict[str, Any]] | None,
    caught_exception: Exception | None,
    attempts: int,
    operation: Any,
    request_dict: dict[str, Any],
    **_: Any,
) -> float | None:
    """botocore asks this after every answer and failure: seconds until the request is sent again, or None."""
    if response is None:
        may_pass = isinstance(caught_exception, ConnectionError | HTTPClientError)
    else:
        code = response[1].get("Error", {}).get("Code")
        may_pass = code in PASSING_CODES or response[0].status_code in PASSING_STATUSES
    if not may_pass or operation.name == "AbortMultipartUpload":  # this tidies up after a failure
        return None
    first = request_dict["context"].setdefault("first_failure", retry.clock())
    pause = retry.pause(attempts, retry.clock() - first)
    if pause is None and isinstance(caught_exception, ReadTimeoutError):
        raise StayedSilentError(endpoint_url=caught_exception.kwargs["endpoint_url"]) from caught_exception
    return pause


class S3Store(Store):
    """A bucket, or a prefix in one. Readers see a file as a whole or not at all: so S3 is made."""

    def __init__(self, root: str, options: StorageSpec, clients: Clients[S3Client], limits: Limits) -> None:
        self.root, self.options, self.clients, self.limits = root, options, clients, limits
        self.place = f"s3://{root}"
        self.bucket, _, self._prefix = root.partition("/")

    def child(self, path: str) -> Self:
        root = "/".join(part for part in (self.root, self.clean_path(path)) if part)
        return type(self)(root, self.options, self.clients, self.limits)

    def list_files(self, path: str = "") -> list[FileInfo]:
        below, start = (f"{key}/" if key else "" for key in (self._key(path), self._prefix))

        def ask() -> list[FileInfo]:
            pages = self._requests.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
            return [
                FileInfo(found["Key"].removeprefix(start), found["Size"], found["ETag"].strip('"'))
                for page in pages
                for found in page.get("Contents", ())
                # An empty object whose name ends with a slash is how consoles show an empty folder.
                if not found["Key"].endswith("/")
            ]

        with self._failures(path):
            return sorted(self.limits.retry.call(ask, _was_misheard), key=lambda info: info.path)

    def stat(self, path: str) -> FileInfo | None:
        def ask() -> FileInfo | None:
            try:
                found = self._requests.head_object(Bucket=self.bucket, Key=self._key(path))
            except ClientError as error:
                if error_code(error) not in ("404", "NoSuchKey"):
                    raise
                self._refuse_missing_bucket()
                return None
            with _whole_headers(f"{self.place}/{path}"):
                return FileInfo(self.clean_path(path), found["ContentLength"], found["ETag"].strip('"'))

        with self._failures(path):
            return self.limits.retry.call(ask, was_short)

    def read_bytes(self, path: str) -> bytes:
        target = io.BytesIO()
        self._fetch(path, target, no_progress)
        return target.getvalue()

    def read_range(self, path: str, start: int, size: int) -> bytes:
        asked_for = f"bytes={start}-{start + size - 1}"

        def ask() -> bytes:
            try:
                found = self._requests.get_object(Bucket=self.bucket, Key=self._key(path), Range=asked_for)
            except ClientError as error:
                if error_code(error) not in ("InvalidRange", "416"):
                    raise
                return b""  # it ends before
            with closing(found["Body"]) as body:
                if found["ResponseMetadata"]["HTTPStatusCode"] == PARTIAL:
                    data = bytes(body.read())
                    whole = int(found["ContentRange"].rpartition("/")[2])
                    check_answer(f"{self.place}/{path}", len(data), min(size, whole - start))
                    return data
                return bytes(body.read(start + size)[start:])  # from a server that knows no ranges

        with self._failures(path):
            return self.limits.retry.call(ask, _broke_off)

    def write_bytes(self, path: str, data: bytes) -> None:
        self._send(path, io.BytesIO(data), no_progress)

    def create(self, path: str, data: bytes) -> bool:
        """Put with If-None-Match: *. A server that ignores it is found out by the commit log."""
        key = self._key(path)
        with self._failures(path):
            try:
                # As a stream it is sent in small blocks, each of which has its time limit.
                self._requests.put_object(Bucket=self.bucket, Key=key, Body=io.BytesIO(data), IfNoneMatch="*")
            except ClientError as error:
                if error_code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> None:
        with local_errors(target), replacing(target) as temporary, temporary.open("wb") as file:
            self._fetch(path, file, progress)

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        with local_errors(source):
            source.open("rb").close()  # else a folder or a missing file would be the store's failure
        self._send(path, str(source), progress)

    def delete(self, path: str) -> None:
        with self._failures(path):
            self._requests.delete_object(Bucket=self.bucket, Key=self._key(path))

    def unfinished(self) -> list[Unfinished]:
        below = f"{self._prefix}/" if self._prefix else ""
        with self._failures(""):
            return self.limits.retry.call(
                lambda: list(find_unfinished(self._requests, self.bucket, below)), _was_misheard
            )

    def discard(self, unfinished: Unfinished) -> None:
        if not unfinished.upload:
            return self.delete(unfinished.path)
        key = self._key(unfinished.path)
        with self._failures(unfinished.path):
            try:
                self._requests.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=unfinished.upload)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":  # completed or discarded since
                    raise

    @property
    def _requests(self) -> Any:
        return self.clients.mine().requests

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self._prefix, self.clean_path(path)) if part)

    def _fetch(self, path: str, target: io.IOBase, progress: ProgressCallback) -> None:
        """In parts where it is large; a part that breaks off is asked for again, of the same version.

        A part that is whole and too short is not noticed by the manager, and leaves a hole.
        """
        key, moved, lock = self._key(path), 0, threading.Lock()

        def count(size: int) -> None:
            nonlocal moved
            with lock:
                moved += size
            progress(size)

        def fetch() -> None:
            count(-moved)  # what an earlier try had got through
            if target.tell():
                target.seek(0)
                target.truncate()
            manager = self.clients.mine().transfers
            asked = manager.download(self.bucket, key, target, subscribers=[Forwarded(count)])
            try:
                with _whole_headers(f"{self.place}/{path}"):
                    asked.result()
            except ClientError as error:
                # An empty file has no first part. The manager knows that answer by another name alone.
                if error_code(error) == "416":
                    return
                raise
            check_answer(f"{self.place}/{path}", moved, asked.meta.size)

        with self._failures(path):
            self.limits.retry.call(fetch, was_short)

    def _send(self, path: str, source: str | io.BytesIO, progress: ProgressCallback) -> None:
        key, moved = self._key(path), 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            progress(size)

        def send() -> None:
            count(-moved)  # what an earlier try had got through
            if not isinstance(source, str):
                source.seek(0)
            manager = self.clients.mine().transfers
            manager.upload(source, self.bucket, key, subscribers=[Forwarded(count)]).result()

        with self._failures(path):
            self.limits.retry.call(send, _was_misheard)

    def _refuse_missing_bucket(self) -> None:
        """A missing file is told from a missing bucket by asking: the answer to HEAD has no words."""
        try:
            self._requests.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error_code(error) == "404":
                error.response["Error"]["Code"] = "NoSuchBucket"
                raise

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise to_user_error(error, f"{self.place}/{path}".rstrip("/"), self.place) from error


def _broke_off(error: Exception) -> bool:
    """Whether an answer's body came to an end before its time, so that it is to be asked for again."""
    return isinstance(error, IncompleteReadError | HTTPClientError) or was_short(error)


def _was_misheard(error: Exception) -> bool:
    """Whether an answer broke off within, so that what was asked is to be asked again.

    Either it was an answer's XML, which `_pause_before_retry` does not get to see, or the one that said that
    an upload in parts is complete: then the request sent again finds no such upload.
    """
    return isinstance(error, ResponseParserError) or error_code(error) == "NoSuchUpload"


class Forwarded(BaseSubscriber):  # type: ignore[misc]  # published without types
    """The transfer manager's progress, passed on; what must be moved again counts negative."""

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
        self._progress(bytes_transferred)


@contextmanager
def _whole_headers(where: str) -> Iterator[None]:
    """An answer that was cut off within its headers lacks some of them, which nothing below notices."""
    try:
        yield
    except KeyError as error:
        raise ShortAnswerError(
            f"{where}: an answer came without {error}, time and again. Run the same command again; if that "
            "does not pass, ask who runs the store, or a proxy before it."
        ) from error
