"""A pipeline whose places are all in a bucket moves each large file once, whatever phases use it."""

from collections import Counter
from pathlib import Path

import pytest

from sidestep.storage.retry import LIMITS
from sidestep.tasks import run
from tests.odd_server import odd_server
from tests.s3 import S3Server
from tests.tasks.preprocessing import MakeJob


@pytest.mark.slow  # a whole pipeline
def test_no_phase_of_a_pipeline_pulls_again(
    spec: MakeJob, s3_server: S3Server, golden: Path, songs: Path
) -> None:
    for folder, root in (("models", golden / "checkpoints"), ("songs", songs)):
        store = s3_server.store(folder)
        for file in sorted(root.rglob("*")):
            if file.is_file() and "xl" not in file.parent.name:
                store.upload(file, file.relative_to(root).as_posix())
    with odd_server(s3_server.endpoint) as proxy:
        job = spec().changed(
            {
                "task": "pipeline",
                "checkpoint_dir": s3_server.place("models"),
                "audio_dir": s3_server.place("songs"),
                "dataset_dir": None,
                "output_dir": s3_server.place("out"),
                "storage.endpoint_url": proxy.endpoint,
                "train.epochs": 1,
                "train.adapter.rank": 2,
                "estimate.batches": 1,
            }
        )
        assert run(job)
        whole = f"bytes=0-{LIMITS.part_bytes - 1}"  # headers are read in smaller ranges
        pulled = Counter(
            request.path.partition("?")[0]
            for request in proxy.requests
            if request.method == "GET" and request.headers.get("range") == whole
        )
    large = {key: count for key, count in pulled.items() if key.endswith((".safetensors", ".wav", ".pt"))}
    assert any(".wav" in key for key in large) and any("model" in key for key in large)
    assert set(large.values()) == {1}
