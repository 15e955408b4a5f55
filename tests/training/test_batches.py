"""A step is the same however it is cut into micro-batches; padding of conditions has no part in it."""

import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep.acestep import attention
from sidestep.runtime.preemption import Preemption
from sidestep.training.batches import at_once, cut, join
from sidestep.training.chunks import covering
from sidestep.training.flow import Batch, flow_losses
from sidestep.training.loop import SECONDS_TO_SAVE, StepResult, Trainer
from sidestep.training.numbers import Progress
from sidestep.training.schedule import Entry
from tests.songs import MakeSpec, absurd_song, song, write_songs
from tests.training.trainers import run, trainer_of

TOKENS = (2, 9, 5, 9, 1, 7, 3, 6)  # of eight songs: 9 fills its row
CUTS = ((1, 4), (2, 2), (4, 1), (3, 8))  # batch_size, accumulation


def songs_of(tokens: Sequence[int], frames: Sequence[int] = (24,)) -> Path:
    folder = Path(f"songs-{'-'.join(map(str, [*tokens, *frames]))}")
    lengths = [frames[n % len(frames)] for n in range(len(tokens))]
    songs = [song(n, lengths[n], conditions) for n, conditions in enumerate(tokens)]
    return write_songs(folder, songs)


@torch.no_grad()
def trainer_with(make_spec: MakeSpec, batch_size: int = 1, accumulation: int = 4, **settings: Any) -> Trainer:
    """One whose adapter has an effect, and whose gradients are not clipped."""
    settings = {"max_grad_norm": 1e9, **settings}
    trainer = trainer_of(make_spec(batch_size=batch_size, accumulation=accumulation, **settings))
    generator = torch.Generator().manual_seed(7)
    for parameter in trainer.adapter.parameters().values():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainer


def step_of(trainer: Trainer, step: int = 0) -> tuple[StepResult, dict[str, Tensor]]:
    """What a step came to, and its gradients."""
    result = trainer.step(step)
    assert result is not None
    gradients = {n: p.grad.clone() for n, p in trainer.adapter.parameters().items() if p.grad is not None}
    assert gradients.keys() == trainer.adapter.parameters().keys()
    return result, gradients


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """To 1e-5, parameter by parameter; where large parts cancel out, their rounding errors stay."""
    largest = {name: float(gradient.abs().max()) for name, gradient in wanted.items()}
    for name, gradient in wanted.items():
        bound = 1e-5 * largest[name] + 1e-7 * max(largest.values())
        assert float((found[name] - gradient).abs().max()) <= bound, name


@pytest.mark.parametrize(
    ("kind", "recompute", "tokens"),
    [
        ("lora", True, TOKENS),
        ("lora", False, TOKENS[::-1]),
        ("lokr", True, TOKENS[::-1]),
        ("lokr", False, TOKENS),
    ],
)
def test_a_step_is_the_same_however_it_is_cut(
    make_spec: MakeSpec, kind: str, recompute: bool, tokens: Sequence[int]
) -> None:
    """Four samples, and all eight, of unequal conditions, some dropped; with dropout of the adapter."""
    settings = {
        "dataset_dir": songs_of(tokens),
        "adapter": {"type": kind, "dropout": 0.1},
        "gradient_checkpointing": recompute,
        "cfg_dropout": 0.3,
    }
    for samples, cuts in ((4, ((2, 2), (4, 1))), (8, ((8, 1), (4, 2)))):
        wanted, gradients = step_of(trainer_with(make_spec, 1, samples, **settings))
        for batch_size, accumulation in cuts:
            result, found = step_of(trainer_with(make_spec, batch_size, accumulation, **settings))
            assert result.group == wanted.group
            assert result.loss == pytest.approx(wanted.loss, rel=1e-5)
            assert result.losses == pytest.approx(wanted.losses, rel=1e-5)
            assert_same(found, gradients)


