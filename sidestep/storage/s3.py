"""S3 and what speaks its protocol, through boto3 and its transfer manager."""

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from s3transfer.subscribers import BaseSubscriber
from s3transfer.utils import ReadFileChunk

from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import replacing
from sidestep.runtime.diskerrors import local_errors
from sidestep.storage.clients import Clients
from sidestep.storage.retry import Limits, was_short
from sidestep.storage.s3_answers import bucket_and_prefix, listed, version_of
from sidestep.storage.s3_client import S3Client, connect
from sidestep.storage.s3_copy import Copy
from sidestep.storage.s3_errors import (
    FAILURES,
    error_code,
    forbids_deleting,
    may_lack_conditions,
    to_user_error,
)
from sidestep.storage.s3_read import Answer, Came, Reader, Write, whole_headers
from sidestep.storage.s3_unfinished import find_unfinished
from sidestep.storage.store import Download, FileInfo, ProgressCallback, Store, Unfinished, no_progress

log = logging.getLogger(__name__)


def open_s3(root: str, options: StorageSpec, limits: Limits) -> "S3Store":
    """Return the store at s3://root, a bucket or bucket/prefix."""
    bucket, _ = bucket_and_prefix(root)
    return S3Store(root, options, Clients(lambda: connect(bucket, options, limits)), limits)


