"""Preprocessing again into a bucket: its listing answers for what is there, and only the rest is fetched."""

import json
import shutil
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.storage.store import Store
from sidestep.tasks.preprocess import preprocess
from tests.runs import run_task
from tests.s3 import S3Server
from tests.tasks.preprocessing import Counted, MakeJob, tensors


@pytest.fixture
def store(s3_server: S3Server) -> Store:
    return s3_server.store("tensors")


@pytest.fixture
def job(spec: MakeJob, s3_server: S3Server) -> JobSpec:
    """Made once."""
    made = spec(dataset_dir=s3_server.place("tensors"), storage={"endpoint_url": s3_server.endpoint})
    run_task(preprocess, made)
    return made


def fetched(job: JobSpec, calls: list[str]) -> set[str]:
    """The tensors that are fetched when it is preprocessed again, on another machine."""
    shutil.rmtree(str(job.runtime.workspace))
    calls.clear()
    run_task(preprocess, job)
    return {call.split("/")[-1] for call in calls if call.startswith("GetObject") and call.endswith(".pt")}


def test_nothing_is_fetched_where_nothing_is_to_be_done(
    job: JobSpec, counted: Counted, s3_calls: list[str]
) -> None:
    """Also by the first one after what made them, which has fetched none."""
    counted()
    for _ in range(2):
        assert fetched(job, s3_calls) == set() and counted() == {}
    assert s3_calls.count("ListObjectsV2 tensors/") == 1
    assert not [call for call in s3_calls if call.startswith("PutObject")]
    assert not [call for call in s3_calls if call.startswith("HeadObject") and call.endswith(".pt")]


def test_what_is_replaced_cut_or_gone_is_made_anew(
    job: JobSpec, store: Store, counted: Counted, s3_calls: list[str]
) -> None:
    counted()
    made = tensors(job)
    one, two = made
    for damaged in (bytes([made[one][0] ^ 1]) + made[one][1:], made[one][:-10]):
        store.write_bytes(one, damaged)
        store.delete(two)
        assert fetched(job, s3_calls) == {one}
        assert counted()["encode_conditions"] == 2 and tensors(job) == made
    assert fetched(job, s3_calls) == set()


def test_of_an_older_index_all_are_fetched_once(job: JobSpec, store: Store, s3_calls: list[str]) -> None:
    index = json.loads(store.read_bytes("index.json"))
    assert len(index.pop("stored")) == 2
    store.write_bytes("index.json", json.dumps(index).encode())
    assert fetched(job, s3_calls) == tensors(job).keys()
    assert fetched(job, s3_calls) == set()


def test_a_disk_s_index_says_nothing_of_sizes_and_times(spec: MakeJob) -> None:
    run_task(preprocess, spec())
    run_task(preprocess, spec())
    assert "stored" not in json.loads(Path(spec().tensors_place, "index.json").read_bytes())
