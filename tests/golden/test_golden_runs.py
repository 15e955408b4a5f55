"""The golden runs give the numbers that were recorded: on any CPU about, on the recorded kind to the bit."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.golden.inputs import SONGS, write_inputs
from tests.golden.trainings import (
    RUNS,
    STEPS,
    GoldenRun,
    moved,
    moved_files,
    read_output,
    read_recorded,
    tolerance,
    train,
    training_state,
)


@dataclass(frozen=True)
class Made:
    """A golden run that was just made."""

    name: str
    settings: dict[str, Any]  # of train
    output: Path
    run: GoldenRun


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_inputs(folder)
    return folder


def param(name: str) -> Any:
    """Those that nobody begins any more, and whose like is among the others, are slow."""
    is_like_others = not name.startswith("law2-") and name.endswith("-vanilla")
    return pytest.param(name, marks=pytest.mark.slow) if is_like_others else name


@pytest.fixture(scope="module", params=map(param, RUNS))
def made(request: pytest.FixtureRequest, inputs: Path) -> Made:
    name, output = request.param, inputs / request.param
    settings = train(name, inputs, output)
    return Made(name, settings, output, read_output(name, output))


def test_numbers_are_the_recorded_ones(made: Made) -> None:
    differences = moved(made.name, read_recorded(made.name), made.run)
    too_large = [str(found) for found in differences if not found.relative <= tolerance(made.name)]
    assert not too_large


def test_bits_are_the_recorded_ones(made: Made) -> None:
    recorded = read_recorded(made.name)
    if made.run.machine != recorded.machine:
        pytest.skip("recorded on a machine of another kind, so its bits are not to be had here")
    assert moved_files(recorded, made.run) == []


def test_the_run_feels_what_it_is_there_for(made: Made) -> None:
    """Steps of unequal size, clipping, and tensors that are large enough for 8-bit state."""
    norms, rates = (made.run.curves[tag].tolist() for tag in ("grad_norm/total", "lr"))
    assert len(norms) == STEPS == -(-len(SONGS) // 2) * 2
    assert len(SONGS) % made.settings["accumulation"] == 1
    assert min(norms) > made.settings["max_grad_norm"]
    assert all(later < earlier for earlier, later in pairwise(rates))
    state = load_file(training_state(made.output))
    large = [key for key, value in state.items() if key.startswith("adapter.") and value.numel() >= 4096]
    assert large
    if "8bit" in made.name:
        names = [key.replace("adapter.", "optimizer.", 1) for key in large]
        kinds = {str(state[f"{name}.{part}"].dtype) for name in names for part in ("state1", "state2")}
        assert kinds == {"torch.uint8"}


def test_a_corrected_run_drops_conditions(inputs: Path, tmp_path: Path) -> None:
    train("lora-adamw-corrected", inputs, tmp_path / "none", cfg_dropout=0)
    none = read_output("lora-adamw-corrected", tmp_path / "none").curves["loss/train"]
    some = read_recorded("lora-adamw-corrected").curves["loss/train"]
    assert float((some - none).abs().max()) > 1e-3


def test_what_moved_is_told_by_its_place_and_size() -> None:
    name = "lora-adamw-vanilla"
    old = read_recorded(name)
    assert list(moved(name, old, read_recorded(name))) == []
    key, tensor = max(old.adapter.items(), key=lambda item: item[1].abs().max())
    changed = tensor.clone()
    changed[3, 5] += 0.5 * tensor.abs().max()
    losses = old.curves["loss/train"].clone()
    losses[STEPS - 1] = float("nan")
    new = replace(
        old,
        adapter={**old.adapter, key: changed, "another": tensor},
        curves={**old.curves, "loss/train": losses, "lr": old.curves["lr"][1:]},
        digests=dict.fromkeys(old.digests, "0"),
    )
    found = {difference.quantity: difference for difference in moved(name, old, new)}
    assert found.keys() == {f"{key}[3, 5]", "another", f"loss/train[{STEPS - 1}]", "lr"}
    assert found.pop(f"{key}[3, 5]").relative == pytest.approx(0.5)
    assert {difference.relative for difference in found.values()} == {float("inf")}
    assert moved_files(old, new) == sorted(old.digests)
