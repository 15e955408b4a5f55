"""What killed writers leave is cleared by the next one, beside others that live."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.leftovers import DAY, clear_finished, clear_unfinished
from sidestep.commitlog.log import CommitLog
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.schema import StorageSpec
from sidestep.runtime.atomic import TEMPORARY
from sidestep.runtime.errors import AccessError, StorageError
from sidestep.storage.open import open_store
from sidestep.storage.s3 import S3Store
from sidestep.storage.store import PROBE, Store, Unfinished
from tests.s3 import S3Server

OF_OLD_WRITERS = ["checkpoints/checkpoint-epoch-1", "checkpoints/checkpoint-step-7.g2"]
OF_NOBODY_OLD = ["checkpoints/checkpoint-step-9.g3", "tensors", "checkpoints/by-hand", "commits"]
Begin = Callable[[str], Callable[[], bool]]


class Bucket:
    """Uploads in parts, and when they grew."""

    def __init__(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        store = server.store("runs/a")
        assert isinstance(store, S3Store)
        self.store, self.requests = store, store.clients.mine().requests
        self.ages: dict[str, float] = {}
        self._patch = monkeypatch
        make = self.requests.get_paginator

        def paginator(operation: str) -> Any:
            pages = make(operation)
            if operation == "list_multipart_uploads":  # moto says that all were begun in 2010
                ask = pages.paginate
                pages.paginate = lambda **given: map(self._dated, ask(**given))
            return pages

        monkeypatch.setattr(self.requests, "get_paginator", paginator)

    def begin(self, key: str, age: float = 0) -> str:
        made = self.requests.create_multipart_upload(Bucket=self.store.bucket, Key=key)
        self.ages[key] = age
        return str(made["UploadId"])

    def keys(self) -> list[str]:
        found = self.requests.list_multipart_uploads(Bucket=self.store.bucket)
        return sorted(upload["Key"] for upload in found.get("Uploads", ()))

    def _dated(self, page: dict[str, Any]) -> dict[str, Any]:
        for upload in page.get("Uploads", ()):
            upload["Initiated"] = datetime.now(UTC) - timedelta(seconds=self.ages[upload["Key"]])
        return page


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket(s3_server, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs" / "a"), StorageSpec())


def begin(store: Store) -> Writer:
    writer = take_over(CommitLog(store), Lease(0), None, {})
    writer.release()
    return writer


def finish(store: Store, folder: Path, kept: int = 1) -> Writer:
    """A run with two commits that is finished."""
    writer = begin(store)
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "a").write_bytes(b"a")
    for step in (1, 2):
        name = f"checkpoint-step-{step}"
        writer.commit(folder / "files", name, step, writer.checkpoints(name)[:kept])
    writer.finish()
    return writer


def test_the_next_writer_aborts_what_older_ones_were_sending(bucket: Bucket) -> None:
    for folder in OF_OLD_WRITERS + OF_NOBODY_OLD:
        bucket.begin(f"runs/a/{folder}/file")
    for _ in range(3):
        writer = begin(bucket.store)
    assert writer.generation == 3
    assert bucket.keys() == sorted(f"runs/a/{folder}/file" for folder in OF_NOBODY_OLD)


def test_elsewhere_uploads_that_have_not_grown_for_a_day_are_aborted(bucket: Bucket) -> None:
    """But not in folders of later generations, which are those writers' own."""
    for folder in OF_NOBODY_OLD:
        bucket.begin(f"runs/a/{folder}/file", age=DAY + 60)
        bucket.begin(f"runs/a/{folder}/younger", age=DAY - 60)
    begin(bucket.store)
    left = [f"runs/a/{folder}/younger" for folder in OF_NOBODY_OLD]
    assert bucket.keys() == sorted([f"runs/a/{OF_NOBODY_OLD[0]}/file", *left])


def test_an_upload_that_grows_slowly_is_not_aborted(bucket: Bucket) -> None:
    key = "runs/a/tensors/song.pt"
    upload = bucket.begin(key, age=3 * DAY)
    bucket.requests.upload_part(
        Bucket=bucket.store.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"just now"
    )
    begin(bucket.store)
    assert bucket.keys() == [key]


