"""A run and its trackers: they have TensorBoard's curves, and whatever they do, the bytes are the same."""

import logging
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from sidestep.lifecycle import watching
from sidestep.lifecycle.reporter import Reporter
from sidestep.runtime.errors import AgainError
from sidestep.runtime.preemption import Preemption
from sidestep.tasks import run
from tests.runs import outcome, train
from tests.songs import MakeSpec
from tests.trackers import heard, is_gone, points, with_stand_in

SETTINGS = {"epochs": 2, "log_every": 1, "log_heavy_every": 2, "adapter": {"dropout": 0.1}}


def of_tensorboard(runs: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of each point of its curves."""
    return [
        (value.tag, event.step, float(make_ndarray(value.tensor)))
        for file in sorted(runs.iterdir())
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]


def test_two_attempts_make_tensorboard_s_curves(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with_stand_in(monkeypatch, tmp_path)
    spec = make_spec(**SETTINGS).changed({"runtime.trackers": ["trackio"]})
    preemption, update = Preemption(end_process=lambda code: None), Reporter.update

    def noticed(self: Reporter, **changes: Any) -> None:
        update(self, **changes)
        if changes.get("step") == 2:
            preemption.request()

    with monkeypatch.context() as patch, preemption:
        patch.setattr(Reporter, "update", noticed)
        with pytest.raises(AgainError):
            run(spec, preemption)
    train(spec)
    told: list[Any] = points(tmp_path)
    shown = [
        (tag, step, pytest.approx(value)) for tag, step, value in of_tensorboard(tmp_path / "out" / "runs")
    ]
    assert {tag for tag, _, _ in told} > {"loss/train", "lr", "loss/eval", "grad_norm/total"}
    assert sorted(told, key=lambda point: point[:2]) == sorted(shown, key=lambda point: point[:2])
    assert len({said["name"] for said in heard(tmp_path) if "name" in said}) == 1
    assert len([said for said in heard(tmp_path) if said.get("end")]) == 2
    assert all(is_gone(said["pid"]) for said in heard(tmp_path))
    assert not [
        record for record in caplog.records if "Trackio" in record.getMessage() and record.levelno > 20
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hangs at the start", "hangs", "hangs at the end", "dies once"])
def test_the_bytes_are_the_same_however_badly_it_goes(
    mode: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SECONDS_TO_SEND", 0.5)
    with_stand_in(monkeypatch, tmp_path, mode)
    alone = make_spec("alone", **SETTINGS)
    train(alone)
    tracked = make_spec("tracked", **SETTINGS).changed({"runtime.trackers": ["trackio"]})
    train(tracked)
    assert outcome(tracked) == outcome(alone)
    assert heard(tmp_path)
