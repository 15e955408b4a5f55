"""Where a run goes on, and where it does not."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sidestep import adapters
from sidestep.config.job import JobSpec
from sidestep.runtime.errors import (
    AccessError,
    BadDataError,
    BadSpecError,
    MissingInputError,
    SideStepError,
)
from sidestep.tasks.setup import prepare_setup
from tests.facts import facts
from tests.runs import (
    EVERY_STEP,
    adapter,
    fail_commits,
    outcome,
    train,
    train_until_stopped,
    train_with_notice_after,
)
from tests.s3 import S3Server
from tests.songs import MakeSpec, song, write_songs


def test_resume_from_a_named_checkpoint_as_the_guide_spells_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    settings = {"epochs": 3, "checkpoint": {"every_epochs": 1}}
    train(make_spec("whole", **settings))
    for number, wish in enumerate(
        [
            str(tmp_path / "whole" / "checkpoint-epoch-1"),  # the guide leaves checkpoints/ out
            str(tmp_path / "whole" / "checkpoints" / "checkpoint-epoch-1"),
        ]
    ):
        spec = make_spec(f"again-{number}", **settings, resume_from=wish)
        train(spec)
        assert outcome(spec) == outcome(make_spec("whole", **settings))


def test_resume_from_a_name_in_the_output(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = {"epochs": 3, "checkpoint": {"every_epochs": 1}}
    train_until_stopped(make_spec("out", **settings), monkeypatch, commits=2)
    wish = str(tmp_path / "out" / "checkpoint-epoch-1")
    with pytest.raises(BadSpecError, match=r"the newest checkpoint of .* is checkpoints/checkpoint-epoch-2"):
        train(make_spec("out", **settings, resume_from=wish))
    train(make_spec("out", **settings, resume_from=wish, new_attempt=True))
    assert "Going on after step 2 of 6" in caplog.text
    train(make_spec("whole", **settings))
    assert outcome(make_spec("out", **settings)) == outcome(make_spec("whole", **settings))


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"lr": 0.5}, "train.lr: 0.01 then, 0.5 now"),
        ({"adapter": {"rank": 8}}, "train.adapter.rank: 4 then, 8 now"),
        ({"epochs": 5}, "train.epochs: 2 then, 5 now"),
        ({"model_variant": "turbo"}, "model_variant: 'acestep-v15-base' then, 'acestep-v15-turbo' now"),
    ],
)
def test_an_output_of_other_settings_is_refused(
    make_spec: MakeSpec, tmp_path: Path, change: dict[str, Any], shown: str
) -> None:
    train(make_spec())
    with pytest.raises(BadSpecError) as error:
        train(make_spec(**change))
    assert shown in str(error.value)
    assert len(str(error.value).splitlines()) == 3  # the place, the one difference, what to do
    kept = JobSpec.load(tmp_path / "out" / "job.yaml")
    assert kept == make_spec()  # what made the adapter, not what was refused
    train(make_spec(model_variant="acestep-v15-base", log_every=7, checkpoint={"keep": 9}))  # the same run


def test_a_changed_dataset_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec())
    write_songs(tmp_path / "tensors", [song(n) for n in range(4)])
    with pytest.raises(BadSpecError, match="dataset"):
        train(make_spec())


@pytest.mark.parametrize("damage", ["missing tensor", "missing optimizer state", "cut short"])
def test_a_resume_that_cannot_restore_everything_fails(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    """Also where the record agrees with the damaged file: a checkpoint given by its path has none."""
    settings = {"epochs": 3, "checkpoint": {"every_epochs": 1}}
    train(make_spec("whole", **settings))
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-epoch-1"
    state = checkpoint / "training_state.safetensors"
    tensors, _ = adapters.adapter.read_safetensors(state)
    if damage == "cut short":
        state.write_bytes(state.read_bytes()[:-10])
    else:
        from safetensors.torch import save_file

        prefix = "adapter." if damage == "missing tensor" else "optimizer."
        first = next(key for key in sorted(tensors) if key.startswith(prefix))
        parameter = first.rpartition(".")[0] if prefix == "optimizer." else first
        save_file({k: v for k, v in tensors.items() if not k.startswith(parameter)}, state)
    with pytest.raises(BadDataError):
        train(make_spec("again", **settings, resume_from=str(checkpoint)))


def test_a_checkpoint_of_another_version_is_refused_with_a_word(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec())
    numbers = tmp_path / "out" / "checkpoints" / "checkpoint-epoch-2" / "training_state.json"
    content = json.loads(numbers.read_text())
    del content["skipped"]
    numbers.write_text(json.dumps(content))
    with pytest.raises(BadDataError, match=r"training_state\.json[^/]*\n  skipped: "):
        train(make_spec("again", resume_from=str(numbers.parent)))


def test_five_attempts_without_a_checkpoint_are_enough(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    with monkeypatch.context() as patch:
        fail_commits(patch, (AccessError("no") for _ in range(10**6)))
        for _ in range(5):
            with pytest.raises(AccessError):
                train(spec)
    with pytest.raises(SideStepError, match="5 attempts in a row ended before") as error:
        train(spec)
    assert error.value.exit_code == 70
    train(make_spec(new_attempt=True))


def test_more_epochs_by_a_word(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train(make_spec(epochs=2))
    with pytest.raises(BadSpecError, match="epochs: 2 then, 4 now"):
        train(make_spec(epochs=4))
    result = train(make_spec(epochs=4, extend=True))
    assert result
    assert result.steps == 8
    assert "The run is extended from 4 to 8 steps" in caplog.text
    caplog.clear()
    assert train(make_spec(epochs=4, extend=True)) == result
    assert "Already finished after 8 steps" in caplog.text
    with pytest.raises(BadSpecError, match="has made 8 steps, and the spec asks for 2"):
        train(make_spec(epochs=1, extend=True))


@pytest.mark.slow
def test_an_extended_run_may_be_cut_too(make_spec: MakeSpec) -> None:
    for name in ("whole", "cut"):
        train(make_spec(name, epochs=2))
    train(make_spec("whole", epochs=4, extend=True))
    train_with_notice_after(make_spec("cut", epochs=4, extend=True), 6)
    train(make_spec("cut", epochs=4, extend=True))
    assert adapter(make_spec("cut")) == adapter(make_spec("whole"))


def test_a_run_begun_from_another_s_checkpoint_goes_on_from_its_own(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The same command again, with the same --resume-from: it does not go back there each time."""
    caplog.set_level("INFO")
    whole = make_spec("whole", **EVERY_STEP)
    train(whole)
    train_with_notice_after(make_spec("first", **EVERY_STEP), 3)
    settings = EVERY_STEP | {"resume_from": str(tmp_path / "first" / "checkpoints" / "checkpoint-step-3")}
    other = make_spec("other", **settings)
    train_with_notice_after(other, 5)
    caplog.clear()
    train(other)
    assert "Going on from the newest checkpoint, which came from" in caplog.text
    assert "Going on after step 5 of 8" in caplog.text
    assert adapter(other) == adapter(whole)