def test_other_outputs_are_not_touched(bucket: Bucket) -> None:
    """Their names only begin alike."""
    keys = [
        f"{run}/checkpoints/checkpoint-epoch-1/file" for run in ("runs/a-2", "runs/a.b", "runs", "runs/aa")
    ]
    for key in keys:
        bucket.begin(key, age=3 * DAY)
    begin(bucket.store)
    begin(bucket.store)
    assert bucket.keys() == sorted(keys)


def test_an_upload_that_has_ended_meanwhile_is_no_failure(bucket: Bucket) -> None:
    upload = bucket.begin("runs/a/tensors/song.pt")
    [found] = bucket.store.unfinished()
    assert (found.path, found.upload) == ("tensors/song.pt", upload)
    bucket.store.discard(found)
    bucket.store.discard(found)
    assert bucket.keys() == []


@pytest.mark.parametrize("error", [AccessError("403"), StorageError("501")])
def test_a_store_that_does_not_tell_is_said_once_and_gone_on_with(
    local: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def refused() -> list[Unfinished]:
        raise error

    monkeypatch.setattr(local, "unfinished", refused)
    begin(local)
    assert caplog.text.count(str(error)) == 1


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_what_a_server_without_a_clock_has_is_young(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, date: str | None
) -> None:
    def undated(page: dict[str, Any]) -> dict[str, Any]:
        headers = page["ResponseMetadata"]["HTTPHeaders"]
        del headers["date"]
        headers.update({"date": date} if date else {})
        return page

    monkeypatch.setattr(bucket, "_dated", undated)
    bucket.begin("runs/a/tensors/song.pt")
    begin(bucket.store)
    assert bucket.keys() == ["runs/a/tensors/song.pt"]


def leave(store: Store, path: str, age: float) -> Path:
    """A temporary file, or a probe, by a process that was killed."""
    assert store.local_root
    file = store.local_root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half a copy")
    then = file.stat().st_mtime - age
    os.utime(file, (then, then))
    return file


def test_temporary_files_and_probes_on_a_disk(local: Store) -> None:
    gone = [leave(local, f"{folder}/{TEMPORARY}1", 0) for folder in OF_OLD_WRITERS]
    gone += [leave(local, f"{folder}/{TEMPORARY}1", DAY + 60) for folder in OF_NOBODY_OLD[1:]]
    gone += [leave(local, f"{PROBE}1", DAY + 60)]
    stay = [leave(local, f"{folder}/{TEMPORARY}2", DAY - 60) for folder in OF_NOBODY_OLD]
    stay += [leave(local, f"{PROBE}2", DAY - 60), leave(local, f"tensors/{PROBE}3", 3 * DAY)]
    for _ in range(3):
        begin(local)
    assert [file for file in gone if file.exists()] == []
    assert [file for file in stay if not file.exists()] == []
    assert local.local_root and not (local.local_root / OF_OLD_WRITERS[0]).exists()


def test_age_goes_by_the_store_s_clock(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's may differ from this machine's by days."""
    file = leave(local, f"tensors/{TEMPORARY}1", 0)
    monkeypatch.setattr("time.time", lambda: file.stat().st_mtime + 3 * DAY)
    begin(local)
    assert file.exists()


def test_probes_in_a_bucket(bucket: Bucket) -> None:
    bucket.store.create(f"{PROBE}1", b"")
    [found] = bucket.store.unfinished()
    assert found.path == f"{PROBE}1" and abs(found.age) < 600
    bucket.store.discard(found)
    assert bucket.store.unfinished() == []


@pytest.mark.parametrize("generation", [1, 2])
def test_what_a_finished_run_has_left_is_cleared(local: Store, tmp_path: Path, generation: int) -> None:
    """A checkpoint too many, where its writer was killed between the last record and its clean-up."""
    finish(local, tmp_path)
    commits = CommitLog(local)
    done = commits.tail()
    assert done
    extra = [leave(local, f"checkpoints/checkpoint-step-1{end}/a", 0) for end in ("", ".g2")]
    half = leave(local, f"checkpoints/checkpoint-step-2/{TEMPORARY}1", 0)
    if generation == 2:
        begin(local)
    clear_finished(commits, done)
    assert [file.exists() for file in extra] == [generation == 2, True]
    assert not half.exists()
    assert commits.fetch_newest(tmp_path / "newest", commits.tail())


def test_nothing_is_left_to_clear(local: Store) -> None:
    clear_unfinished(local, 1)  # where the folder itself is not there, too
    assert local.unfinished() == []
