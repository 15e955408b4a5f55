"""Processes that have nothing to do: told wherever they are asked for, or paid for."""

import socket
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.processes import rounds, said_of_idle
from sidestep.config.training import TrainSpec
from sidestep.runtime.errors import MachineError, PeerLostError
from sidestep.tasks import run
from tests.facts import tells
from tests.songs import MakeSpec


@pytest.mark.parametrize(
    ("processes", "epoch", "idle"),
    [(1, None, 0), (8, None, 0), (8, 100, 0), (9, None, 1), (8, 5, 3), (4, 5, 0)],
)
def test_as_many_as_the_samples_of_a_step(processes: int, epoch: int | None, idle: int) -> None:
    """A step has no more samples than an epoch."""
    said = said_of_idle(TrainSpec(batch_size=2, accumulation=4), processes, epoch)
    assert tells(said, f"{idle} of {processes} ", f" {processes - idle} samples") if idle else not said


@pytest.mark.parametrize(("samples", "processes", "found"), [(8, 8, 1), (9, 8, 2), (3, 8, 1), (8, 1, 8)])
def test_rounds(samples: int, processes: int, found: int) -> None:
    assert rounds(samples, processes) == found


@pytest.mark.parametrize(("gpus", "is_said"), [(8, True), (4, False)])
def test_a_rendered_job_is_warned_of_them(
    gpus: int, is_said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(
        "{task: train, checkpoint_dir: s3://b/c, dataset_dir: s3://b/t, output_dir: s3://b/o,"
        f" train: {{accumulation: 4}}, runtime: {{gpus: {gpus}}}}}"
    )
    for platform in ("skypilot", "helm"):
        assert main(["render", platform, "job.yaml"]) == 0
        assert tells(capsys.readouterr().err, "4 of 8", "train.accumulation 4") == is_said


@pytest.mark.parametrize(("rank", "count", "is_said"), [(0, 4, True), (0, 2, False), (1, 4, False)])
def test_rank_0_warns_of_them_as_it_starts(
    make_spec: MakeSpec,
    rank: int,
    count: int,
    is_said: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The meeting fails, as the port is another program's, or as nobody is met."""
    monkeypatch.setattr("sidestep.training.meeting.MEET_WITHIN", 0.1)
    names: dict[str, object] = {
        "RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
    }
    with socket.create_server(("127.0.0.1", 0)) as other:
        names["MASTER_PORT"] = other.getsockname()[1]
        if rank:
            other.close()
        for name, value in names.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(MachineError if rank == 0 else PeerLostError):
            run(make_spec(batch_size=1, accumulation=2))
    assert tells(caplog.text, "2 of 4 processes", "accumulation 2") == is_said
