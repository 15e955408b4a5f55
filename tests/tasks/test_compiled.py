"""A training whose blocks are compiled, as a user runs it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.runs import newest, outcome, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # inductor calls a C++ compiler some dozens of times
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # inductor's own use of it
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_resumed_run_with_compiled_blocks_is_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the byte; its losses are the plain run's but for the last bits, and it says so."""
    songs = write_songs(tmp_path / "alike", [song(1), song(2)])
    settings = {"epochs": 2, "accumulation": 1, "checkpoint": {"every_steps": 1}, "adapter": {"dropout": 0.5}}
    compiled = {"dataset_dir": songs, "runtime": {"compile": "blocks"}, **settings}
    plain = make_spec("plain", dataset_dir=songs, **settings)
    whole, cut = (make_spec(name, **compiled) for name in ("whole", "cut"))
    train(plain)
    train(whole)
    train_until_stopped(cut, monkeypatch, commits=2)
    torch.compiler.reset()  # another process has to compile anew
    train(cut)
    assert outcome(cut) == outcome(whole)
    assert outcome(whole)[1] == pytest.approx(outcome(plain)[1], rel=1e-4)
    for spec, wanted in ((cut, "blocks"), (plain, None)):
        state = Path(spec.output_place, newest(spec).folder, "training_state.json")
        assert json.loads(state.read_text())["machine"].get("compile") == wanted
    assert "trains without" not in Path(cut.output_place, "status.json").read_text()
