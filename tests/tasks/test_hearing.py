"""Sounds while a run trains: what is made and shown, and that the training takes no notice of it."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from sidestep.acestep import load_vae
from sidestep.acestep.vae import SAMPLES_PER_LATENT
from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.tensors import sample_bytes
from sidestep.lifecycle.heard import Sounds
from sidestep.lifecycle.job import Job
from sidestep.runtime import liveness
from sidestep.runtime.errors import ExitCode, MissingInputError, StorageError, TakenError
from sidestep.runtime.workspace import open_workspace
from sidestep.sampling import kept
from sidestep.sampling.audio import decode_tiled
from sidestep.sampling.pipeline import Sampler
from sidestep.sampling.takes import Prompt
from sidestep.sampling.wish import Settings as How
from sidestep.storage.open import open_store
from sidestep.tasks import hearing
from sidestep.tasks.setup import prepare_setup
from sidestep.tasks.trainer import build_trainer
from sidestep.training.machine import choose_machine
from sidestep.training.metrics import Metrics
from sidestep.training.numbers import Progress
from sidestep.training.throughput import Throughput
from tests.facts import facts, tells
from tests.runs import outcome, train, train_with_notice_after
from tests.songs import MakeSpec, song

HARP, BLUES = "glass harp, slow", "blues\n[verse]\nrain on the roof"
STEPS = {"inference.num_inference_steps": 2}
Settings = dict[str, Any]


def quick(every: int = 1, **sample: Any) -> Settings:
    return {"every_epochs": every, "seconds": 1, "prompts": [HARP], **sample}


@pytest.fixture
def heard(make_spec: MakeSpec) -> Callable[..., JobSpec]:
    """A run of two steps an epoch, whose sounds have two sampling steps; `sample` and `train` by keyword."""

    def make(output: str, sample: Settings | None = None, **changes: Any) -> JobSpec:
        settings = {"sample": sample} if sample else {}
        return make_spec(output, **settings, **changes).changed(STEPS)

    return make


@pytest.fixture
def silent_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound is made of the latents without the VAE, in no time."""

    def decode(_: Any, latents: Tensor, on_tile: Callable[[], object]) -> Tensor:
        on_tile()
        return latents[:, :2].T.repeat_interleave(SAMPLES_PER_LATENT, dim=1)

    monkeypatch.setattr(hearing, "decode_tiled", decode)
    for module in (hearing, kept):  # slow, as a test's process holds a lot
        monkeypatch.setattr(module, "free_memory", lambda: None)


def folder(spec: JobSpec) -> Path:
    return Path(spec.output_place, "samples")


def takes(spec: JobSpec) -> list[dict[str, Any]]:
    """What the list says, which has a file and a picture of each."""
    made: list[dict[str, Any]] = json.loads((folder(spec) / "samples.json").read_bytes())["takes"]
    files = {take["file"] for take in made}
    pictures = {file.replace(".flac", ".png") for file in files}
    assert {file.name for file in folder(spec).iterdir()} == {
        *(files | pictures),
        *("samples.json", "conditions.safetensors"),
    }
    return made


def shown(spec: JobSpec, kind: str = "audio") -> dict[str, list[int]]:
    """Name → the steps of which TensorBoard has a sound, or a picture of one (images)."""
    events = EventAccumulator(str(Path(spec.output_place, "runs")), {"audio": 0, "images": 0}).Reload()
    read = events.Audio if kind == "audio" else events.Images
    return {tag: [event.step for event in read(tag)] for tag in events.Tags()[kind]}


