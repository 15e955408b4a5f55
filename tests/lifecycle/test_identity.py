"""What makes two runs the same: where each field of the spec counts, and what older checkpoints leave out."""

import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from sidestep.acestep.config import RELEASES
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.data.index import FileRecord
from sidestep.data.keys import recipe_of
from sidestep.lifecycle.identity import (
    NEUTRAL,
    check_same_run,
    differences,
    distinct_kinds,
    length_before,
)
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.training import machine as machine_module
from sidestep.training.machine import choose_machine
from sidestep.training.numbers import NUMERICS, Numbers, Progress, numbers_bytes, read_numbers
from tests.facts import facts
from tests.runs import settings_of_job
from tests.songs import song, write_songs

FINGERPRINT = "the run's fingerprint"
MACHINE = "the machine's kind"
TENSORS = "through the tensors"
NOTHING = "changes nothing"
STEP = "the samples of a step, with train.accumulation"
NO_OTHER = object()  # the schema allows one value alone


class Row(NamedTuple):
    """Where a field counts, another value for it, and what else must be so for it to have an effect."""

    where: str
    other: Any
    beside: dict[str, Any] = {}  # noqa: RUF012 - never changed


LOKR = {"train.adapter.type": "lokr"}
HELD_OUT = {"train.validation.share": 0.25}
SAMPLED = {"train.sample.every_epochs": 3}
FIELDS = {
    "name": Row(NOTHING, "another"),
    "task": Row(NOTHING, "pipeline"),
    "sweep": Row(NOTHING, {"train.lr": [1e-3]}),
    "preprocess.shards": Row(NOTHING, 2),
    "preprocess.shard": Row(NOTHING, 1),
    "checkpoint_dir": Row(NOTHING, "elsewhere"),  # what is in the weights is their digest's to say
    "model_variant": Row(FINGERPRINT, "turbo"),
    # It stands in for what a config.json leaves out, and of that all releases say the same: see below.
    "base_model": Row(NOTHING, "turbo"),
    "audio_dir": Row(TENSORS, "other"),
    "dataset_json": Row(TENSORS, "other.json"),
    "dataset_dir": Row(TENSORS, "other"),
    "output_dir": Row(NOTHING, "elsewhere"),
    "preprocess.max_duration": Row(TENSORS, 30),
    "preprocess.normalize": Row(TENSORS, "peak"),
    "preprocess.target_db": Row(TENSORS, -3, {"preprocess.normalize": "peak"}),
    "preprocess.target_lufs": Row(TENSORS, -20, {"preprocess.normalize": "lufs"}),
    "preprocess.lyrics_format": Row(TENSORS, "raw"),
    "preprocess.timbre": Row(TENSORS, "zero"),
    "preprocess.alternates": Row(TENSORS, ["trigger"]),
    "preprocess.bare_text": Row(TENSORS, "lyrics"),
    "preprocess.float_scale": Row(TENSORS, 32768),
    "preprocess.on_bad_file": Row(TENSORS, "skip"),
    "estimate.batches": Row(NOTHING, 3),
    "estimate.top_k": Row(NOTHING, 3),
    "estimate.granularity": Row(NOTHING, "layer"),
    "inference.shift": Row(NOTHING, 3),
    "inference.num_inference_steps": Row(NOTHING, 8),
    "inference.guidance": Row(NOTHING, 5),
    "inference.strength": Row(NOTHING, 0.8),
    "card.license": Row(NOTHING, "cc-by-4.0"),
    "train.mode": Row(FINGERPRINT, "vanilla"),
    "train.adapter.type": Row(FINGERPRINT, "lokr"),
    "train.adapter.rank": Row(FINGERPRINT, 8),
    "train.adapter.alpha": Row(FINGERPRINT, 8),
    "train.adapter.dropout": Row(FINGERPRINT, 0.5),
    "train.adapter.target_modules": Row(FINGERPRINT, ["q_proj"]),
    "train.adapter.attention": Row(FINGERPRINT, "self"),
    "train.adapter.rank_pattern": Row(FINGERPRINT, {"v_proj": 2}),
    "train.adapter.alpha_pattern": Row(FINGERPRINT, {"v_proj": 2}),
    "train.adapter.rank_from": Row(FINGERPRINT, "an estimate"),
    "train.adapter.bias": Row(FINGERPRINT, NO_OTHER),
    "train.adapter.factor": Row(FINGERPRINT, 8, LOKR),
    "train.adapter.decompose_both": Row(FINGERPRINT, True, LOKR),
    "train.adapter.use_tucker": Row(FINGERPRINT, True, LOKR),
    "train.adapter.use_scalar": Row(FINGERPRINT, True, LOKR),
    "train.adapter.weight_decompose": Row(FINGERPRINT, True),
    "train.quantize": Row(FINGERPRINT, "nf4"),
    "train.block_swap": Row(NOTHING, 3),
    "train.offload_activations": Row(NOTHING, True),
    "train.epochs": Row(FINGERPRINT, 7),
    "train.max_steps": Row(FINGERPRINT, 7),
    "train.optimizer_type": Row(FINGERPRINT, "prodigy"),
    "train.lr": Row(FINGERPRINT, 0.5),
    "train.lr_groups": Row(FINGERPRINT, {"cross_attn": 0.5}),
    "train.scheduler": Row(FINGERPRINT, "linear"),
    "train.warmup_steps": Row(FINGERPRINT, 7),
    "train.weight_decay": Row(FINGERPRINT, 0.5),
    "train.batch_size": Row(STEP, 2),  # and the machine's kind
    "train.accumulation": Row(FINGERPRINT, 7),
    "train.max_grad_norm": Row(FINGERPRINT, 7),
    "train.cfg_dropout": Row(FINGERPRINT, 0.5),
    "train.ema.decay": Row(FINGERPRINT, 0.9),
    "train.ema.use": Row(FINGERPRINT, False, {"train.ema.decay": 0.9}),
    "train.caption_dropout": Row(FINGERPRINT, 0.5),
    "train.genre_share": Row(FINGERPRINT, 0.5),
    "train.repeats": Row(FINGERPRINT, {"0": 3}),
    "train.weights": Row(FINGERPRINT, {"1": 0.5}),
    "train.loss_weighting": Row(FINGERPRINT, "min_snr"),
    "train.min_snr_gamma": Row(FINGERPRINT, 3.0, {"train.loss_weighting": "min_snr"}),
    "train.timestep_mu": Row(FINGERPRINT, 0.5),
    "train.timestep_sigma": Row(FINGERPRINT, 0.5),
    "train.chunk_duration": Row(FINGERPRINT, 7),
    "train.chunks": Row(FINGERPRINT, "cover", {"train.chunk_duration": 7}),
    "train.seed": Row(FINGERPRINT, 7),
    "train.gradient_checkpointing": Row(NOTHING, False),
    "train.gradient_checkpointing_ratio": Row(NOTHING, 0.5),
    "train.log_every": Row(NOTHING, 7),
    "train.log_heavy_every": Row(NOTHING, 7),
    "train.resume_from": Row(
        NOTHING, "checkpoint-epoch-1"
    ),  # the state that it names has a digest in the log
    "train.init_from": Row(NOTHING, "an adapter"),  # its digest counts: see below
    "train.init_resize": Row(NOTHING, True, {"train.init_from": "an adapter"}),
    "train.new_attempt": Row(NOTHING, True),
    "train.extend": Row(NOTHING, True),
    "train.accept_other_weights": Row(NOTHING, True),
    "train.checkpoint.every_epochs": Row(NOTHING, 7),
    "train.checkpoint.every_steps": Row(NOTHING, 7),
    "train.checkpoint.every_minutes": Row(NOTHING, 7),
    "train.checkpoint.keep": Row(NOTHING, 7),
    "train.checkpoint.keep_every_epochs": Row(NOTHING, 7),
    "train.validation.share": Row(FINGERPRINT, 0.25),
    "train.validation.songs": Row(FINGERPRINT, ["song-1"]),
    "train.validation.every_epochs": Row(FINGERPRINT, 7, HELD_OUT),
    "train.validation.draws": Row(FINGERPRINT, 7, HELD_OUT),
    "train.validation.window": Row(FINGERPRINT, 7, HELD_OUT),
    "train.best": Row(NOTHING, True, HELD_OUT),
    "train.publish": Row(NOTHING, "best", HELD_OUT),
    "train.stop.patience": Row(FINGERPRINT, 7, HELD_OUT),
    "train.stop.min_delta": Row(FINGERPRINT, 0.5, {**HELD_OUT, "train.stop.patience": 3}),
    "train.target_loss": Row(FINGERPRINT, 0.5, HELD_OUT),
    "train.sample.every_epochs": Row(NOTHING, 7),
    "train.sample.prompts": Row(NOTHING, ["glass harp"], SAMPLED),
    "train.sample.seconds": Row(NOTHING, 7, SAMPLED),
    "runtime.device": Row(MACHINE, "cpu"),
    "runtime.precision": Row(MACHINE, "fp32"),
    "runtime.attention": Row(MACHINE, "flash"),
    "runtime.compile": Row(MACHINE, "blocks"),
    "runtime.deterministic": Row(MACHINE, True),
    "runtime.gradient_sums": Row(NOTHING, "all_reduce"),  # of several processes, the machine's kind
    "runtime.gpus": Row(NOTHING, 8),
    "runtime.nodes": Row(NOTHING, 2),
    "runtime.offload_encoder": Row(NOTHING, NO_OTHER),
    "runtime.workspace": Row(NOTHING, "elsewhere"),
    "runtime.spot_notice": Row(NOTHING, "none"),
    "runtime.max_hours": Row(NOTHING, 20),
    "runtime.max_cost": Row(NOTHING, 20, {"runtime.price_per_hour": 1}),
    "runtime.max_attempts": Row(NOTHING, 20),
    "runtime.stall_minutes": Row(NOTHING, 20),
    "runtime.first_step_minutes": Row(NOTHING, 20),
    "runtime.hung_minutes": Row(NOTHING, 20),
    "runtime.grace_seconds": Row(NOTHING, 7),
    "runtime.lease_seconds": Row(NOTHING, 7),
    "runtime.price_per_hour": Row(NOTHING, 7),
    "runtime.on_exit": Row(NOTHING, "stop"),
    "runtime.log_format": Row(NOTHING, "json"),
    "runtime.metrics_port": Row(NOTHING, 9400),
    "runtime.metrics_file": Row(NOTHING, "/run/job.prom"),
    "runtime.webhook": Row(NOTHING, ("https://hooks.example.com/x",)),
    "runtime.trackers": Row(NOTHING, ("mlflow",)),
    "storage.endpoint_url": Row(NOTHING, "http://localhost:1"),
    "storage.region": Row(NOTHING, "eu-west-1"),
    "storage.path_style": Row(NOTHING, True),
    "storage.anonymous": Row(NOTHING, True),
    "storage.request_payer": Row(NOTHING, "requester"),
    "storage.connections": Row(NOTHING, 7),
    "storage.cache_gb": Row(NOTHING, 7.5),
}
WITHOUT_NEUTRAL = {"dataset", "weights"}  # digests of what a run was made of


