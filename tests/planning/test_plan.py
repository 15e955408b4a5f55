"""The whole plan: its figures, what makes a job fit, and what it prints."""

import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep import adapters
from sidestep.acestep import load_model
from sidestep.acestep.releases import Configs, config_of, released_config
from sidestep.acestep.tiny import VAE, tiny_config
from sidestep.config.adapter import AdapterSpec
from sidestep.config.job import JobSpec
from sidestep.config.optimizers import OPTIMIZERS
from sidestep.config.training import TrainSpec
from sidestep.lifecycle.job import Job
from sidestep.planning.cards import CARDS, Card
from sidestep.planning.fit import changed, changes_to_fit
from sidestep.planning.hearing import sounds_of
from sidestep.planning.job import micro_batch
from sidestep.planning.memory import Memory, attention_workspace, memory_of
from sidestep.planning.phases import largest_micro_batch, samples_at_once, schedule_of
from sidestep.planning.plan import Fit, Plan, make_plan
from sidestep.planning.preemption import RESTART_SECONDS, plan_for_preemptions
from sidestep.planning.report import as_data, as_text
from sidestep.planning.songs import Songs, assumed_songs, find_songs
from sidestep.runtime.errors import BadSpecError
from sidestep.training.optimizer import build_optimizer
from tests.documents import ROOT
from tests.facts import facts, tells
from tests.s3 import S3Server
from tests.songs import MakeSpec, song, write_songs

TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
TINY = Configs(tiny_config("base"), VAE, TEXT)


def spec_of(**train: Any) -> JobSpec:
    top = {
        key: train.pop(key)
        for key in ("runtime", "model_variant", "base_model", "task", "estimate")
        if key in train
    }
    return JobSpec.load(None, audio_dir="songs", output_dir="out", train=train, **{"task": "train", **top})


def plan_of(spec: JobSpec, **wishes: Any) -> Plan:
    """On the tiny model, which is traced in a moment."""
    return make_plan(spec, TINY, assumed_songs(7, 8.0), **wishes)


def test_checkpoints_that_stay_are_counted() -> None:
    def counted(**train: Any) -> int:
        said = plan_of(spec_of(**train)).job["checkpoints"].says
        return int(said.split()[0])

    assert counted(epochs=100) == 3 + 10
    assert counted(epochs=100, max_steps=101) == 3 + 5  # of two an epoch
    assert counted(epochs=100, checkpoint={"keep": 1, "keep_every_epochs": None}) == 1
    assert counted(epochs=100, checkpoint={"keep_every_epochs": 30}) == 3 + 3
    judged = {"epochs": 100, "validation": {"songs": ["a"]}}
    assert counted(**judged) == 3 + 10
    assert counted(**judged, best=True) == counted(**judged, publish="best") == 3 + 10 + 1


@pytest.mark.parametrize(
    ("runtime", "said", "idle"),
    [
        ({}, [], ""),
        (
            {"gpus": 2},
            ["GPUs", "2, a step's 4 samples in 2 rounds", "those of one GPU alone, not of the 2"],
            "",
        ),
        ({"gpus": 3, "nodes": 2}, ["6 (2 nodes × 3)", "1 round", "2 of 6", "Warning"], "2 of 6 processes"),
    ],
)
def test_how_many_gpus_share_a_step(runtime: dict[str, int], said: list[str], idle: str) -> None:
    plan = plan_of(spec_of(accumulation=4, runtime=runtime))
    text, data = as_text(plan), as_data(plan)
    assert tells(text, *said) and ("GPUs " in text) == bool(said) and ("Warning" in text) == bool(idle)
    assert data["gpus"] == runtime.get("gpus", 1) * runtime.get("nodes", 1)
    assert data["idle"].startswith(idle) and bool(data["idle"]) == bool(idle)
    assert plan_of(spec_of(task="preprocess", runtime=runtime)).gpus == 1