def test_after_epochs_and_at_the_end(
    heard: Callable[..., JobSpec],
    silent_vae: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    checkpoint = {"every_epochs": 10, "every_minutes": None}
    spec = heard("heard", quick(2, prompts=[HARP, BLUES, HARP]), epochs=3, checkpoint=checkpoint)
    left_out: list[int] = []
    monkeypatch.setattr(Throughput, "leave_out", lambda self, seconds: left_out.append(id(self)))
    train(spec)
    assert len(set(left_out)) == 2, "neither the status nor TensorBoard counts its seconds"
    made = takes(spec)
    ways = [(take["prompt"], take["checkpoint"], take["strength"]) for take in made]
    checkpoints = [(None, 0.0), ("checkpoint-epoch-2", 1.0), ("checkpoint-epoch-3", 1.0)]
    assert ways == [(number, *way) for number in range(2) for way in checkpoints]
    assert {(take["steps"], take["seconds"], take["seed"]) for take in made} == {(2, 1.0, 42)}
    assert len({take["adapter"] for take in made}) == 3
    sounds = {take["file"]: (folder(spec) / take["file"]).read_bytes() for take in made}
    assert len(set(sounds.values())) == len(made)
    prompts = json.loads((folder(spec) / "samples.json").read_bytes())["prompts"]
    assert [(prompt["caption"], prompt["lyrics"]) for prompt in prompts] == [
        (HARP, "[Instrumental]"),
        ("blues", "[verse]\nrain on the roof"),
    ]
    there = {path.name for path in Path(spec.output_place, "checkpoints").iterdir()}
    assert there == {"checkpoint-epoch-2", "checkpoint-epoch-3"}, "what is heard is saved"
    assert shown(spec) == {f"audio/{name}": [0, 4, 6] for name in ("01-glass-harp-slow", "02-blues")}
    assert shown(spec, "images") == {f"mel/{name}": [0, 4, 6] for name in ("01-glass-harp-slow", "02-blues")}
    page = Path(spec.output_place, "report.html").read_text()
    assert all(f'src="samples/{file}"' in page for file in sounds)
    assert tells(
        caplog.text,
        "2 prompts",
        "2 epochs",
        "2 steps",
        "1 s each",
        "Made 2 sounds after step 0",
        "after step 4",
    )


class Stage:
    """An attempt that is about to train, with its `hearing`; what it tells TensorBoard is in `runs`."""

    def __init__(self, spec: JobSpec, runs: str = "runs") -> None:
        self.job, machine = Job(spec), choose_machine(spec.runtime)
        self.hearing = hearing.Hearing(self.job, machine)
        dataset = Preprocessed(self.job.tensors)
        setup = prepare_setup(self.job, dataset, machine, before_loading=self.hearing.prepare)
        self.trainer = build_trainer(spec, setup, self.job.preemption)
        self.metrics = Metrics(Path(runs), self.trainer, Progress(), 1, 10)
        self.taken = False
        self.hearing.begin(self.trainer, setup, self.metrics, self._check)

    def _check(self) -> None:
        if self.taken:
            raise TakenError("another run has taken over")

    def learn(self) -> None:
        """As if steps had been made."""
        with torch.no_grad():
            for parameter in self.trainer.adapter.parameters().values():
                parameter.fill_(0.05)

    def hear(self, step: int) -> float:
        return self.hearing.hear(Progress(step))


@pytest.fixture
def stage(heard: Callable[..., JobSpec], silent_vae: None) -> Iterator[Callable[..., Stage]]:
    """An attempt at a run of four epochs of two steps, by its output and what `heard` takes."""
    stages: list[Stage] = []

    def make(output: str = "out", runs: str = "runs", **changes: Any) -> Stage:
        sample = quick(**changes.pop("sample", {}))
        stages.append(Stage(heard(output, sample, **{"epochs": 4, **changes}), runs))
        return stages[-1]

    yield make
    for each in stages:
        each.metrics.__exit__()


def made(stage: Stage) -> dict[str | None, bytes]:
    """Checkpoint → its sound of the first prompt."""
    spec = stage.job.spec
    return {
        take["checkpoint"]: (folder(spec) / take["file"]).read_bytes()
        for take in takes(spec)
        if take["prompt"] == 0
    }


def test_the_base_model_is_heard_without_the_adapter_which_trains_on_as_before(
    stage: Callable[..., Stage],
) -> None:
    """However late it is heard: a new LoRA has no effect yet."""
    fresh, learnt = stage("fresh"), stage("learnt", "others")
    fresh.hear(0)
    learnt.learn()
    before, modes = learnt.trainer.evaluate(), [m.training for m in learnt.trainer.model.modules()]
    assert learnt.hear(2) > 0
    assert learnt.trainer.evaluate() == before
    assert [module.training for module in learnt.trainer.model.modules()] == modes
    assert made(fresh)[None] == made(learnt)[None] != made(learnt)["checkpoint-epoch-1"]


def test_it_is_the_average_that_is_heard(stage: Callable[..., Stage]) -> None:
    """As it is what is published. Here it is the new adapter still, which has no effect."""
    averaged = stage(ema={"decay": 0.999})
    averaged.learn()
    averaged.hear(2)
    assert made(averaged)["checkpoint-epoch-1"] == made(averaged)[None]


def test_when_it_is_due(stage: Callable[..., Stage]) -> None:
    ready = stage(sample={"every_epochs": 3})
    due = [step for step in range(9) if ready.hearing.is_due(Progress(step))]
    assert due == [0, 6, 8]
    assert not ready.hearing.is_due(Progress(6, skipped_in_row=1))
    judged = stage(
        "judged", "others", sample={"every_epochs": 3}, validation={"songs": ["*2*"], "every_epochs": 3}
    )
    due = [step for step in range(9) if judged.hearing.is_due(Progress(step))]
    assert due == [0], "the base model is heard first; the adapter once it is judged"


def test_notice_is_heard_between_sampling_steps(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What lacks is made by the next attempt, which tells TensorBoard of all."""
    caplog.set_level(logging.INFO)
    first, original, steps = stage(sample={"prompts": [HARP, BLUES]}), Sampler.latents, list[int]()

    def latents(self: Sampler, conditions: Tensor, settings: Any, on_step: Any = lambda: None) -> Tensor:
        steps.append(0)

        def count() -> None:
            steps[-1] += 1
            if len(steps) == 4:
                first.job.preemption.request()
            on_step()

        return original(self, conditions, settings, count)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "latents", latents)
        first.hear(0)
        first.hear(2)
    assert steps == [2, 2, 2, 1]
    assert tells(caplog.text, "after step 2", "next attempt")
    spec = first.job.spec
    before = {file.name: file.stat().st_mtime_ns for file in folder(spec).iterdir()}
    monkeypatch.setattr(hearing, "encode_prompts", None)  # no prompt is read again
    second = stage(sample={"prompts": [HARP, BLUES]}, runs="others")
    second.hear(2)
    after = {file.name: file.stat().st_mtime_ns for file in folder(spec).iterdir()}
    assert len(takes(spec)) == 4
    assert {name for name in before if after[name] != before[name]} == {"samples.json"}
    second.metrics.__exit__()
    events = EventAccumulator("others").Reload()
    assert [[event.step for event in events.Audio(tag)] for tag in events.Tags()["audio"]] == [[2], [2]]


@pytest.mark.parametrize("broken", ["memory", "store", "nan"])
def test_after_three_failures_in_a_row_it_is_off(
    broken: str,
    stage: Callable[..., Stage],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempt, calls = stage(), list[int]()
    attempt.learn()
    how: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
        "memory": (hearing, "decode_tiled", out_of_memory, "2.60 GiB"),
        "store": (Sounds, "keep", no_store, "out of reach"),
        "nan": (hearing, "decode_tiled", not_a_number, "NaN"),
    }
    owner, name, fail, said = how[broken]

    def count_and_break(*given: Any) -> Any:
        calls.append(1)
        return fail(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, count_and_break)
        attempt.hear(0)
        attempt.hear(2)
    attempt.hear(2)  # the base model, and this: failures from now on are others
    assert len(calls) == 2 and len(takes(attempt.job.spec)) == 2
    monkeypatch.setattr(owner, name, count_and_break)
    for step in (4, 6, 8):
        assert attempt.hearing.is_due(Progress(step))
        attempt.hear(step)
    assert len(calls) == 5 and said in caplog.text
    assert not attempt.hearing.is_due(Progress(8))
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert tells(error, "3 times in a row", "off for the rest of this attempt", "sidestep sample")


def test_where_another_writer_has_taken_over_no_sound_is_written(stage: Callable[..., Stage]) -> None:
    late = stage()
    late.taken = True
    with pytest.raises(TakenError):
        late.hear(0)
    assert not folder(late.job.spec).exists()


def test_the_last_sounds_reach_a_store(heard: Callable[..., JobSpec], silent_vae: None) -> None:
    """Elsewhere than on this disk, where TensorBoard's files are sent one by one."""
    spec = heard("x", quick(), epochs=1, output_dir="memory://heard/run")
    train(spec)
    store = open_store(spec.output_place, spec.storage)
    there = [file.path for file in store.child("runs").list_files()]
    assert [name for name in there if int(name.split(".")[3]) == 3], "what follows the second step, the last"
    assert store.stat("samples/samples.json")


@pytest.mark.slow
def test_a_sound_is_what_sidestep_sample_makes_of_its_checkpoint(
    heard: Callable[..., JobSpec], tmp_path: Path
) -> None:
    """Of its base model, too: the same bytes, from the weights in memory as from the file."""
    spec = heard("heard", quick())
    train(spec)
    options = ["--prompt", HARP, "--seconds", "1", "--steps", "2", "--device", "cpu"]
    again = ["--output", str(tmp_path / "again"), "--checkpoint", "checkpoint-epoch-1", "checkpoint-epoch-2"]
    assert main(["sample", spec.output_place, *options, *again]) == ExitCode.DONE
    theirs = json.loads((tmp_path / "again" / "samples.json").read_bytes())["takes"]
    ours = {take["checkpoint"]: take for take in takes(spec)}
    assert ours.keys() == {take["checkpoint"] for take in theirs}
    for take in theirs:
        own = ours[take["checkpoint"]]
        assert (tmp_path / "again" / take["file"]).read_bytes() == (folder(spec) / own["file"]).read_bytes()
        assert take["loudness"] == own["loudness"]


KINDS: list[Settings] = [
    {"adapter": {"dropout": 0.2}},
    {"adapter": {"type": "lokr", "rank": 4, "alpha": 8, "dropout": 0.2}},
    {"adapter": {"weight_decompose": True}, "gradient_checkpointing": True},
    {"ema": {"decay": 0.9}, "validation": {"songs": ["0"], "draws": 1, "every_epochs": 1}, "best": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", KINDS)
def test_no_kind_of_training_takes_notice(heard: Callable[..., JobSpec], settings: Settings) -> None:
    plain, spec = heard("plain", **settings), heard("heard", quick(), **settings)
    train(plain)
    train(spec)
    assert outcome(spec) == outcome(plain)
    assert len(takes(spec)) == 3 and not folder(plain).exists()


@pytest.mark.slow
def test_by_default_it_is_of_the_songs(heard: Callable[..., JobSpec], silent_vae: None) -> None:
    spec = heard("heard", quick(prompts=[]), epochs=1, validation={"songs": ["tune-1"], "draws": 1})
    for number in range(3):
        metadata = {"filename": f"tune-{number}.wav", "caption": f"tune {number}", "custom_tag": "zydeco"}
        made = replace(song(number), metadata=metadata)
        Path(spec.tensors_place, f"{number}.pt").write_bytes(sample_bytes(made))
    train(spec)
    prompts = json.loads((folder(spec) / "samples.json").read_bytes())["prompts"]
    asked = [(prompt["source"], prompt["caption"]) for prompt in prompts]
    assert asked == [
        *(("training", "tune 0"), ("training", "tune 2")),
        *(("held-out", "tune 1"), ("trigger", "zydeco")),
    ]


@pytest.mark.slow
def test_notice_ends_it_at_the_next_sampling_step_and_the_next_attempt_makes_the_rest(
    heard: Callable[..., JobSpec],
    silent_vae: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the second of two sounds. The first is neither lost nor made again, and no prompt read again."""
    caplog.set_level(logging.INFO)
    spec = heard("heard", quick(prompts=[HARP, BLUES]))
    steps: list[int] = []
    original = Sampler.latents

    def latents(self: Sampler, conditions: Tensor, settings: Any, on_step: Any) -> Tensor:
        steps.append(0)

        def count() -> None:
            steps[-1] += 1
            if len(steps) == 4:
                raise_notice()
            on_step()

        return original(self, conditions, settings, count)

    raise_notice: Callable[[], None] = lambda: None  # noqa: E731

    class Noticed(hearing.Hearing):
        def hear(self, progress: Any) -> float:
            nonlocal raise_notice
            raise_notice = self._job.preemption.request
            return super().hear(progress)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "latents", latents)
        patch.setattr("sidestep.tasks.prepared.Hearing", Noticed)
        train_with_notice_after(spec, 2, request=False)
    assert steps == [2, 2, 2, 1]
    assert tells(caplog.text, "after step 2", "next attempt")
    before = {file.name: file.stat().st_mtime_ns for file in folder(spec).glob("*.flac")}
    assert len(before) == 3
    monkeypatch.setattr(hearing, "encode_prompts", None)
    train(spec)
    after = {file.name: file.stat().st_mtime_ns for file in folder(spec).glob("*.flac")}
    assert after.items() >= before.items() and len(after) == 6
    assert len(takes(spec)) == 6
    assert shown(spec) == {f"audio/{name}": [0, 2, 4] for name in ("01-glass-harp-slow", "02-blues")}


def out_of_memory(*_: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.60 GiB")


def no_store(*_: Any) -> None:
    raise StorageError("s3://studio/runs is out of reach")


def not_a_number(_: Any, latents: Tensor, on_tile: Any) -> Tensor:
    return torch.full((2, len(latents) * SAMPLES_PER_LATENT), torch.nan)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "said"),
    [
        (hearing, "decode_tiled", out_of_memory, "2.60 GiB"),
        (Sounds, "keep", no_store, "out of reach"),
        (hearing, "decode_tiled", not_a_number, "NaN"),
    ],
)
@pytest.mark.slow
def test_three_failures_in_a_row_switch_it_off_and_never_end_a_run(
    owner: Any,
    name: str,
    broken: Callable[..., Any],
    said: str,
    heard: Callable[..., JobSpec],
    silent_vae: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, spec = heard("plain", epochs=4), heard("heard", quick(), epochs=4)
    train(plain)
    calls: list[int] = []

    def count_and_break(*given: Any) -> Any:
        calls.append(1)
        return broken(*given)

    monkeypatch.setattr(owner, name, count_and_break)
    train(spec)
    assert outcome(spec) == outcome(plain)
    assert len(calls) == hearing.FAILURES, "before the first step, after two epochs, and never again"
    assert [caplog.text.count(f"No sounds after step {step}") for step in (0, 2, 4, 6)] == [1, 1, 1, 0]
    assert said in caplog.text
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert tells(error, "3 times in a row", "off for the rest of this attempt", "sidestep sample")


@pytest.mark.slow
def test_failures_that_are_not_in_a_row_leave_it_on(
    heard: Callable[..., JobSpec], silent_vae: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but every third fail. What the base model lacks is made as soon as it can be."""
    spec, original, calls = heard("heard", quick(), epochs=6), vars(hearing)["decode_tiled"], list[int]()

    def sometimes(*given: Any) -> Any:
        calls.append(1)
        return original(*given) if len(calls) % 3 == 0 else out_of_memory()

    monkeypatch.setattr(hearing, "decode_tiled", sometimes)
    train(spec)
    assert len(takes(spec)) == 2 and len(calls) > 6


@pytest.mark.slow
def test_without_what_it_needs_the_training_goes_on(
    heard: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        out_of_memory()

    plain, spec = heard("plain"), heard("heard", quick())
    train(plain)
    monkeypatch.setattr(hearing, "encode_prompts", fail)
    train(spec)
    assert outcome(spec) == outcome(plain)
    assert tells(caplog.text, "2.60 GiB", "off for the rest of this attempt")
    assert not folder(spec).exists()


def test_a_set_without_encoders_is_refused_before_anything_is_done(
    heard: Callable[..., JobSpec], tiny_checkpoints: Path, tmp_path: Path
) -> None:

    place = tmp_path / "model alone"
    place.mkdir()
    (place / "acestep-v15-base").symlink_to(tiny_checkpoints / "acestep-v15-base")
    with pytest.raises(MissingInputError, match=facts("vae", str(place))):
        train(heard("heard", quick(), checkpoint_dir=place))


def test_a_sound_that_is_damaged_is_made_again(
    heard: Callable[..., JobSpec], tmp_path: Path, silent_vae: None
) -> None:

    store = open_store(str(tmp_path / "samples"), heard("x").storage)
    how = How(seed=1, steps=1, guidance=1.0, shift=1.0, seconds=1.0)

    def opened() -> Sounds:
        return Sounds(store, open_workspace(None), "base", "abc", [Prompt(caption=HARP)], how)

    sounds, waveform = opened(), 0.1 * torch.sin(torch.arange(48_000) / 50).expand(2, -1)
    old, new = (sounds.take(0, "checkpoint-epoch-1", digest) for digest in ("one", "two"))
    assert sounds.read(old) is None
    sounds.keep(old, waveform)
    later = opened()
    assert later.is_there(old) and not later.is_there(new)
    read = later.read(old)
    assert read is not None and (read - waveform).abs().max() < 1e-4
    (tmp_path / "samples" / old["file"]).write_bytes(b"fLaC and nothing else")
    assert opened().read(old) is None
    later.keep(new, waveform)  # of an adapter that has gone on since
    assert {file.suffix for file in (tmp_path / "samples").iterdir()} == {".flac", ".png", ".json"}
    assert len(list((tmp_path / "samples").iterdir())) == 3
    assert not opened().is_there(old)


def test_prompts_are_kept_with_all_that_decides_them(tmp_path: Path, heard: Callable[..., JobSpec]) -> None:

    store, workspace = open_store(str(tmp_path / "kept"), heard("x").storage), open_workspace(None)
    prompts, made = [Prompt(caption=HARP), Prompt(caption=BLUES)], [torch.randn(3, 4), torch.randn(5, 4)]
    asked = kept.asked_of(prompts, 30.0, "abc")
    assert kept.read_kept(store, asked, workspace) is None
    store.write_bytes(kept.FILE, kept.kept_bytes(made, asked))
    read = kept.read_kept(store, asked, workspace)
    assert read is not None and all(map(torch.equal, read, made))
    for other in (([*prompts][:1], 30.0, "abc"), (prompts, 31.0, "abc"), (prompts, 30.0, "def")):
        assert kept.read_kept(store, kept.asked_of(*other), workspace) is None
    store.write_bytes(kept.FILE, b"cut short")
    assert kept.read_kept(store, asked, workspace) is None


def test_each_tile_is_a_sign_of_life(tiny_checkpoints: Path) -> None:

    vae, before, tiles = load_vae(tiny_checkpoints, "cpu", torch.float32), liveness.signs(), []
    del vae.encoder
    vae.tile_latent_min_length, vae.tile_latent_overlap = 16, 4
    latents = torch.randn(40, 64)
    sound = decode_tiled(vae, latents, lambda: tiles.append(liveness.signs()))
    assert len(tiles) == 5 and tiles == [before + n for n in range(1, 6)]
    assert torch.equal(decode_tiled(vae, latents), sound) and len(tiles) == 5