def placed(where: str) -> list[str]:
    return [name for name, row in FIELDS.items() if row.where == where and row.other is not NO_OTHER]


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job of neutral settings."""
    tensors = write_songs(tmp_path / "tensors", [song(n) for n in range(2)])
    return JobSpec.load(None, task="train", dataset_dir=tensors, output_dir=tmp_path / "out")


def both(spec: JobSpec, name: str) -> tuple[JobSpec, JobSpec]:
    """The job with what is beside a field, and the same with the field's other value."""
    row = FIELDS[name]
    return spec.changed(row.beside), spec.changed({**row.beside, name: row.other})


def settings(spec: JobSpec) -> dict[str, Any]:
    return settings_of_job(spec)


def test_every_field_has_its_place() -> None:
    """A new field fails here: put it into the table, and into NEUTRAL where it changes a number."""
    assert {".".join(path) for path in spec_fields()} == FIELDS.keys()


@pytest.mark.parametrize("name", placed(FINGERPRINT))
def test_fields_of_the_fingerprint(spec: JobSpec, name: str) -> None:
    before, now = (settings(each) for each in both(spec, name))
    assert name in differences(before, now)
    saved = numbers(before)
    with pytest.raises(BadSpecError) as error:
        check_same_run(both(spec, name)[1], saved, now, "the run")
    assert name in str(error.value)


