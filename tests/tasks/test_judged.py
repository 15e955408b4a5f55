"""A run with songs held out, as a user runs it: what its output says of them."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidestep.config.job import JobSpec
from sidestep.data.sides import HEADER, Sides, sides_in
from sidestep.lifecycle.reporter import Reporter
from sidestep.tasks import estimate as estimating
from sidestep.tasks.estimate import estimate
from sidestep.training.numbers import Validation, numbers_in
from sidestep.training.validation import Validator
from tests.golden.trainings import sha256 as sha256_without_card
from tests.runs import adapter, newest, run_task, train
from tests.songs import MakeSpec, sha256, song, write_songs

HELD_OUT = {"songs": ["3", "5"], "every_epochs": 1, "draws": 3}


@pytest.fixture
def make_judged(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """A spec with eight songs, of which two are held out; two epochs of three steps."""
    folder = write_songs(tmp_path / "eight", [song(number) for number in range(8)])
    settings = {"dataset_dir": folder, "validation": HELD_OUT}
    return lambda output="out", **changes: make_spec(output, **{**settings, **changes})


def _sides(folder: Path) -> dict[str, Sides | None]:
    found = {}
    for path in folder.glob("*.safetensors"):
        if path.name != "training_state.safetensors":
            with safe_open(path, framework="pt") as file:
                found[path.name] = sides_in(file.metadata(), path.name)
    return found


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ({"type": "lora"}, {"adapter_model.safetensors"}),
        ({"type": "lokr"}, {"lokr_weights.safetensors", "diffusers_lokr_weights.safetensors"}),
    ],
)
def test_the_adapter_s_files_say_which_songs_are_held_out(
    make_judged: MakeSpec, kind: dict[str, Any], names: set[str]
) -> None:
    spec = make_judged(adapter=kind)
    train(spec)
    kept = numbers_in(Path(spec.output_place, newest(spec).folder)).sides
    assert kept and sum(one.held_out for one in kept.songs) == 2
    assert _sides(Path(spec.output_place, "adapter")) == dict.fromkeys(names, kept)


def test_where_nothing_is_held_out_they_say_nothing(make_judged: MakeSpec) -> None:
    off = make_judged("off", validation={})
    train(off)
    assert set(_sides(Path(off.output_place, "adapter")).values()) == {None}
    assert HEADER.encode() not in b"".join(adapter(off).values())


def _json(spec: JobSpec, name: str) -> Any:
    return json.loads(Path(spec.output_place, name).read_text())


def test_what_validations_find_is_told_everywhere(
    make_judged: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_judged(epochs=3, validation={**HELD_OUT, "window": 1})
    with caplog.at_level("INFO", logger="sidestep"):
        result = train(spec)
    progress = numbers_in(Path(spec.output_place, newest(spec).folder)).progress
    found = progress.validations
    steps = [0, 3, 6, 9]
    held_out = {step: found[step].held_out.mean for step in steps}
    best = min(steps[1:], key=lambda step: held_out[step])
    assert list(found) == steps
    assert (result.best_step, result.held_out) == (best, held_out)

    (trained_on,) = re.findall(r"Training a LoRA .*: (\d+) songs", caplog.text)
    (held, whole) = re.findall(r"Held out, and not trained on: (\d+) of (\d+) songs", caplog.text)[0]
    assert 0 < int(trained_on) == int(whole) - int(held) < int(whole)
    said = [record.message for record in caplog.records if record.message.startswith("Validation after")]
    assert len(said) == 4 and all(
        f"{held_out[step]:.4f}" in line for step, line in zip(steps, said, strict=True)
    )

    status = _json(spec, "status.json")
    assert status["validating"] is None
    assert status["validation"]["step"] == 9 and status["validation"]["best_step"] == best
    assert status["validation"]["held_out"] == held_out[9]
    assert status["validation"]["gain"] is None  # two songs tell nothing for sure

    told = _json(spec, "receipt.json")["validation"]
    assert {told[name]["step"]: told[name]["held_out"] for name in ("first", "best", "last")} == {
        step: held_out[step] for step in (0, best, 9)
    }
    assert (told["songs_held_out"], told["songs_trained"], told["draws"], told["window"]) == (2, 2, 3, 1)
    assert told["last"]["checkpoint"] == newest(spec).folder
    assert told["first"]["checkpoint"] is None

    history = _json(spec, "history.json")
    assert list(history["validations"]) == [str(step) for step in steps]
    assert history["validations"]["3"]["trained"] == pytest.approx(found[3].trained.mean, rel=1e-5)
    levels = history["validations"]["3"]["by_level"].values()
    assert sum(levels) / 3 == pytest.approx(
        held_out[3], rel=1e-5
    )  # each of three draws in a level of its own
    assert sorted(history["held_out"]) == ["3.pt", "5.pt"]
    assert [entry["name"] for entry in history["songs"] if entry.get("held_out")] == ["3.pt", "5.pt"]
    by_song = dict(zip(history["held_out"], history["validations"]["0"]["by_song"], strict=True))
    assert len(set(by_song.values())) == 2

    events = EventAccumulator(str(Path(spec.output_place, "runs"))).Reload()
    curve = {event.step: event.value for event in events.Scalars("validation/held_out")}
    assert curve == pytest.approx(held_out)
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("validation_by_timestep/")]
    assert len(tags) == 3 and "validation/trained" in events.Tags()["scalars"]
    page = Path(spec.output_place, "report.html").read_text()
    assert "Which checkpoint to use" in page and "No songs were held out" not in page


def test_a_run_without_held_out_songs_says_nothing_of_them_but_what_it_cannot_tell(
    make_judged: MakeSpec,
) -> None:
    spec = make_judged(validation={})
    result = train(spec)
    assert (result.best_step, result.held_out) == (None, {})
    assert "validation" not in _json(spec, "receipt.json")
    assert _json(spec, "history.json").keys().isdisjoint({"validations", "held_out"})
    state = Path(spec.output_place, newest(spec).folder, "training_state.json").read_text()
    assert "validation_timesteps" not in state
    page = Path(spec.output_place, "report.html").read_text()
    assert "No songs were held out" in page and "Which checkpoint to use" not in page


def test_lost_results_are_made_again_as_they_were(make_judged: MakeSpec) -> None:
    spec = make_judged()
    train(spec)
    output, names = Path(spec.output_place), ("history.json", "receipt.json", "report.html")

    def made() -> tuple[str, Any]:
        return sha256((output / "history.json").read_bytes()), _json(spec, "receipt.json")["validation"]

    before = made()
    for name in names:
        (output / name).unlink()
    train(spec)
    assert made() == before
    assert "Which checkpoint to use" in (output / "report.html").read_text()


@pytest.mark.slow
def test_the_adapter_is_the_same_but_for_its_card_however_often_it_is_validated(
    make_judged: MakeSpec,
) -> None:
    specs = [
        make_judged(
            f"every-{every}", epochs=4, validation={**HELD_OUT, "every_epochs": every, "draws": draws}
        )
        for every, draws in ((1, 3), (4, 1))
    ]
    for spec in specs:
        train(spec)
    one, other = (
        sha256_without_card(next(Path(spec.output_place, "adapter").glob("*.safetensors"))) for spec in specs
    )
    assert one == other


def test_how_far_a_validation_is_shows_and_gives_signs_of_life(
    make_judged: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    signs: list[int] = []
    update = Reporter.update

    def watched(self: Reporter, **changes: Any) -> None:
        if "validating" in changes:
            told.append(changes["validating"])
            signs.append(alive[0])
        update(self, **changes)

    alive = [0]

    def sign(at_once: bool = False) -> None:
        alive[0] += 1

    monkeypatch.setattr("sidestep.runtime.progress.sign_of_life", sign)
    monkeypatch.setattr(Reporter, "update", watched)
    train(make_judged(epochs=1))
    assert [(at.step, at.done, at.total) for at in told[:11]] == [(0, n, 12) for n in range(1, 12)]
    assert told[11] is None
    assert len(told) == 24  # before the first step, and after the last one
    assert signs == sorted(set(signs))


def test_one_that_is_not_finite_is_recorded_told_and_never_best(
    make_judged: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One draw of one song, in the second epoch, when all else is better."""
    made = Validator.validation
    calls = []

    def broken(self: Validator, losses: list[float]) -> Validation:
        calls.append(1)
        if len(calls) == 3:
            losses = [math.nan, *(0.0 for _ in losses[1:])]
        return made(self, losses)

    monkeypatch.setattr(Validator, "validation", broken)
    spec = make_judged(epochs=3, validation={**HELD_OUT, "window": 1})
    result = train(spec)
    assert result.best_step in (3, 9)
    progress = numbers_in(Path(spec.output_place, newest(spec).folder)).progress
    assert math.isnan(progress.validations[6].held_out.mean)
    assert any("step 6" in record.message for record in caplog.records if record.levelname == "WARNING")
    assert _json(spec, "history.json")["validations"]["6"]["held_out"] is None
    assert len(progress.validations[6].held_out.by_draw) == 3


