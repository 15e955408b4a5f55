"""Which prompt a sample is trained with: drawn for each by itself, and never for what is judged."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep.config.job import JobSpec
from sidestep.config.training import Alternate
from sidestep.data.sides import Song
from sidestep.data.tensors import Sample, sample_bytes
from sidestep.tasks.setup import sampling_config
from sidestep.training.flow import SamplingConfig, draw_batch
from sidestep.training.validation import Validator
from tests.runs import EVERY_STEP, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

NULL = torch.full((1, 1, 64), 7.0)
SAMPLING = SamplingConfig("corrected", -0.4, 1.0, cfg_dropout=0.0, seed=3)
DRAWS = 3000
OWN, TRIGGER, GENRE = (torch.full((length, 64), float(length)) for length in (5, 3, 4))
SONG = replace(song(0), encoder_hidden_states=OWN, alternates={"trigger": TRIGGER, "genre": GENRE})


def prompts(sampling: SamplingConfig, sample: Sample = SONG, count: int = DRAWS) -> list[str]:
    """Which conditions each of so many micro-batches has."""
    named = {"own": OWN, "trigger": TRIGGER, "genre": GENRE, "none": NULL.expand(1, 5, 64)[0]}

    def name(conditions: Tensor) -> str:
        return next((name for name, wanted in named.items() if torch.equal(conditions, wanted)), "another")

    return [name(draw_batch(sample, NULL, sampling, n, "cpu").conditions[0]) for n in range(count)]


def test_shares_are_those_of_the_samples_and_the_first_yes_counts() -> None:
    """Of what is not dropped, the trigger word has its share, and of the rest the genre."""
    drawn = Counter(prompts(replace(SAMPLING, cfg_dropout=0.2, caption_dropout=0.3, genre_share=0.5)))
    expected = {"none": 0.2, "trigger": 0.8 * 0.3, "genre": 0.8 * 0.7 * 0.5, "own": 0.8 * 0.7 * 0.5}
    for name, share in expected.items():
        assert drawn[name] / DRAWS == pytest.approx(share, abs=4 * (share * (1 - share) / DRAWS) ** 0.5), name


def test_each_draw_has_a_purpose_of_its_own() -> None:
    """What one setting draws is the same with and without the others, as far as these leave it something."""
    every = prompts(replace(SAMPLING, cfg_dropout=0.2, caption_dropout=0.3, genre_share=0.5), count=300)
    for name, alone in (
        ("none", replace(SAMPLING, cfg_dropout=0.2)),
        ("trigger", replace(SAMPLING, caption_dropout=0.3)),
        ("genre", replace(SAMPLING, genre_share=0.5)),
    ):
        by_itself = prompts(alone, count=300)
        assert {n for n, found in enumerate(every) if found == name} <= {
            n for n, found in enumerate(by_itself) if found == name
        }
    assert prompts(replace(SAMPLING, caption_dropout=0.5), count=99) != [
        {"genre": "trigger"}.get(found, found)
        for found in prompts(replace(SAMPLING, genre_share=0.5), count=99)
    ]
    dropped = prompts(replace(SAMPLING, cfg_dropout=0.5), count=99)
    assert prompts(replace(SAMPLING, caption_dropout=0.5), count=99) != [
        {"none": "trigger"}.get(found, found) for found in dropped
    ]


def test_a_draw_depends_on_seed_and_number_alone() -> None:
    sampling = replace(SAMPLING, caption_dropout=0.4, genre_share=0.4)
    drawn = prompts(sampling, count=60)
    (late,) = {torch.equal(draw_batch(SONG, NULL, sampling, 40, "cpu").conditions[0], OWN)}
    assert late == (drawn[40] == "own")
    assert prompts(replace(sampling, seed=4), count=60) != drawn


def test_in_vanilla_mode_too(make_spec: MakeSpec) -> None:
    """It never drops conditions; captions are dropped by choice."""
    spec = make_spec(mode="vanilla", caption_dropout=0.5)
    sampling = sampling_config(spec, {"timestep_mu": -0.4, "timestep_sigma": 1.0}, torch.float32)
    assert set(prompts(sampling, count=50)) == {"own", "trigger"}


def test_a_song_without_a_genre_keeps_its_own_conditions() -> None:
    without = replace(SONG, alternates={"trigger": TRIGGER})
    assert set(prompts(replace(SAMPLING, genre_share=1.0), without, count=9)) == {"own"}


def test_what_is_judged_has_its_own_conditions() -> None:
    sampling = replace(SAMPLING, cfg_dropout=0.5, caption_dropout=0.9, genre_share=1.0).as_captioned(seed=9)
    assert set(prompts(sampling, count=50)) == {"own"}
    assert sampling == replace(SAMPLING, seed=9)


@pytest.fixture
def of_prompts(tmp_path: Path) -> Path:
    """Three songs with every prompt."""
    generator = torch.Generator().manual_seed(9)
    songs = [
        replace(
            song(n, frames=20 + 4 * n),
            alternates={
                "trigger": torch.randn(2, 64, generator=generator),
                "genre": torch.randn(3, 64, generator=generator),
            },
        )
        for n in range(3)
    ]
    return write_songs(tmp_path / "of-prompts", songs)


def adapter(spec: JobSpec) -> bytes:
    return (Path(train(spec).adapter) / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_of_all_prompts_that_was_cut_off_in_an_epoch_is_the_uninterrupted_one(
    make_spec: MakeSpec, of_prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**EVERY_STEP, "caption_dropout": 0.4, "genre_share": 0.5, "dataset_dir": of_prompts}
    whole = adapter(make_spec("whole", **settings))
    train_until_stopped(make_spec("cut", **settings), monkeypatch, commits=3)  # in the second epoch
    assert adapter(make_spec("cut", **settings)) == whole
    assert adapter(make_spec("own", **settings | {"caption_dropout": 0, "genre_share": 0})) != whole


def test_prompts_that_nobody_draws_change_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Not even where they cannot be used: as before there was the setting, nobody reads them."""
    plain = [song(n, frames=20 + 4 * n) for n in range(3)]
    absurd: dict[Alternate, Tensor] = {"genre": torch.full((2, 64), torch.nan)}
    folder = write_songs(tmp_path / "more", plain)
    for number, sample in enumerate(plain):
        (folder / f"{number}.pt").write_bytes(sample_bytes(replace(sample, alternates=absurd)))
    assert adapter(make_spec("a", epochs=1)) == adapter(make_spec("b", epochs=1, dataset_dir=folder))


def test_held_out_songs_are_judged_by_their_own_conditions() -> None:
    songs = [Song(name=f"{n}", latents=f"{n}", audio="") for n in range(2)]
    sampling = replace(SAMPLING, cfg_dropout=0.5, caption_dropout=0.9, genre_share=1.0)
    validator = Validator([SONG, SONG], songs, [True, False], sampling, draws=9)
    batches = list(validator.batches(NULL, torch.device("cpu")))
    assert len(batches) == 18 and all(torch.equal(batch.conditions[0], OWN) for batch in batches)