@pytest.mark.parametrize("name", [*placed(NOTHING), *placed(MACHINE), *placed(TENSORS)])
def test_all_others_leave_the_fingerprint(spec: JobSpec, name: str, tmp_path: Path) -> None:
    before, now = both(spec, name)
    if name == "dataset_dir":  # other tensors, and the same ones in another place
        write_songs(tmp_path / "other", [song(0)])
        assert "dataset" in differences(settings(before), settings(now))
        (tmp_path / "other" / "1.pt").write_bytes((tmp_path / "tensors" / "1.pt").read_bytes())
    assert settings(before) == settings(now)


@pytest.mark.parametrize("name", [name for name in placed(TENSORS) if name.startswith("preprocess.")])
def test_what_counts_through_the_tensors_is_in_their_keys(spec: JobSpec, name: str) -> None:
    before, now = (recipe_of(each.preprocess, "vae", "text", "model") for each in both(spec, name))
    assert (before != now) == (
        name not in ("preprocess.on_bad_file", "preprocess.bare_text")
    )  # of songs and texts


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A machine with a GPU on which every choice is open; what is chosen there."""
    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda device: (8, 0),
        "get_device_name": lambda device: "pretended",
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield {"device": "cuda", "precision": "bf16", "attention": "sdpa", "deterministic": False}
    torch.use_deterministic_algorithms(False)


def kind(spec: JobSpec, gpu: dict[str, Any], **runtime: Any) -> dict[str, Any]:
    chosen = {**gpu, **runtime}
    return choose_machine(spec.changed({f"runtime.{key}": chosen[key] for key in chosen}).runtime).kind()


@pytest.mark.parametrize("name", placed(MACHINE))
def test_fields_of_the_machine(spec: JobSpec, gpu: dict[str, Any], name: str) -> None:
    assert differences(kind(spec, gpu), kind(spec, gpu)) == {}
    assert differences(
        kind(spec, gpu), kind(spec, gpu, **{name.removeprefix("runtime."): FIELDS[name].other})
    )


def test_how_a_step_is_cut_is_the_machine_s_and_how_many_samples_it_has_the_run_s(
    spec: JobSpec, gpu: dict[str, Any]
) -> None:
    """A step of four in another cut goes on, on another kind of machine; one of eight is another run."""
    saved = numbers(settings(spec))
    assert saved.recipe["train.accumulation"] == 4 and "train.batch_size" not in saved.recipe
    other = spec.changed({"train.batch_size": 4, "train.accumulation": 1})
    assert settings(other) == settings(spec)
    check_same_run(other, saved, fingerprint_of(settings(other), "abc"), "the run")
    machine = choose_machine(spec.runtime)
    assert "batch_size" not in machine.kind() and machine.kind(1) == machine.kind()  # as older versions wrote
    assert differences(machine.kind(), machine.kind(4)) == {"batch_size": (1, 4)}
    larger = spec.changed({"train.batch_size": 2})
    with pytest.raises(
        BadSpecError, match=facts("train.batch_size", "train.accumulation", "4 then", "8 now")
    ):
        check_same_run(larger, saved, fingerprint_of(settings(larger), "abc"), "the run")


@pytest.mark.parametrize("precision", NUMERICS)
def test_a_number_that_moves_is_another_kind_where_it_is_used(
    spec: JobSpec, gpu: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if what is computed in one precision were computed in another way from now on."""
    before = {used: kind(spec, gpu, precision=used) for used in NUMERICS}
    assert all("side-step" not in each["versions"] for each in before.values())
    monkeypatch.setattr(machine_module, "NUMERICS", {**NUMERICS, precision: NUMERICS[precision] + 1})
    moved = [used for used in NUMERICS if differences(before[used], kind(spec, gpu, precision=used))]
    assert moved == [precision]