def test_songs_of_other_lengths_are_in_other_micro_batches(make_spec: MakeSpec) -> None:
    """Time is never padded; whole songs and chunks, of which the last has one to itself."""
    lengths = (24, 30, 24, 30, 24, 24, 36, 30)
    settings = {"dataset_dir": songs_of(TOKENS, lengths)}
    wanted, gradients = step_of(trainer_with(make_spec, 1, 8, **settings))
    trainer = trainer_with(make_spec, 4, 2, **settings)
    shapes: list[tuple[int, ...]] = []
    trainer.model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["hidden_states"].shape[:2])),
        with_kwargs=True,
    )
    result, found = step_of(trainer)
    assert sorted(shapes) == [(1, 36), (3, 30), (4, 24)]
    assert result.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert_same(found, gradients)
    chunked = trainer_with(make_spec, 8, 1, **settings, chunk_duration=1)  # 25 frames of a longer song
    assert sorted(len(batch) for batch in chunked.micro_batches(chunked.schedule.group(0).entries)) == [4, 4]


def test_cut() -> None:
    assert cut([5, 5, 5], 1) == [[0], [1], [2]]
    assert cut([5, 6, 5, 6, 5], 2) == [[0, 2], [1, 3], [4]]
    assert cut([5, 6, 7], 4) == [[0], [1], [2]]
    assert cut([5] * 5, 4) == [[0, 1, 2, 3], [4]]
    assert (at_once(4, law=2), at_once(4, law=1)) == (4, 1)


def together(trainer: Trainer, songs: Sequence[int]) -> Batch:
    return join([trainer._drawn(Entry(song, song, 0)) for song in songs])


