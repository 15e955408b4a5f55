"""`sidestep launch` with real processes, of which one is killed: what is said of it, and where."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidestep.config.yaml12 import dump_yaml
from sidestep.lifecycle.status import Status
from sidestep.lifecycle.watching import last_words
from sidestep.runtime.ranks import ENDS_VARIABLE
from tests.facts import tells
from tests.songs import MakeSpec

REPO = Path(__file__).parents[2]


def test_a_job_that_the_launcher_ends_before_it_trains_says_which_rank_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = os.memfd_create("ends")
    monkeypatch.setenv(ENDS_VARIABLE, str(noted))
    assert "signal" in last_words(KeyboardInterrupt())
    os.write(noted, b"1 71\n")
    assert tells(last_words(KeyboardInterrupt()), "rank 1 was lost with 71")
    os.close(noted)


@pytest.mark.slow
def test_log_and_status_say_which_rank_was_killed(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=3000)
    Path("job.yaml").write_bytes(dump_yaml(spec.model_dump(mode="json")))
    launched = subprocess.Popen(
        [sys.executable, "-m", "sidestep", "launch", "--processes", "2", "train", "--config", "job.yaml"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )
    status = Path(spec.output_place) / "status.json"
    while launched.poll() is None and not (status.is_file() and '"phase": "train"' in status.read_text()):
        time.sleep(0.1)
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    for child in map(int, children):
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            os.kill(child, signal.SIGKILL)
    said = launched.communicate(timeout=120)[1]
    assert launched.returncode == 76
    assert tells(said, "SIGTERM came from the launcher, as rank 1 was lost with 137")
    assert "saving and ending" not in said
    assert tells(Status.read(status.read_bytes(), "status.json").message, "rank 1 was lost with 137")