def test_the_figures_of_a_run() -> None:
    plan = plan_of(spec_of(epochs=10, accumulation=4, optimizer_type="adamw", adapter={"rank": 8}))
    assert (plan.job["songs"].value, plan.job["songs"].basis) == (7, "assumed")
    assert plan.job["steps"].value == 20
    assert plan.job["adapter"].basis == "computed"
    parameters = plan.job["adapter"].value
    assert plan.largest.memory["adapter"].value == plan.largest.memory["gradients"].value == 4 * parameters
    assert plan.largest.memory["optimizer"].value == 8 * parameters
    one = (4 + 4 + 8) * parameters  # the adapter's file, its parameters, the optimizer's state
    assert plan.job["checkpoints"].value == (3 + 1) * one  # the newest, and that of epoch 10
    parts = [figure.value for name, figure in plan.largest.memory.items() if name != "total"]
    assert plan.largest.memory["total"].value == sum(parts)
    assert plan.largest.memory["context"].basis == "assumed"


def test_an_average_takes_the_adapter_s_memory_once_more_and_so_does_each_checkpoint() -> None:
    plain, kept = plan_of(spec_of(epochs=10)), plan_of(spec_of(epochs=10, ema={"decay": 0.99}))
    adapter = plain.largest.memory["adapter"].value
    assert "average" not in plain.largest.memory
    assert kept.largest.memory["average"].value == adapter
    assert kept.largest.memory["total"].value == plain.largest.memory["total"].value + adapter
    assert kept.job["checkpoints"].value == plain.job["checkpoints"].value + (3 + 1) * adapter


def test_sounds_take_time_and_their_memory_comes_in_the_place_of_a_step_s() -> None:
    plan = plan_of(spec_of(epochs=10, sample={"every_epochs": 5, "seconds": 8}))
    assert plan.job["sounds"].value == 4 * 3  # prompts; before the first step and twice after epochs
    assert tells(plan.job["sounds"].says, "8 s", "4 prompts", "%")
    assert plan.job["their VAE"].value > 0 and plan.job["their files"].basis == "assumed"
    latents, audio, train = plan.phases
    assert (latents.precision, audio.precision, train.name) == ("bf16", "fp32", "train")
    for phase in (latents, audio):
        for kept in ("weights", "adapter", "gradients", "optimizer", "context"):
            assert phase.memory.get(kept) == train.memory[kept]
    assert 0 < latents.memory["activations"].value < train.memory["activations"].value
    assert plan.job["compute"].value == sum(phase.flops for phase in plan.phases)
    too_small = replace(plan, fit=Fit(1e9, None, 2e9, audio.name))
    assert tells(as_text(too_small), "does not fit", "train.sample")
    assert max(map(len, as_text(plan).splitlines())) <= 80


def test_how_many_sounds_and_passes() -> None:
    def found(**changes: Any) -> tuple[int, int, int, int]:
        inference = {key: changes.pop(key) for key in [*changes] if key.startswith("inference.")}
        given = {"every_epochs": 3, **changes.pop("sample", {})}
        spec = spec_of(epochs=10, sample=given, **changes).changed(inference)
        songs = assumed_songs(20, 8.0, spec.train.validation)
        sounds = sounds_of(spec, TINY, songs, schedule_of(spec, songs.trained))
        assert sounds
        return sounds.prompts, sounds.count, sounds.steps, sounds.guided

    assert found() == (4, 4 * 5, 50, 2)  # the last is after the last epoch, too
    assert found(sample={"prompts": ["blues", "waltz"]}) == (2, 2 * 5, 50, 2)
    assert found(validation={"share": 0.2})[0] == 4 + 4
    assert found(model_variant="turbo")[2:] == (8, 1)
    assert found(**{"inference.num_inference_steps": 20, "inference.guidance": 1})[2:] == (20, 1)
    assert found(**{"inference.guidance": 5}, model_variant="turbo")[2:] == (8, 1), "turbo takes none"
    spec = spec_of()
    assert sounds_of(spec, TINY, assumed_songs(7, 8.0), schedule_of(spec, assumed_songs(7, 8.0))) is None


def songs_of(*seconds: float) -> Songs:
    return Songs(seconds, "measured", 9, "measured", "made", (1,) * len(seconds))