def test_a_run_that_went_back_goes_on_when_the_checkpoint_it_went_back_to_is_deleted(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    """The same command goes on, and once more when all is done, without weights."""
    caplog.set_level("INFO")
    settings = {"epochs": 4, "checkpoint": {"every_steps": 1, "every_minutes": None, "keep": 2}}
    train(make_spec(**settings))
    back = make_spec(**settings, resume_from="checkpoint-step-7", new_attempt=True)
    train(back)
    assert not Path(back.output_place, "checkpoints", "checkpoint-step-7").exists()
    caplog.clear()
    train(back)
    assert "Already finished after 8 steps" in caplog.text
    with pytest.raises(MissingInputError, match="checkpoint-step-5"):
        train(make_spec(**settings, resume_from="checkpoint-step-5", new_attempt=True))


def test_other_weights_under_the_same_name_are_refused(
    make_spec: MakeSpec, tiny_checkpoints: Path, tmp_path: Path
) -> None:
    from sidestep.acestep.tiny import write_tiny_checkpoint

    models = tmp_path / "models"
    write_tiny_checkpoint(models, ["base"], seed=1)
    train_with_notice_after(make_spec(checkpoint_dir=models, epochs=4), 3)
    write_tiny_checkpoint(models, ["base"], seed=2)
    with pytest.raises(BadSpecError, match=r"weights: '[0-9a-f]+' then, '[0-9a-f]+' now"):
        train(make_spec(checkpoint_dir=models, epochs=4))


def test_another_precision_is_refused(make_spec: MakeSpec) -> None:
    spec = make_spec(epochs=1)
    train(spec)
    for precision, is_same in (("fp32", True), ("bf16", False)):
        runtime = spec.runtime.model_copy(update={"precision": precision})
        again = spec.model_copy(update={"runtime": runtime})
        if is_same:
            train(again)
            continue
        with pytest.raises(BadSpecError, match=facts("fp32", "runtime.precision is bf16")):
            train(again)


def test_another_run_that_came_first_is_not_gone_on_with(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of other settings are begun at once: the second one has seen an empty output."""
    first, second = make_spec(epochs=4), make_spec(epochs=4, lr=1e-3)

    def outrun(*args: Any, **named: Any) -> Any:
        monkeypatch.undo()
        train(first)
        return prepare_setup(*args, **named)

    monkeypatch.setattr("sidestep.tasks.prepared.prepare_setup", outrun)
    with pytest.raises(BadSpecError, match=r"lr: 0\.01 then, 0\.001 now"):
        train(second)


def test_curves_are_sent_before_the_record_that_counts_on_them(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
) -> None:
    storage = {"endpoint_url": s3_server.endpoint}
    spec = make_spec(output_dir=s3_server.place("cut"), storage=storage, **EVERY_STEP)
    train_until_stopped(spec, monkeypatch, commits=1)
    sent = [file.path for file in s3_server.store("cut").list_files()]
    assert any(path.startswith("runs/") for path in sent)