@pytest.mark.slow
def test_the_doubt_is_said_once(
    make_judged: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a run that learns nothing; one that learns is not doubted, nor one with few songs."""
    many = write_songs(tmp_path / "sixteen", [song(number) for number in range(16)])
    named = {**HELD_OUT, "songs": ["1", "2", "3", "4", "5"]}
    settings = {"dataset_dir": many, "epochs": 4, "validation": named}
    for output, changes, expected in (
        ("nothing", {"lr": 1e-12, **settings}, 1),
        ("learns", {"lr": 3e-2, **settings}, 0),
        ("few", {"lr": 1e-12}, 0),
    ):
        caplog.clear()
        train(make_judged(output, **changes))
        doubts = [record for record in caplog.records if "Nothing has been learnt" in record.message]
        assert len(doubts) == expected, output


def _held_out(spec: JobSpec) -> set[str]:
    return {entry["name"] for entry in _json(spec, "history.json")["songs"] if entry.get("held_out")}


@pytest.mark.slow
@pytest.mark.parametrize("validation", [{"share": 0.4, "draws": 1}, {}])
def test_a_dataset_that_grew_goes_on_by_init_from_and_no_song_changes_sides(
    make_judged: MakeSpec, tmp_path: Path, validation: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    first = make_judged("first")
    train(first)
    more = write_songs(tmp_path / "more", [song(number) for number in range(16)])
    place = str(Path(first.output_place, "adapter"))
    spec = make_judged("next", dataset_dir=more, init_from=place, validation=validation)
    with caplog.at_level("INFO", logger="sidestep"):
        train(spec)
    old, out = {f"{number}.pt" for number in range(8)}, _held_out(spec)
    assert out & old == {"3.pt", "5.pt"}
    assert bool(out - old) == bool(validation)  # new ones go by their hash, where a share is asked for
    assert set(_sides(Path(spec.output_place, "adapter")).values()) == {
        numbers_in(Path(spec.output_place, newest(spec).folder)).sides
    }
    assert any("3.pt" in record.message for record in caplog.records)
    steps = _json(spec, "receipt.json")["steps"]
    assert steps == 2 * -(-(16 - len(out)) // 2)  # the others are trained on, and they alone


@pytest.mark.slow
def test_an_adapter_that_says_nothing_is_a_warning(
    make_judged: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_judged("first", validation={})
    train(first)
    spec = make_judged("next", init_from=str(Path(first.output_place, "adapter")))
    train(spec)
    assert any("which songs it was trained on" in record.message for record in caplog.records)


def test_an_estimate_is_of_the_trained_songs_alone_and_made_once(
    make_judged: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimated(spec: JobSpec) -> dict[str, float]:
        asked = JobSpec.load(None, **(spec.model_dump() | {"task": "estimate", "estimate": {"batches": 6}}))
        return run_task(estimate, asked)

    few = tmp_path / "few"
    few.mkdir()
    for number in (0, 1, 2, 4, 6, 7):
        (few / f"{number}.pt").write_bytes((tmp_path / "eight" / f"{number}.pt").read_bytes())
    plain = make_judged("plain", dataset_dir=few, validation={})
    assert "validation" not in json.dumps(estimated(plain) and _json(plain, "estimate/report.json")["recipe"])
    spec = make_judged()
    found = estimated(spec)
    assert found == estimated(plain)
    assert found != estimated(make_judged("all", validation={}))
    with monkeypatch.context() as patch:
        patch.setattr(estimating, "_measure", lambda *_: pytest.fail("measured again"))
        assert estimated(spec) == found
        train(spec)
        assert estimated(spec) == found  # by the run's own list now
        assert estimated(make_judged(validation={})) == found  # whatever the settings say of new songs