def test_what_batches_gain() -> None:
    """Nothing for songs of different lengths; much for chunks, and where songs happen to be of one length."""
    unequal, half = songs_of(8, 9, 10, 11), songs_of(8, 8, 10, 10)

    def at_once(songs: Songs, **train: Any) -> tuple[float, str]:
        figure = micro_batch(spec_of(**train), songs)
        return figure.value, figure.says

    assert at_once(unequal) == at_once(unequal, batch_size=4, accumulation=1)
    assert at_once(unequal)[0] == 1 and tells(at_once(unequal)[1], "nothing")
    assert at_once(unequal, chunk_duration=4)[0] == 1
    assert tells(at_once(unequal, chunk_duration=4)[1], "batch_size 4", "4 at once")
    assert at_once(unequal, chunk_duration=4, batch_size=4, accumulation=1)[0] == 4
    assert at_once(half, batch_size=4, accumulation=1)[0] == 2
    assert at_once(half, accumulation=1)[1] == at_once(unequal, accumulation=1)[1] != at_once(unequal)[1]


@pytest.mark.slow
def test_memory_is_that_of_the_largest_micro_batch() -> None:
    """Of samples of one length, as many as there are at most. FLOPs are those of the songs in any case."""
    two = spec_of(batch_size=2, accumulation=2)
    chunks = two.changed({"train.chunk_duration": 4})
    assert largest_micro_batch(spec_of(), songs_of(8, 10, 10)) == (250, 1)
    assert {largest_micro_batch(two, songs) for songs in (songs_of(8, 9, 10), songs_of(3, 3, 10))} == {
        (250, 1)
    }
    assert largest_micro_batch(two, songs_of(8, 10, 10, 10)) == (250, 2)
    assert largest_micro_batch(two, songs_of(8, 8, 10)) == (200, 2)
    assert largest_micro_batch(chunks, songs_of(8, 9, 10)) == (100, 2)
    one, both = (make_plan(spec, TINY, songs_of(8, 10, 10)) for spec in (spec_of(), two))
    for part in ("activations", "attention"):
        found, single = (plan.largest.memory[part].value for plan in (both, one))
        assert found == pytest.approx(2 * single, rel=0.1)
    assert one.phases[-1].flops == both.phases[-1].flops


def test_a_run_of_half_the_songs_takes_half_the_time() -> None:
    whole = plan_of(spec_of(epochs=10))
    half = make_plan(spec_of(epochs=5), TINY, assumed_songs(7, 8.0))
    for long, short in zip(whole.cards, half.cards, strict=True):
        assert long.seconds == pytest.approx(2 * short.seconds)
    few_steps = plan_of(spec_of(epochs=10, accumulation=1, max_steps=7))
    assert few_steps.cards[0].seconds == pytest.approx(whole.cards[0].seconds / 10)


@pytest.mark.slow
def test_repeats_are_samples_of_an_epoch() -> None:
    """A long song that comes twice takes its time twice."""
    songs = replace(assumed_songs(2, 8.0), seconds=(8.0, 16.0), repeats=(1, 2))
    plain = make_plan(spec_of(epochs=10), TINY, replace(songs, repeats=(1, 1)))
    plan = make_plan(spec_of(epochs=10), TINY, songs)
    assert "an epoch" not in plain.job and "an epoch" in plan.job
    assert plan.job["an epoch"].value == 3
    assert 1.5 < plan.phases[0].flops / plain.phases[0].flops < 1.8  # 40 s for 24
    assert largest_micro_batch(spec_of(batch_size=4), songs) == (400, 2)  # of the song that comes twice
    assert samples_at_once(spec_of(batch_size=4), songs, 4) == 1.5


def test_a_card_computes_at_its_share_of_the_peak() -> None:
    card = Card("made", 8, half=100, single=25, efficiency=0.4)
    assert (card.seconds(80e12, "bf16"), card.seconds(80e12, "fp16"), card.seconds(80e12, "fp32")) == (
        2,
        2,
        8,
    )
    assert card.memory == 8 * 2**30


def test_cards_without_bf16_take_what_training_would_take() -> None:
    by_name = {row.card.name: row for row in plan_of(spec_of()).cards}
    assert by_name["T4"].precision == "fp32" and by_name["L4"].precision == "bf16"
    assert by_name["T4"].memory > by_name["L4"].memory
    assert "T4" not in {row.card.name for row in plan_of(spec_of(runtime={"precision": "bf16"})).cards}
    assert len(plan_of(spec_of(runtime={"precision": "fp16"})).cards) == len(CARDS)


