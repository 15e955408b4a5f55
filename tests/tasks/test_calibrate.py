"""The strength of an adapter: its held-out loss over a grid, in the report, and in the card if asked."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.report.strength import At
from sidestep.tasks.calibrate import best_of
from tests.facts import tells
from tests.runs import adapter, train
from tests.songs import MakeSpec


def losses_in(output: Path) -> dict[float, float]:
    found = json.loads((output / "strength.json").read_bytes())
    return {at["strength"]: at["loss"] for at in found["losses"]}


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_losses_are_those_of_the_runs_validations(
    make_spec: MakeSpec, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    out, changes = tmp_path / "out", {"adapter": {"type": kind, "rank": 2}, "chunk_duration": 1, "seed": 5}
    spec = make_spec(**changes, validation={"songs": ["*2*"], "draws": 2})
    result, made = train(spec), adapter(spec)
    assert main(["calibrate", str(out), "--strength", "1,0,0.5,0.5"]) == 0
    losses = losses_in(out)
    assert list(losses) == [0, 0.5, 1]
    assert losses[0] == pytest.approx(result.held_out[0], abs=1e-5)
    assert losses[1] == pytest.approx(result.held_out[max(result.held_out)], abs=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3 < abs(losses[0] - losses[0.5])
    assert adapter(spec) == made, "the card is told nothing"
    page = (out / "report.html").read_text()
    assert tells(page, "Held-out loss by strength", *(f"{loss:.4f}" for loss in losses.values()))
    before = (out / "strength.json").read_bytes()
    assert main(["calibrate", str(out), "--strength", "0,0.5,1", "--card"]) == 0
    best = min(losses, key=lambda strength: losses[strength])
    assert losses_in(out) == losses and (out / "strength.json").read_bytes() != before
    card: dict[str, Any] = json.loads(adapter(spec)["card.json"])
    assert card["suggested"]["strength"] == best
    told = (out / "report.html").read_bytes(), adapter(spec)
    caplog.set_level(logging.INFO)
    caplog.clear()
    train(spec)
    assert ((out / "report.html").read_bytes(), adapter(spec)) == told and "Made again" not in caplog.text


def test_a_card_never_suggests_to_leave_its_adapter_out(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = make_spec(epochs=1, validation={"songs": ["*2*"], "draws": 1})
    train(spec)
    assert main(["calibrate", spec.output_place, "--strength", "0", "--card"]) == 0
    assert tells(caplog.text, "strength 0", "the base model", "suggests none")
    assert json.loads(adapter(spec)["card.json"])["suggested"]["strength"] == 1
    assert main(["calibrate", spec.output_place, "--strength", "0.5", "--card"]) == 0
    assert tells(caplog.text, "strength 0.5, the highest that was tried")
    assert json.loads(adapter(spec)["card.json"])["suggested"]["strength"] == 0.5


def test_without_held_out_songs_no_loss_can_tell(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(epochs=1)
    train(spec)
    assert main(["calibrate", spec.output_place]) == 78
    assert tells(caplog.text, "train.validation.share", tmp_path / "out")
    assert main(["calibrate", str(tmp_path / "nowhere")]) == 66
    assert main(["calibrate", spec.output_place, "--strength", "1,nan"]) == 64


def test_the_best_is_the_nearest_to_one_of_equals() -> None:
    losses = [At(strength=0.5, loss=1), At(strength=1.25, loss=1), At(strength=1.5, loss=None)]
    assert best_of(losses) == 1.25
    assert best_of(losses[2:]) is None
