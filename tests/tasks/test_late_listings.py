"""A pipeline on a store whose listings lag behind what is written by seconds."""

from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.storage.open import open_store
from sidestep.tasks import run
from tests.faults import faulty_server
from tests.s3 import S3Server
from tests.tasks.preprocessing import MakeJob


@pytest.mark.slow  # a whole pipeline
def test_a_pipeline_counts_on_what_it_has_written(spec: MakeJob, s3_server: S3Server, tmp_path: Path) -> None:
    with faulty_server(s3_server.endpoint) as proxy:
        proxy.listings_lag = 3600
        job: JobSpec = spec().changed(
            {
                "task": "pipeline",
                "dataset_dir": None,
                "output_dir": s3_server.place("out"),
                "storage.endpoint_url": proxy.endpoint,
                "train.epochs": 1,
                "train.adapter.rank": 2,
                "estimate.batches": 1,
            }
        )
        result = run(job)
        assert result and result.steps == 1
        store = open_store(job.output_place, job.storage)
        assert not [file for file in store.list_files("tensors") if file.path.endswith(".pt")]
        assert store.stat("receipt.json")
