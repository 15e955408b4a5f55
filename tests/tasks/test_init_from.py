"""Training that begins from an adapter: a run of its own, which needs it until its first checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.cli import main
from sidestep.config.adapter import AdapterSpec
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.preflight import check_everything
from sidestep.runtime.errors import BadDataError, BadSpecError, ExitCode, MissingInputError
from sidestep.tasks.first_adapter import FirstAdapter, find_first_adapter
from sidestep.tasks.lr_find import lr_find
from sidestep.training.numbers import read_numbers
from tests.facts import facts
from tests.runs import Stopped, newest, outcome, train, train_until_stopped
from tests.s3 import S3Server
from tests.songs import MakeSpec

FIRST = {"epochs": 1, "checkpoint": {"every_epochs": 1}}
NEXT = {"epochs": 4, "checkpoint": {"every_epochs": 1}}


@pytest.fixture
def start(tiny_checkpoints: Path, tmp_path: Path) -> Path:
    """An adapter that fits a run of the tests, in a folder."""
    adapter = adapters.inject(
        load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer,
        AdapterSpec(rank=4, alpha=6),
        seed=1,
    )
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.01)
    folder = tmp_path / "start"
    folder.mkdir()
    for name, data in adapters.publish(adapter).items():
        (folder / name).write_bytes(data)
    return folder


def state_of(spec: JobSpec) -> dict[str, Any]:
    state = Path(spec.output_place, newest(spec).folder, "training_state.json")
    found: dict[str, Any] = json.loads(state.read_text())
    return found


def recipe(spec: JobSpec) -> dict[str, Any]:
    found: dict[str, Any] = state_of(spec)["recipe"]
    return found


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_it_begins_where_the_other_ended(make_spec: MakeSpec, kind: str) -> None:
    adapter = {"type": kind, "alpha": 12}
    ended = train(make_spec("first", epochs=3, adapter=adapter)).last_loss
    place = make_spec("first").output_place
    begun = train(make_spec("next", epochs=1, adapter=adapter | {"alpha": 3}, init_from=place)).first_loss
    assert begun == pytest.approx(ended, rel=1e-5)
    fresh = train(make_spec("fresh", epochs=1, adapter=adapter)).first_loss
    assert abs(begun - fresh) > 1e-3


def test_what_names_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    """An output, its adapter/, one of its checkpoints, a file: the same adapter, so the same run."""
    first = make_spec("first", **FIRST)
    train(first)
    assert "init_from" not in recipe(first)
    output = Path(first.output_place)
    export = ["export", str(output / "adapter"), "--format", "comfyui", "--output", "exported"]
    assert main([*export, "--checkpoint-dir", first.checkpoint_dir]) == ExitCode.DONE
    exported = tmp_path / "exported" / "first.safetensors"
    places = [output, output / "adapter", output / newest(first).folder]
    places.append(output / "adapter" / "adapter_model.safetensors")
    found = [find_first_adapter(Job(make_spec("next", init_from=place)), None) for place in places]
    assert len({each.digest for each in found}) == 1 and found[0].digest
    assert all(each.header.keys() == {"format", "sidestep_card"} for each in found)
    by_file = find_first_adapter(Job(make_spec("next", init_from=exported)), None)
    assert by_file.weights == exported and by_file.digest not in ("", found[0].digest)


@pytest.mark.slow
def test_a_resumed_one_is_the_uninterrupted_one_and_needs_it_no_more(
    make_spec: MakeSpec, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**NEXT, "init_from": start}
    train(make_spec("whole", **settings))
    train_until_stopped(make_spec("gone", **settings), monkeypatch, commits=2)
    shutil.rmtree(start)
    train(make_spec("gone", **settings))
    assert outcome(make_spec("gone")) == outcome(make_spec("whole"))
    assert recipe(make_spec("gone")) == recipe(make_spec("whole"))
    state = read_numbers(json.dumps(state_of(make_spec("whole"))).encode(), "here")
    left_out = find_first_adapter(Job(make_spec("whole")), state)
    assert left_out.fingerprint == {"init_from": recipe(make_spec("whole"))["init_from"]}


def test_another_one_is_another_run(
    make_spec: MakeSpec, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_stopped(make_spec("next", **NEXT, init_from=start), monkeypatch, commits=1)
    weights = start / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(BadSpecError, match=facts("init_from", "without train.init_from")):
        train(make_spec("next", **NEXT, init_from=start))


def test_one_that_is_gone_or_damaged_or_does_not_fit(
    make_spec: MakeSpec, start: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingInputError, match=facts("train.init_from", "nowhere")):
        train(make_spec("next", init_from=tmp_path / "nowhere"))
    with pytest.raises(BadSpecError, match=facts("train.init_from", "rank is 4", "run's is 2", "--resize")):
        train(make_spec("next", init_from=start, adapter={"rank": 2}))
    resized = make_spec("next", init_from=start, init_resize=True, adapter={"rank": 2}, epochs=1)
    assert train(resized).first_loss != train(make_spec("plain", adapter={"rank": 2}, epochs=1)).first_loss
    weights = start / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, weights)
    with pytest.raises(BadDataError, match=facts(weights, "NaN")):
        train(make_spec("nan", init_from=start))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadDataError, match=facts(weights)):
        train(make_spec("cut", init_from=start))
    weights.write_bytes(b"version https://git-lfs")
    with pytest.raises(BadDataError, match=facts("train.init_from", weights)):
        train(make_spec("pointer", init_from=start))
    assert not Path(make_spec("pointer").output_place, "commits").exists()


def test_resize_needs_something_to_resize(make_spec: MakeSpec) -> None:
    with pytest.raises(BadSpecError, match=facts("init_resize", "init_from")):
        make_spec("next", init_resize=True)


def test_a_plan_says_whether_it_can_be_read(
    make_spec: MakeSpec, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(spec: JobSpec) -> tuple[str, str]:
        found = {check.name: check for check in check_everything(Job(spec), here=False)}
        return (found["train.init_from"].state, found["train.init_from"].said)

    spec = make_spec("next", **NEXT, init_from=start)
    state, words = said(spec)
    assert state == "ok" and "start/adapter_model.safetensors" in words
    assert said(make_spec("other", init_from=spec.checkpoint_dir))[0] == "FAIL"
    (start / "adapter_config.json").unlink()
    assert said(spec) == ("FAIL", said(spec)[1]) and "adapter_config.json" in said(spec)[1]
    plain = check_everything(Job(make_spec("next")), here=False)
    assert "train.init_from" not in {check.name for check in plain}
    train_until_stopped(make_spec("next", **NEXT), monkeypatch, commits=1)
    assert said(spec)[0] == "ok"


def test_from_a_bucket(make_spec: MakeSpec, start: Path, s3_server: S3Server) -> None:
    store = s3_server.store("start")
    for file in start.iterdir():
        store.upload(file, f"adapter/{file.name}")
    storage = {"endpoint_url": s3_server.endpoint}
    pulled = find_first_adapter(Job(make_spec(init_from=store.place, storage=storage)), None)
    local = find_first_adapter(Job(make_spec(init_from=start)), None)
    assert (
        pulled.digest == local.digest and pulled.place == f"{store.place}/adapter/adapter_model.safetensors"
    )
    assert (
        pulled.weights and pulled.weights.read_bytes() == (start / "adapter_model.safetensors").read_bytes()
    )


def test_the_header_is_there_for_who_asks(make_spec: MakeSpec, start: Path) -> None:
    weights = start / "adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        header = file.metadata()
    save_file(load_file(weights), weights, {**header, "more": "words"})
    spec = make_spec("next", init_from=start)
    assert find_first_adapter(Job(spec), None).header == {**header, "more": "words"}
    assert find_first_adapter(Job(make_spec("next")), None).header == {}


def test_its_scale_is_part_of_what_it_is(make_spec: MakeSpec, start: Path) -> None:
    job = Job(make_spec("next", init_from=start))
    before = find_first_adapter(job, None).digest
    config = start / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1, "alpha_pattern": {}}))
    assert find_first_adapter(job, None).digest != before


def test_a_range_test_begins_from_it_too(
    make_spec: MakeSpec, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def note(spec: JobSpec, setup: Any, preemption: Any, first: FirstAdapter | None) -> None:
        begun.append(first.weights if first else None)
        raise Stopped

    monkeypatch.setattr("sidestep.tasks.lr_find.build_trainer", note)
    with pytest.raises(Stopped):
        lr_find(Job(make_spec(init_from=start)), 10)
    assert begun == [start / "adapter_model.safetensors"]