def gradients_of(trainer: Trainer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = trainer.adapter.parameters()
    trainer.masks.begin([0] * len(batch.latents), torch.device("cpu"))
    losses = flow_losses(trainer.model, batch)
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
    return losses, dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("songs", [(1, 4), (4, 1), (1, 3)], ids=["full first", "full last", "no padding"])
@pytest.mark.parametrize("padding", [math.nan, 1e4, math.inf])
def test_what_is_in_the_padding_moves_nothing(
    make_spec: MakeSpec, songs: Sequence[int], padding: float
) -> None:
    trainer = trainer_with(make_spec, dataset_dir=songs_of(TOKENS))
    batch = together(trainer, songs)
    assert batch.mask is not None and batch.mask.sum(dim=1).tolist() == [TOKENS[song] for song in songs]
    spoilt = replace(batch, conditions=batch.conditions.masked_fill(~batch.mask[..., None], padding))
    losses, gradients = gradients_of(trainer, batch)
    spoilt_losses, spoilt_gradients = gradients_of(trainer, spoilt)
    assert torch.equal(losses, spoilt_losses)
    assert all(torch.equal(gradients[name], spoilt_gradients[name]) for name in gradients)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    # What is no padding does move it.
    moved = replace(batch, conditions=batch.conditions.masked_fill(batch.mask[..., None], 0.5))
    assert not torch.equal(losses, gradients_of(trainer, moved)[0])


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The masks with which attention is computed from now on."""
    seen: list[Tensor | None] = []
    original = attention.banded_attention

    def spied(*arguments: Any, **named: Any) -> Tensor:
        seen.append(named.get("mask"))
        return original(*arguments, **named)

    monkeypatch.setattr(attention, "banded_attention", spied)
    return seen


def test_a_mask_of_ones_goes_the_same_way(make_spec: MakeSpec, masks: list[Tensor | None]) -> None:
    trainer = trainer_with(make_spec, dataset_dir=songs_of(TOKENS), gradient_checkpointing=False)
    for songs, wanted in (((1, 4), True), ((1, 3), True), ((1,), False)):
        masks.clear()
        gradients_of(trainer, together(trainer, songs))
        crossing = [mask for mask in masks if mask is not None]
        assert len(crossing) == (4 if wanted else 0)  # a layer each
        assert all(mask.shape == (len(songs), 9) for mask in crossing)


def test_a_layer_is_computed_again_with_the_mask_of_its_own_forward_pass(make_spec: MakeSpec) -> None:
    """Also where another pass came in between, and in another thread, as the backward pass of a GPU is."""
    trainer = trainer_with(make_spec, dataset_dir=songs_of(TOKENS), adapter={"dropout": 0})
    parameters = list(trainer.adapter.parameters().values())
    batches = [together(trainer, songs) for songs in ((1, 4), (5, 2))]
    wanted = [gradients_of(trainer, batch)[1] for batch in batches]
    losses = [flow_losses(trainer.model, batch).sum() for batch in batches]
    found: list[Any] = []

    def backward() -> None:
        found.extend(torch.autograd.grad(loss, parameters) for loss in losses)

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs.values(), strict=True))


def trained(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StepResult, list[Entry]]]:
    """Train to the end: of each step its result, and what was computed in it."""
    seen: list[Entry] = []
    original = Trainer.losses

    def losses(self: Trainer, entries: Sequence[Entry]) -> Tensor:
        seen.extend(entries)
        return original(self, entries)

    monkeypatch.setattr(Trainer, "losses", losses)
    for result in trainer.steps(Progress()):
        yield result, seen.copy()
        seen.clear()


@pytest.mark.parametrize(("batch_size", "accumulation"), CUTS)
@pytest.mark.parametrize("songs", [5, 3])
def test_every_song_is_seen_once_an_epoch(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, songs: int, batch_size: int, accumulation: int
) -> None:
    """One song more than a step has, and fewer: the short group is neither dropped nor carried over."""
    folder = songs_of(TOKENS[:songs], (24, 30))
    trainer = trainer_with(make_spec, batch_size, accumulation, dataset_dir=folder, epochs=2)
    by_epoch: list[Counter[int]] = [Counter(), Counter()]
    numbers: list[int] = []
    for result, entries in trained(trainer, monkeypatch):
        assert Counter(entry.song for entry in entries) == Counter(result.group.samples)
        assert len(result.losses) == len(entries) and result.loss == pytest.approx(
            sum(result.losses) / len(result.losses)
        )
        by_epoch[result.group.epoch].update(entry.song for entry in entries)
        numbers += sorted(entry.index for entry in entries)
    assert by_epoch == [Counter(range(songs))] * 2
    assert numbers == list(range(2 * songs))


def test_a_short_last_group_is_the_mean_of_its_own(make_spec: MakeSpec) -> None:
    folder = songs_of(TOKENS[:5])
    wanted, gradients = step_of(trainer_with(make_spec, 1, 4, dataset_dir=folder), step=1)
    result, found = step_of(trainer_with(make_spec, 4, 1, dataset_dir=folder), step=1)
    assert len(result.losses) == len(wanted.losses) == 1
    assert_same(found, gradients)
    wanted, gradients = step_of(trainer_with(make_spec, 1, 3, dataset_dir=folder), step=1)
    result, found = step_of(trainer_with(make_spec, 3, 1, dataset_dir=folder), step=1)
    assert len(result.losses) == 2
    assert_same(found, gradients)


def test_under_law_1_samples_are_computed_one_by_one(make_spec: MakeSpec) -> None:
    """Its masks are drawn for one at a time, so a run that began with them keeps its bits."""
    results = []
    for batch_size, accumulation in ((1, 4), (4, 1)):
        trainer = trainer_with(make_spec, batch_size, accumulation, dataset_dir=songs_of(TOKENS))
        results.append(run(trainer, Progress(law=1)))
    assert results[0] == results[1]


def test_a_sample_that_is_not_finite_spoils_its_step_and_no_other_sample(make_spec: MakeSpec) -> None:
    folder = write_songs(Path("songs"), [song(0), absurd_song(1), *(song(n) for n in range(2, 8))])
    trainer = trainer_with(make_spec, 4, 1, dataset_dir=folder, epochs=1)
    results = run(trainer, progress := Progress())
    for result in results:
        finite = [math.isfinite(loss) for loss in result.losses]
        assert finite == [number != 1 for number in result.group.samples]
        assert result.is_finite == (1 not in result.group.samples)
    assert (progress.step, progress.skipped) == (2, 1)


@pytest.mark.parametrize(("left", "is_made"), [(3.5, True), (2.5, False)])
def test_the_time_that_a_step_takes_goes_by_samples(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, left: float, is_made: bool
) -> None:
    """Three samples in three seconds, and three are left when notice comes."""
    preemption = Preemption(600, end_process=lambda code: None)
    trainer = trainer_with(make_spec, 3, 2, dataset_dir=songs_of(TOKENS[:6]))
    trainer = replace(trainer, preemption=preemption)
    clock = [0.0]
    original = Trainer.losses

    def losses(self: Trainer, entries: Sequence[Entry]) -> Tensor:
        clock[0] += len(entries)
        preemption.request()
        return original(self, entries)

    monkeypatch.setattr(Trainer, "losses", losses)
    monkeypatch.setattr("sidestep.training.loop.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Preemption, "seconds_left", lambda self: left + SECONDS_TO_SAVE)
    assert (trainer.step(0) is not None) == is_made


@pytest.mark.parametrize(("frames", "size"), [(40, 8), (41, 8), (47, 8), (9, 8), (15, 8), (16, 8), (100, 33)])
def test_chunks_cover_a_song(frames: int, size: int) -> None:
    """In each round every frame is seen, and over rounds each as often as any other, give or take one."""
    parts = math.ceil(frames / size)
    for round_ in range(2):
        visits = range(round_ * parts, (round_ + 1) * parts)
        chunks = [covering(3, 1, visit, frames, size) for visit in visits]
        assert all(chunk.stop - chunk.start == size for chunk in chunks)
        seen = Counter(frame for chunk in chunks for frame in range(chunk.start, chunk.stop))
        assert seen.keys() == set(range(frames)) and max(seen.values()) <= 2
    visits = range(parts * (parts - 1))
    chunks = [covering(3, 1, visit, frames, size) for visit in visits]
    counts = Counter(frame for chunk in chunks for frame in range(chunk.start, chunk.stop)).values()
    assert max(counts) - min(counts) == (frames % size > 0) and min(counts) == parts - 1


def test_the_order_of_a_song_s_chunks_is_its_own() -> None:
    def order(seed: int, song: int) -> list[int]:
        return [covering(seed, song, visit, 80, 8).start for visit in range(20)]

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2) != order(4, 2)
    assert order(3, 1)[:10] != order(3, 1)[10:]


def test_a_run_sees_all_of_its_songs(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Songs of one, two and three chunks, over six epochs; however a step is cut."""
    folder = songs_of((4, 4, 4), (25, 50, 75))
    settings = {"dataset_dir": folder, "epochs": 6, "chunk_duration": 1, "chunks": "cover"}
    for batch_size, accumulation in ((1, 2), (2, 1)):
        trainer = trainer_with(make_spec, batch_size, accumulation, **settings)
        starts: list[Counter[int]] = [Counter(), Counter(), Counter()]
        for entry in (entry for _, entries in trained(trainer, monkeypatch) for entry in entries):
            drawn = trainer._drawn(entry)
            latents = trainer.samples[entry.song].target_latents
            [start] = [s for s in (0, 25, 50) if torch.equal(latents[s : s + 25], drawn.latents[0])]
            starts[entry.song][start] += 1
            assert torch.equal(drawn.conditions[0], trainer.samples[entry.song].encoder_hidden_states) or (
                trainer.sampling.drops_conditions(entry.index)
            )
        assert starts == [{0: 6}, {0: 3, 25: 3}, {0: 2, 25: 2, 50: 2}]
    visits = sorted(entry.visit for step in range(9) for entry in trainer.schedule.group(step).entries)
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(visits))
