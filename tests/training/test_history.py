"""history.json as a reader finds it."""

import json
import math

from sidestep.data.sides import Sided, Sides, Song
from sidestep.training.history import HeldOut, SongFacts, history_bytes
from sidestep.training.numbers import Losses, Progress, Validation


def test_a_short_run() -> None:
    progress = Progress(
        3, losses=[1.23456789, math.nan, 0.5], evaluations={3: math.inf, 0: 1.5}, skipped=1, skipped_in_row=0
    )
    songs = [SongFacts("a.mp3", 61.24, "A 😀")]
    content = history_bytes(progress, [1e-4, 2e-4, math.pi], songs)
    assert json.loads(content, parse_constant=lambda name: f"{name} is no JSON") == {
        "losses": [1.23457, None, 0.5],
        "running_mean": [1.23457, 1.23457, 0.5],
        "learning_rates": [0.0001, 0.0002, 3.14159],
        "evaluations": {"0": 1.5, "3": None},
        "songs": [{"name": "a.mp3", "seconds": 61.24, "caption": "A 😀"}],
    }


def test_before_the_first_step() -> None:
    content = json.loads(history_bytes(Progress(), [], []))
    assert content == {"losses": [], "running_mean": [], "learning_rates": [], "evaluations": {}, "songs": []}


def test_held_out_songs_are_named_in_the_order_of_their_losses() -> None:
    songs = [Song(f"{name}.wav", name) for name in "abcde"]
    sides = Sides(tuple(Sided(song.latents, "", song.name[0] in "bde") for song in songs))
    held_out = HeldOut.of(songs, sides, {3: 1.5})
    assert held_out.sides == [False, True, False, True, True]
    assert list(held_out.names) == ["e.wav", "b.wav", "d.wav"]  # by content, as by_hash says
    losses = Losses((1.0, 2.0, 3.0), (1.0, math.nan, 3.0))
    found = Validation(losses, Losses((4.0,), (4.0,)))
    progress = Progress(3, validations={3: found}, timesteps=(0.31, 0.39, 0.52))
    facts = [SongFacts(song.name, 1.0, "") for song in songs]
    content = json.loads(history_bytes(progress, [], facts, held_out=held_out))
    assert content["validations"] == {
        "3": {
            "held_out": 2.0,
            "trained": 4.0,
            "smoothed": 1.5,
            "by_level": {"0.3-0.4": None, "0.5-0.6": 3.0},
            "by_song": [1.0, 2.0, 3.0],
        }
    }
    assert content["held_out"] == ["e.wav", "b.wav", "d.wav"]
    assert [song["name"] for song in content["songs"] if song.get("held_out")] == ["b.wav", "d.wav", "e.wav"]