class S3Store(Store):
    """A bucket, or a prefix in one. Readers see a file as a whole or not at all: so S3 is made."""

    def __init__(self, root: str, options: StorageSpec, clients: Clients[S3Client], limits: Limits) -> None:
        self.root, self.options, self.clients, self.limits = root, options, clients, limits
        self.place = f"s3://{root}"
        self.bucket, self._prefix = bucket_and_prefix(root)

    def child(self, path: str) -> Self:
        root = "/".join(part for part in (self.root, self.clean_path(path)) if part)
        return type(self)(root, self.options, self.clients, self.limits)

    def list_files(self, path: str = "") -> list[FileInfo]:
        below, start = (f"{key}/" if key else "" for key in (self._key(path), self._prefix))

        def ask() -> list[FileInfo]:
            with whole_headers(f"{self.place}/{path}"):
                return [
                    FileInfo(found["Key"].removeprefix(start), found["Size"], version_of(found))
                    for found in listed(self._requests, self.bucket, below)
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
            with whole_headers(f"{self.place}/{path}"):
                return FileInfo(self.clean_path(path), found["ContentLength"], version_of(found))

        with self._failures(path):
            return self.limits.retry.call(ask, was_short)

    def read_bytes(self, path: str) -> bytes:
        target, lock = io.BytesIO(), threading.Lock()

        def write(offset: int, block: bytes) -> None:
            with lock:
                target.seek(offset)
                target.write(block)

        self._fetch(path, write, no_progress, came=lambda end: None)
        return target.getvalue()

    def read_range(self, path: str, start: int, size: int) -> bytes:
        blocks: dict[int, bytes] = {}
        with self._failures(path):
            self._reader(path).part(start, size, blocks.__setitem__, no_progress)
        return b"".join(blocks.values())

    def write_bytes(self, path: str, data: bytes) -> None:
        self._send(path, data, len(data), no_progress)

    def create(self, path: str, data: bytes) -> bool:
        """Put with If-None-Match: *. A server that ignores it is found out before a job begins.

        One that refuses it is asked for the file instead, which is then written as any other: two that do
        this at the same moment both write.
        """
        key = self._key(path)
        with self._failures(path):
            client = self.clients.mine()
            if client.has_conditions is not False:
                is_made = _put_if_absent(client, self.bucket, key, data)
                if is_made is not None:
                    client.has_conditions = True
                    return is_made
            if self.stat(path):
                return False
            client.requests.put_object(Bucket=self.bucket, Key=key, Body=io.BytesIO(data))
            client.has_conditions = False  # so that was refused, and nothing else
            return True

    @property
    def creates_atomically(self) -> bool:
        return self.clients.mine().has_conditions is not False

    def download(self, path: str, target: Path, progress: ProgressCallback = no_progress) -> Download | None:
        with (
            local_errors(target),
            replacing(target, lasting=False) as temporary,
            temporary.open("r+b") as file,
        ):
            copy = Copy(file.fileno(), self.limits.part_bytes)

            def write(offset: int, block: bytes) -> None:
                with local_errors(target):  # else it would be the store's failure
                    copy.write(offset, block)

            def came(end: int) -> None:
                with local_errors(target):
                    copy.came(end)

            found = self._fetch(path, write, progress, came)
        if found is None:
            return None
        return Download(FileInfo(self.clean_path(path), found.size, found.version), copy.sha256())

    def upload(self, source: Path, path: str, progress: ProgressCallback = no_progress) -> None:
        # Opened here, as a folder or a missing file would be the store's failure otherwise.
        with local_errors(source), source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
        self._send(path, source, size, progress)

    def delete(self, path: str) -> None:
        with self._failures(path):
            client = self.clients.mine()
            try:
                client.requests.delete_object(Bucket=self.bucket, Key=self._key(path))
            except ClientError as error:
                if not forbids_deleting(error):
                    raise
                level = logging.DEBUG if client.keeps_all else logging.WARNING
                client.keeps_all = True
                log.log(
                    level,
                    "%s/%s stays: the store refuses to delete it (%s). The results are not harmed, but "
                    "what is no longer needed stays there, too, and is paid for.",
                    *(self.place, path, error_code(error)),
                )

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

    def _reader(self, path: str) -> Reader:
        return Reader(
            *(self._requests, self.bucket, self._key(path), f"{self.place}/{path}", self.limits.retry)
        )

    def _fetch(self, path: str, write: Write, progress: ProgressCallback, came: Came) -> Answer | None:
        with self._failures(path):
            parts = self.clients.mine().parts
            return self._reader(path).read(write, self.limits.part_bytes, parts, progress, came)

    def _send(self, path: str, source: Path | bytes, size: int, progress: ProgressCallback) -> None:
        """A small file goes with one request from this thread: through the transfer manager's own threads it
        takes half as much of the processor again."""
        client, key, moved = self.clients.mine(), self._key(path), 0

        def count(bytes_transferred: int) -> None:
            nonlocal moved
            moved += bytes_transferred
            progress(bytes_transferred)

        def opened() -> BinaryIO:
            return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)

        def send_as_one() -> None:
            with opened() as file:
                body = ReadFileChunk(file, size, size, [count], enable_callbacks=False)
                client.requests.put_object(Bucket=self.bucket, Key=key, Body=body)

        def send_in_parts() -> None:
            try:
                whole = str(source) if isinstance(source, Path) else io.BytesIO(source)
                client.transfers.upload(whole, self.bucket, key, subscribers=[Forwarded(count)]).result()
            except KeyError as error:
                # Parts without an ETag cannot be put together. As one it may be sent all the same.
                log.debug("%s/%s is sent as one: an answer came without %s", self.place, path, error)
                count(-moved)
                send_as_one()

        def send() -> None:
            count(-moved)  # what an earlier try had got through
            send_as_one() if size < self.limits.part_bytes else send_in_parts()

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


def _put_if_absent(client: S3Client, bucket: str, key: str, data: bytes) -> bool | None:
    """Whether the file was written, or is there already; None where the server seems to know no conditions.

    What has kept one does: from then on such an answer is a failure like others.
    """
    try:
        # As a stream it is sent in small blocks, each of which has its time limit.
        client.requests.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data), IfNoneMatch="*")
    except ClientError as error:
        if error_code(error) in ("PreconditionFailed", "412"):
            return False
        if client.has_conditions or not may_lack_conditions(error):
            raise
        return None
    return True


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
