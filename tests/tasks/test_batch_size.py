"""train.batch_size over the life of a run: it may change on the way, and the samples of a step may not."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from sidestep.config.job import JobSpec
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts
from tests.golden.trainings import largest_difference
from tests.runs import outcome, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

STOPPED_AFTER = 7  # steps: in the middle of the second of three epochs of four
EVERY_STEP = {"every_steps": 1, "every_minutes": None}


@pytest.fixture
def spec_of(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """Seven songs of one length and of unequal conditions: an epoch's last step has one."""
    tensors = write_songs(tmp_path / "seven", [song(n, conditions=3 + n) for n in range(7)])

    def spec(output: str, batch_size: int, accumulation: int, **changes: Any) -> JobSpec:
        cut = {"batch_size": batch_size, "accumulation": accumulation}
        return make_spec(output, dataset_dir=tensors, epochs=3, checkpoint=EVERY_STEP, **cut, **changes)

    return spec


def receipt_of(spec: JobSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(spec.output_place, "receipt.json").read_text())
    return found


def test_a_resumed_run_is_the_uninterrupted_one(spec_of: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = spec_of("whole", 2, 1), spec_of("cut", 2, 1)
    train(whole)
    train_until_stopped(cut, monkeypatch, commits=STOPPED_AFTER)
    train(cut)
    assert outcome(cut) == outcome(whole)
    assert receipt_of(cut)["bit_equality"] == "claimed"


@pytest.mark.parametrize(
    "then", [(4, 1), *(pytest.param(cut, marks=pytest.mark.slow) for cut in ((2, 2), (1, 4)))]
)
def test_another_cut_of_the_same_steps_goes_on(
    spec_of: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    then: tuple[int, int],
) -> None:
    """From 1 × 4, or 4 × 1: the same samples in each step, and no claim of equal bytes."""
    begun = (4, 1) if then == (1, 4) else (1, 4)
    whole, cut = spec_of("whole", *begun), spec_of("cut", *begun)
    train(whole)
    train_until_stopped(cut, monkeypatch, commits=3)  # of six steps: in the second epoch
    caplog.clear()
    train(spec_of("cut", *then))
    assert f"batch_size: {begun[0]} then, {then[0]} now" in caplog.text
    assert receipt_of(cut)["bit_equality"].startswith("not claimed")
    (found, losses), (wanted, wanted_losses) = outcome(cut), outcome(whole)
    assert losses == pytest.approx(wanted_losses, rel=1e-4)
    name = "adapter_model.safetensors"
    assert largest_difference(load(wanted[name]), load(found[name])) <= 1e-2  # AdamW takes the sign of noise


def test_steps_of_another_size_are_another_run(spec_of: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until_stopped(spec_of("cut", 1, 4), monkeypatch, commits=2)
    for then in ((4, 4), (1, 3), (2, 4)):
        names = ("train.batch_size", "train.accumulation")
        with pytest.raises(BadSpecError, match=facts(*names, "4 then", f"{then[0] * then[1]} now")) as error:
            train(spec_of("cut", *then))
        assert error.value.exit_code == 78