def test_of_what_base_model_stands_in_for_all_releases_say_the_same() -> None:
    """But for is_turbo, of which training only warns. Where one differs, base_model is in the fingerprint."""
    said = [{**release, "is_turbo": None} for release in RELEASES.values()]
    assert all(each == said[0] for each in said)


def fingerprint_of(settings: dict[str, Any], weights: str) -> dict[str, Any]:
    return {**settings, "weights": weights}


def numbers(
    recipe: dict[str, Any], machine: dict[str, Any] | None = None, progress: Progress | None = None
) -> Numbers:
    """As they are read again from a checkpoint with these."""
    machine = {"precision": "fp32"} if machine is None else machine
    progress = progress or Progress(3)
    saved = Numbers(fingerprint_of(recipe, "abc"), machine, progress, [], {"kind": "AdamW"})
    return read_numbers(numbers_bytes(saved), "here")


def without(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """The recipe of an older version, which did not have that setting."""
    adapter = {key: value for key, value in recipe["train.adapter"].items() if f"train.adapter.{key}" != name}
    return {key: value for key, value in {**recipe, "train.adapter": adapter}.items() if key != name}


def test_each_setting_has_its_neutral_value(spec: JobSpec) -> None:
    keys = differences({}, settings(spec)).keys() | {"weights"}  # all that differ from neutral
    assert keys == WITHOUT_NEUTRAL
    every = {name for name, row in FIELDS.items() if row.where == FINGERPRINT}
    assert every <= NEUTRAL.keys()


@pytest.mark.parametrize("name", placed(FINGERPRINT))
def test_a_setting_that_an_older_checkpoint_lacks_counts_as_neutral(spec: JobSpec, name: str) -> None:
    neutral, other = both(spec, name)
    older = numbers(without(settings(neutral), name))
    fingerprint = fingerprint_of(settings(neutral), "abc")
    check_same_run(neutral, older, fingerprint, "the run")
    assert not length_before(older.recipe, fingerprint)
    with pytest.raises(BadSpecError) as error:
        check_same_run(other, older, fingerprint_of(settings(other), "abc"), "the run")
    assert name in str(error.value)
    assert len(str(error.value).splitlines()) == 3  # the place, the one difference, what to do


@pytest.mark.parametrize("name", sorted(WITHOUT_NEUTRAL))
def test_a_state_that_lacks_a_digest_is_not_gone_on_with(spec: JobSpec, name: str) -> None:
    fingerprint = fingerprint_of(settings(spec), "abc")
    damaged = replace(numbers(settings(spec)), recipe=without(fingerprint, name))
    with pytest.raises(BadSpecError, match=name):
        check_same_run(spec, damaged, fingerprint, "the run")


def test_weights_are_compared_once_they_are_here(spec: JobSpec) -> None:
    saved = numbers(settings(spec))
    check_same_run(spec, saved, settings(spec), "the run")
    with pytest.raises(BadSpecError, match="weights"):
        check_same_run(spec, saved, fingerprint_of(settings(spec), "def"), "the run")


def test_what_is_in_the_tensors_is_compared_once_it_is_known(spec: JobSpec) -> None:
    """A run of an older version has no digest of it, and goes on."""
    now = fingerprint_of(settings(spec), "abc") | {"dataset_content": "one"}
    saved = numbers(settings(spec) | {"dataset_content": "one"})
    for fingerprint in (settings(spec), now):
        check_same_run(spec, saved, fingerprint, "the run")
        check_same_run(spec, numbers(settings(spec)), fingerprint, "the run")
    with pytest.raises(BadSpecError, match=facts("dataset_content", "'one'", "'two'")):
        check_same_run(spec, saved, now | {"dataset_content": "two"}, "the run")


def test_the_adapter_that_a_run_began_from_is_compared_once_it_is_here(spec: JobSpec) -> None:
    """A run that began with a new one, as all of older versions, says nothing of it."""
    plain = fingerprint_of(settings(spec), "abc")
    begun = numbers(settings(spec) | {"init_from": "one"})
    check_same_run(spec, begun, settings(spec), "the run")
    check_same_run(spec, begun, plain | {"init_from": "one"}, "the run")
    check_same_run(spec, numbers(settings(spec)), plain, "the run")
    for saved, digest in ((begun, "two"), (numbers(settings(spec)), "one")):
        with pytest.raises(BadSpecError, match=facts("init_from", f"'{digest}' now", "without")):
            check_same_run(spec, saved, plain | {"init_from": digest}, "the run")
    other = spec.changed({"train.lr": 0.5})
    with pytest.raises(BadSpecError, match=facts("init_from", "train.lr")) as error:
        check_same_run(other, begun, fingerprint_of(settings(other), "abc") | {"init_from": "two"}, "the run")
    assert "without train.init_from" not in str(error.value)


def test_a_checkpoint_says_by_which_law_it_was_drawn(spec: JobSpec) -> None:
    """None for those of older versions, which can read it; they refuse a law that they do not know."""
    for law, said in ((1, {"format": 1}), (2, {"format": 2, "law": 2})):
        saved = numbers(settings(spec), progress=Progress(3, law=law))
        content = json.loads(numbers_bytes(saved))
        assert {key: content[key] for key in ("format", "law") if key in content} == said
        assert saved.progress.law == law
    assert Progress().law == 2
    with pytest.raises(BadDataError, match="newer"):
        read_numbers(json.dumps({**content, "format": 3, "law": 3}).encode(), "here")


@pytest.mark.parametrize("law", [1, 2])
def test_a_lokr_begun_without_dropout_goes_on_without(spec: JobSpec, law: int) -> None:
    """Under law 1 its recipe said 0.1, whatever the spec of today names for that."""
    begun, none, other = (
        spec.changed({"train.adapter.type": "lokr", "train.adapter.dropout": rate}) for rate in (0.1, 0, 0.2)
    )
    saved = numbers(settings(begun), progress=Progress(3, law=law))
    for today in (begun, none, other):
        fingerprint = fingerprint_of(settings_of_job(today, saved), "abc")
        if today is begun or (today is none and law == 1):
            check_same_run(today, saved, fingerprint, "the run")
            assert fingerprint["train.adapter"]["dropout"] == 0.1  # as the next checkpoint says, too
            continue
        with pytest.raises(BadSpecError, match=r"train\.adapter\.dropout"):
            check_same_run(today, saved, fingerprint, "the run")


def test_the_files_of_a_dataset_are_kept_with_a_checkpoint(spec: JobSpec) -> None:
    files = {"a.pt": FileRecord(3, "<ETag>", "abc")}
    saved = replace(numbers(settings(spec)), dataset_files=files)
    assert read_numbers(numbers_bytes(saved), "here").dataset_files == files
    content = json.loads(numbers_bytes(saved))
    content["dataset_files"]["a.pt"]["sha256"] = 1
    with pytest.raises(BadDataError, match="here"):
        read_numbers(json.dumps(content).encode(), "here")
    del content["dataset_files"]  # of an older version
    assert read_numbers(json.dumps(content).encode(), "here").dataset_files == {}


def test_a_longer_run_needs_a_word(spec: JobSpec) -> None:
    saved, longer = numbers(settings(spec)), spec.changed({"train.epochs": 200, "train.max_steps": 9})
    with pytest.raises(
        BadSpecError, match=r"epochs: 100 then, 200 now\n.*max_steps: not set then, 9 now"
    ) as error:
        check_same_run(longer, saved, settings(longer), "the run")
    assert "--extend" in str(error.value)
    other = longer.changed({"train.adapter.rank": 8})
    with pytest.raises(BadSpecError, match="rank") as error:
        check_same_run(other, saved, settings(other), "the run")
    assert "--extend" not in str(error.value)
    extended = longer.changed({"train.extend": True})
    check_same_run(extended, saved, settings(extended), "the run")
    assert length_before(saved.recipe, settings(extended)) == {"epochs": 100, "max_steps": None}


@pytest.mark.parametrize(
    ("asked", "is_shorter"),
    [
        ({"train.epochs": 50}, True),
        ({"train.max_steps": 3}, True),
        ({"train.max_steps": 4}, False),
        ({"train.epochs": 101}, False),
    ],
)
def test_who_asks_for_fewer_steps_is_told_of_the_checkpoints(
    spec: JobSpec, asked: dict[str, int], is_shorter: bool
) -> None:
    """A run that has made three steps of a hundred epochs."""
    saved, other = numbers(settings(spec)), spec.changed(asked)
    saved = replace(saved, progress=Progress(3))
    with pytest.raises(BadSpecError) as error:
        check_same_run(other, saved, settings(other), "the run")
    assert "--extend" in str(error.value)
    assert ("sidestep publish" in str(error.value)) == is_shorter


OLDER = Path(__file__).parents[1] / "golden" / "older"


@pytest.mark.parametrize("run", ["lora-adamw", "lokr-prodigy"])
def test_the_kind_of_an_older_version_on_the_same_machine_is_the_same(run: str) -> None:
    """What the version 0.1.0 wrote had the package's version, and no NUMERICS."""
    with tarfile.open(OLDER / f"killed-{run}.tar.gz") as archive:
        state = archive.extractfile("output/checkpoints/checkpoint-step-20/training_state.json")
        record = archive.extractfile("output/commits/000003.json")
        assert state and record
        old = read_numbers(state.read(), "here").machine
        written = json.loads(record.read())["machines"]
    assert "side-step" in old["versions"] and "numerics" not in old
    versions = {name: version for name, version in old["versions"].items() if name != "side-step"}
    now = {**old, "versions": versions, "deterministic": True, "numerics": {"fp32": 1}}
    assert differences(old, now) == {}
    assert distinct_kinds([*written, now, {**old, "versions": {**versions, "side-step": "0.2"}}]) == [old]
    moved = {**now, "numerics": {"fp32": 2}}
    assert differences(old, moved) == {"numerics.fp32": (1, 2)}
    assert distinct_kinds([*written, now, moved]) == [old, moved]
    assert differences(old, {**now, "versions": {**versions, "torch": "3.0"}}).keys() == {"versions.torch"}
    said = {**now, "versions": {**versions, "prodigyopt": "1.1"}}
    assert differences(old, said) == {} and distinct_kinds([old, said]) == [old]
    other = {**now, "versions": {**versions, "prodigyopt": "1.2"}}
    assert differences(said, other) == {"versions.prodigyopt": ("1.1", "1.2")}


def test_a_run_keeps_to_the_precision_that_it_was_begun_in(spec: JobSpec) -> None:
    saved = numbers(settings(spec), {"precision": "bf16"})
    for asked_for in ("auto", "bf16"):
        check_same_run(spec.changed({"runtime.precision": asked_for}), saved, settings(spec), "the run")
    with pytest.raises(BadSpecError, match=facts("bf16", "runtime.precision is fp32")):
        check_same_run(spec.changed({"runtime.precision": "fp32"}), saved, settings(spec), "the run")