def test_cost_is_price_by_time() -> None:
    assert all(row.cost is None for row in plan_of(spec_of()).cards)
    for row in plan_of(spec_of(runtime={"price_per_hour": 2.5})).cards:
        assert row.cost == pytest.approx(2.5 * row.seconds / 3600)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("adapter", [AdapterSpec(rank=64), AdapterSpec(type="lokr", rank=4, dropout=0.1)])
def test_the_optimizer_s_state_is_that_of_a_real_step(
    tiny_checkpoints: Path, optimizer: Any, adapter: AdapterSpec
) -> None:
    transformer = load_model(tiny_checkpoints, "base", parts=("transformer",)).transformer
    made = adapters.inject(transformer, adapter, seed=0)
    parameters = made.parameters().values()
    stepped = build_optimizer(made, TrainSpec(optimizer_type=optimizer, adapter=adapter))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    stepped.step()
    tensors = [x for state in stepped.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    real = sum({tensor.untyped_storage()._cdata: tensor.nbytes for tensor in tensors}.values())
    kept = sum(OPTIMIZERS[optimizer].state_bytes(tuple(p.shape)) for p in parameters)
    assert kept == pytest.approx(real, rel=0.07)


def test_attention_s_workspace_is_linear_in_the_song() -> None:
    """One full layer of the 2B model over 60 s: 750 patches, 16 heads of 128."""
    config = released_config("base")
    values = 750 * 16 * 128
    assert attention_workspace(config, "fp32", 1500, 512, True) == 8 * 16 * 750
    assert attention_workspace(config, "bf16", 1500, 512, False) == 4 * 3 * values + 8 * 16 * 750
    # 132 multiprocessors are nine groups of 16 heads.
    assert attention_workspace(config, "bf16", 1500, 512, True) == 4 * (9 + 2) * values + 8 * 16 * 750
    four, one = (attention_workspace(config, "bf16", 1500 * n, 512, True) for n in (4, 1))
    assert four == 4 * one


def test_the_cheapest_changes_that_fit() -> None:
    """By a made memory of 10, from which each setting takes its part."""

    def memory(spec: JobSpec) -> float:
        train = spec.train
        size = 4.0 if train.gradient_checkpointing_ratio < 1 else 1.0
        size += {"adamw": 2.0, "adamw8bit": 1.0}[train.optimizer_type]
        return size + min(train.chunk_duration or 240, 240) / 120 + train.adapter.rank / 32

    spec = spec_of(gradient_checkpointing_ratio=0.5, adapter={"rank": 64, "alpha": 128})
    assert memory(spec) == 10

    def names(limit: float) -> list[dict[str, Any]] | None:
        changes, size = changes_to_fit(spec, 240, memory, limit)
        assert changes is None or size <= limit
        return None if changes is None else [change.settings for change in changes]

    everything = {"train.gradient_checkpointing": True, "train.gradient_checkpointing_ratio": 1.0}
    light = {"train.optimizer_type": "adamw8bit"}
    assert names(10) == []
    assert names(7) == [everything]
    assert names(6) == [everything, light]
    assert names(5) == [everything, light, {"train.chunk_duration": 120.0}]
    assert names(4.5) == [everything, light, {"train.chunk_duration": 60.0}]
    small = {"train.adapter.rank": 16, "train.adapter.alpha": 32.0}
    assert names(2.75) == [everything, light, {"train.chunk_duration": 30.0}, small]
    assert names(1) is None


def test_a_dearer_change_that_brings_it_all_makes_the_cheaper_ones_needless() -> None:
    spec = spec_of(gradient_checkpointing=False, adapter={"rank": 64, "alpha": 128})
    changes, size = changes_to_fit(spec, 240, lambda s: 5 if s.train.adapter.rank < 64 else 20, 5)
    assert changes and [change.settings for change in changes] == [
        {"train.adapter.rank": 32, "train.adapter.alpha": 64.0}
    ]
    assert size == 5


def test_a_change_is_one_that_training_takes() -> None:
    spec = spec_of(optimizer_type="prodigy", adapter={"rank": 8})
    changes, _ = changes_to_fit(spec, 20, lambda s: s.train.optimizer_type == "prodigy", 0)
    assert changes and changes[0].settings["train.lr"] == 1e-4
    assert changed(spec, changes).train.scheduler == "cosine"


def test_the_best_interval_between_commits() -> None:
    """Played through: with half of it or twice as much, more time is lost; and the share is about right."""
    best = plan_for_preemptions(500e6, uptime=4 * 3600)
    assert 0.5 < best.interval / (2 * best.commit * best.uptime) ** 0.5 < 1.1  # Young's

    def lost(interval: float) -> float:
        draw = random.Random(1)
        done, clock, goal = 0.0, 0.0, 200 * best.uptime
        while done < goal:
            life = draw.expovariate(1 / best.uptime)
            clock += life + RESTART_SECONDS
            done += life // (interval + best.commit) * interval
        return clock / done - 1

    shares = {factor: lost(factor * best.interval) for factor in (0.3, 1.0, 3.0)}
    assert shares[1.0] == min(shares.values())
    assert best.lost_share == pytest.approx(shares[1.0], rel=0.25)
    often = plan_for_preemptions(1e12, uptime=60)
    assert often.interval == often.uptime


def test_the_interval_is_daly_s() -> None:
    """Equation 37 by hand: 400 MB at 50 MB/s and two seconds more, every two hours, and 300 s to restart."""
    found = plan_for_preemptions(400e6, uptime=7200)
    assert (found.uptime, found.commit) == (7200, 10)
    assert found.interval == pytest.approx(372.8359, rel=1e-5)
    assert found.lost_share == pytest.approx(10 / 372.8359 + (372.8359 / 2 + 300) / 7200, rel=1e-5)
    assert plan_for_preemptions(0, uptime=1.0).interval == 1.0  # 2 s to commit: where the formula ends
    assert plan_for_preemptions(0, uptime=1.01).interval == pytest.approx(0.8978, rel=1e-3)


def test_preemptions_stretch_the_time() -> None:
    plain, spot = plan_of(spec_of()), plan_of(spec_of(), hours_between_preemptions=2.0)
    share = spot.preemptions["lost"].value
    assert spot.cards[0].seconds == pytest.approx((1 + share) * plain.cards[0].seconds)


def test_songs_are_measured_where_they_are_and_assumed_in_a_bucket(
    make_spec: MakeSpec, s3_server: S3Server
) -> None:
    here = find_songs(Job(make_spec()))
    assert (here.basis, here.tokens, here.tokens_basis) == ("measured", 6, "measured")
    assert here.seconds == (20 / 25, 24 / 25, 28 / 25)
    long = write_songs(Path("long"), [song(0, frames=4000, conditions=500, width=2048)]) / "0.pt"
    s3_server.store("tensors").write_bytes("0.pt", long.read_bytes())
    storage = {"endpoint_url": s3_server.endpoint}
    there = find_songs(Job(make_spec(dataset_dir=s3_server.place("tensors"), storage=storage)))
    assert there.basis == there.tokens_basis == "assumed"
    assert there.longest == pytest.approx(160, rel=0.05)
    write_songs(Path("mixed"), [song(0, conditions=9), song(1, conditions=31), song(2, conditions=2)])
    assert find_songs(Job(make_spec(dataset_dir="mixed"))).tokens == 31


@pytest.mark.parametrize(
    ("seconds", "chunk", "frames"),
    [(60, None, 1500), (60, 30, 750), (10, 30, 250), (10.01, None, 251), (0.01, None, 1)],
)
def test_a_step_sees_a_song_or_a_chunk_of_it(seconds: float, chunk: float | None, frames: int) -> None:
    assert assumed_songs(3, 8.0).frames(seconds, chunk) == frames


@pytest.mark.slow
def test_sound_files_say_their_length(tiny_checkpoints: Path, s3_server: S3Server) -> None:
    from sidestep.tasks import demo

    demo.write_songs(Path("songs"))
    job: dict[str, Any] = {"checkpoint_dir": tiny_checkpoints, "audio_dir": "songs", "output_dir": "out"}
    here = find_songs(Job(JobSpec.load(None, **job, preprocess={"max_duration": 4})))
    assert here.basis == "measured" and set(here.seconds) == {4.0}
    shutil.copy(sorted(Path("songs").glob("*.wav"))[0], "songs/zz-copy.wav")
    everything = find_songs(Job(JobSpec.load(None, **job)))
    assert everything.dataset and everything.dataset.same_bytes[0][-1] == "zz-copy.wav"
    assert everything.dataset.measured == len(everything.seconds)
    store = s3_server.store("songs")
    for path in sorted(Path("songs").iterdir()):
        store.write_bytes(path.name, path.read_bytes())
    bucket = job | {"audio_dir": s3_server.place("songs"), "storage": {"endpoint_url": s3_server.endpoint}}
    there = find_songs(Job(JobSpec.load(None, **bucket)))
    assert there.basis == "assumed"
    assert len(there.seconds) == len(everything.seconds)
    assert there.dataset and there.dataset.same_bytes == everything.dataset.same_bytes
    assert there.dataset.measured == 0
    plan = make_plan(JobSpec.load(None, **job), TINY, everything)
    words = " ".join(as_text(plan).split())
    assert "not decoded" in words and "zz-copy.wav" in words and str(len(everything.seconds)) in words
    assert as_data(plan)["dataset"]["songs"] == str(len(everything.seconds))


def test_offline_knows_the_releases_alone() -> None:
    assert config_of(spec_of(model_variant="acestep-v15-xl-sft"), offline=True)["hidden_size"] == 2560
    mine = spec_of(model_variant="mine", base_model="turbo")
    assert config_of(mine, offline=True)["is_turbo"]
    with pytest.raises(BadSpecError, match=facts("model_variant mine", "turbo", "base", "base_model")):
        config_of(spec_of(model_variant="mine"), offline=True)


@pytest.mark.slow
def test_it_is_read_in_80_columns(make_spec: MakeSpec) -> None:
    spec = spec_of(runtime={"price_per_hour": 123.4})
    text = as_text(plan_of(spec, limit=1e6, hours_between_preemptions=0.01))
    assert max(map(len, text.splitlines())) <= 80
    assert "It does not fit 0.00 GB, whatever is changed here" in text
    assert all(row in text for row in ("activations", "RTX 4090", "commit every"))


@pytest.mark.slow  # thirty-six steps of the real models are traced
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "alias"), [("2B", "base"), ("XL", "xl-base")])
def test_the_real_models_in_all_sizes(name: str, alias: str) -> None:
    """Each takes more where it should, in seconds; and the page's table says what is computed."""
    page = (ROOT / "docs" / "plan.md").read_text()

    def sizes(optimizer: str, rank: int, checkpointing: bool) -> list[Memory]:
        adapter = {"rank": rank, "alpha": 2 * rank}
        spec = spec_of(optimizer_type=optimizer, adapter=adapter, gradient_checkpointing=checkpointing)
        return [
            memory_of(spec, released_config(alias), "bf16", 25 * seconds, tokens=512)
            for seconds in (30, 60, 240)
        ]

    for checkpointing in (True, False):
        totals = []
        for rank in (16, 64, 128):
            by_optimizer = [
                sizes(optimizer, rank, checkpointing)
                for optimizer in ("adafactor", "adamw8bit", "adamw", "prodigy")
            ]
            for light, heavy in pairwise(by_optimizer):
                assert all(a.total < b.total for a, b in zip(light, heavy, strict=True))
            for short, long in pairwise(by_optimizer[0]):
                assert short.activations < long.activations
            totals.append(by_optimizer[0][-1].total)
        assert totals == sorted(totals)
        row = f"{name} " if checkpointing else f"{name}, no gradient checkpointing "
        cells = " | ".join(f"{memory.activations / 1e9:.2f}" for memory in sizes("adamw", 64, checkpointing))
        assert f"| {row}| {cells} |" in page
    kept = {on: sizes("adamw", 64, on)[-1].activations for on in (True, False)}
    assert kept[True] * 10 < kept[False]
