"""history.json as a reader finds it."""

import json
import math

from sidestep.training.history import SongFacts, history_bytes
from sidestep.training.numbers import Progress


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
