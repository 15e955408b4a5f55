"""What a validation's losses are of: fixed draws, which a song's content and the run's seed alone decide."""

from dataclasses import replace
from hashlib import sha256
from math import isnan, nan

import pytest
import torch

from sidestep.data.sides import Song, by_hash
from sidestep.data.tensors import Sample
from sidestep.training.flow import Batch, SamplingConfig
from sidestep.training.timesteps import midpoints
from sidestep.training.validation import Validator
from tests.songs import song

SAMPLING = SamplingConfig("corrected", -0.4, 1.0, cfg_dropout=0.9, seed=3)
NULL = torch.zeros(1, 1, 64)
SAMPLES = [song(number) for number in range(7)]
OUT = [False, True, False, False, True, False, False]


def songs_of(samples: list[Sample]) -> list[Song]:
    digests = [sha256(sample.target_latents.numpy().tobytes()).hexdigest() for sample in samples]
    return [Song(f"{digest[:3]}.wav", digest) for digest in digests]


def validator(sampling: SamplingConfig = SAMPLING, draws: int = 3) -> Validator:
    return Validator(SAMPLES, songs_of(SAMPLES), OUT, sampling, draws)


def batches(of: Validator) -> list[Batch]:
    return list(of.batches(NULL, torch.device("cpu")))


def number_of(batch: Batch) -> int:
    (number,) = (n for n, sample in enumerate(SAMPLES) if batch.latents[0].equal(sample.target_latents))
    return number


def test_held_out_songs_come_first_then_as_many_that_are_trained_on_by_song_and_level() -> None:
    of = validator()
    found = batches(of)
    numbers = [number_of(batch) for batch in found]
    assert len(of) == len(found) == 12
    trained = by_hash(songs_of(SAMPLES), [0, 2, 3, 5, 6])[:2]
    assert numbers == [n for n in (*by_hash(songs_of(SAMPLES), [1, 4]), *trained) for _ in range(3)]
    levels = [float(batch.timesteps) for batch in found]
    assert levels == pytest.approx(midpoints("corrected", 3, -0.4, 1.0) * 4)


def test_noise_is_a_song_s_own_at_each_level_and_depends_on_neither_name_nor_place() -> None:
    found = {(number_of(b), round(float(b.timesteps), 4)): b.noise for b in batches(validator())}
    noises = list(found.values())
    assert not any(one.equal(other) for n, one in enumerate(noises) for other in noises[:n])
    turned = list(reversed(SAMPLES))
    renamed = [replace(one, name=f"x{n}", audio="") for n, one in enumerate(songs_of(turned))]
    other = Validator(turned, renamed, OUT[::-1], SAMPLING, 3)
    for batch in batches(other):
        assert batch.noise.equal(found[number_of(batch), round(float(batch.timesteps), 4)])
    seeded = batches(validator(replace(SAMPLING, seed=4)))
    assert not seeded[0].noise.equal(batches(validator())[0].noise)


def test_all_conditions_are_given_whatever_training_drops() -> None:
    for batch in batches(validator()):
        assert batch.conditions[0].equal(SAMPLES[number_of(batch)].encoder_hidden_states)


def test_a_level_is_what_the_model_is_told() -> None:
    of = validator(replace(SAMPLING, timestep_dtype=torch.bfloat16))
    for batch, exact in zip(batches(of), of.timesteps * 4, strict=True):
        assert float(batch.timesteps) == float(torch.tensor(exact).bfloat16())


def test_losses_are_sorted_by_side_song_and_level() -> None:
    found = validator(draws=3).validation([1, 3, 5, 5, 7, 15, 10, 30, 50, 50, 70, 150])
    assert (found.held_out.by_song, found.held_out.by_draw) == ((3, 9), (3, 5, 10))
    assert (found.trained.by_song, found.trained.by_draw) == ((30, 90), (30, 50, 100))
    assert (found.held_out.mean, found.trained.mean) == (6, 60)


def test_one_draw_that_is_not_finite_makes_the_loss_so() -> None:
    found = validator(draws=2).validation([1, 3, nan, 9, 10, 30, 50, 90])
    assert isnan(found.held_out.mean) and found.trained.mean == 45
    assert found.held_out.by_song[0] == 2 and found.held_out.by_draw[1] == 6
