"""The estimate task: the same ranking for the same songs, as files and as a line to paste."""

import json
import logging
from pathlib import Path

import pytest

from sidestep.config.job import JobSpec
from sidestep.tasks import estimate as module
from sidestep.tasks.estimate import estimate
from tests.runs import run_task, train
from tests.songs import MakeSpec


@pytest.fixture
def spec(make_spec: MakeSpec, tmp_path: Path) -> JobSpec:
    values = make_spec().model_dump() | {"task": "estimate", "estimate": {"batches": 4, "top_k": 5}}
    return JobSpec.load(None, **values)


def test_the_report(spec: JobSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    norms = run_task(estimate, spec)
    assert len(norms) == 4 * 2 * 4  # layers, self and cross attention, q k v o
    assert list(norms.values()) == sorted(norms.values(), reverse=True)
    report = json.loads((tmp_path / "out" / "estimate" / "report.json").read_text())
    assert {entry["module"]: entry["norm"] for entry in report["modules"]} == norms
    assert (tmp_path / "out" / "estimate" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert module.report(spec) == report
    line = "--target-modules " + " ".join(list(norms)[:5])
    assert line in caplog.text


def test_its_line_can_be_trained(spec: JobSpec, make_spec: MakeSpec) -> None:
    best = list(run_task(estimate, spec))[:5]
    assert train(make_spec("trained", adapter={"target_modules": best})).steps == 4


def test_it_is_made_once(
    spec: JobSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    first = run_task(estimate, spec)
    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare_setup", lambda *_: pytest.fail("measured again"))
        assert run_task(estimate, spec) == first
    assert "Already estimated" in caplog.text
    more = JobSpec.load(None, **(spec.model_dump() | {"estimate": {"batches": 6}}))
    assert run_task(estimate, more) != first
