"""A training whose blocks are compiled, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidestep.config.yaml12 import dump_yaml
from tests.runs import newest, outcome, train, train_until_stopped
from tests.songs import MakeSpec, song, write_songs

pytestmark = [
    pytest.mark.usefixtures("fresh"),
    pytest.mark.slow,
    pytest.mark.timeout(900),  # inductor calls a C++ compiler some dozens of times
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # inductor's own use of it
]


def test_a_resumed_run_with_compiled_blocks_is_the_uninterrupted_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_layers: Path
) -> None:
    """To the byte; its losses are the plain run's but for the last bits, and it says so."""
    songs = write_songs(tmp_path / "alike", [song(1), song(2)])
    settings = {"epochs": 2, "accumulation": 1, "checkpoint": {"every_steps": 1}, "adapter": {"dropout": 0.5}}
    places = {"dataset_dir": songs, "checkpoint_dir": two_layers}
    compiled = {"runtime": {"compile": "blocks"}, **places, **settings}
    plain = make_spec("plain", **places, **settings)
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


def test_a_compiler_that_is_ended_ends_no_run(make_spec: MakeSpec, tmp_path: Path, two_layers: Path) -> None:
    """At a later length: by the notice that the whole group of processes gets, then by a full disk."""
    songs = write_songs(tmp_path / "lengths", [song(0, 24), song(1, 40)])
    settings = {"dataset_dir": songs, "checkpoint_dir": two_layers, "accumulation": 1, "epochs": 2}
    spec = make_spec(**settings).changed({"runtime.compile": "blocks"})
    end, compiler, job = tmp_path / "end", tmp_path / "g++", tmp_path / "job.yaml"
    compiler.write_text(f'#!/bin/sh\n[ -e {end} ] && . {end}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    job.write_bytes(dump_yaml(spec.model_dump(mode="json")))
    output = Path(spec.output_place)

    def train_until(compiles: str, ends: str) -> tuple[int, str, str]:
        """The code, what is said, and what the status says that the run does without."""
        end.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-m", "sidestep", "train", "--config", job],
            env={**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            lines = []
            for line in process.stderr or ():
                lines.append(line)
                if compiles in line:
                    end.write_text(ends)
        said = "".join(lines)
        assert not any(each in said for each in ("a bug in Side-Step", "Traceback", "TORCHDYNAMO")), said
        return process.returncode, said, json.loads((output / "status.json").read_text())["without"]

    code, said, without = train_until("Compiling the blocks to train", "kill -TERM 0")
    assert (code, without) == (75, "") and "the same command continues" in said
    full = "echo 'error: No space left on device' >&2; exit 1"
    code, said, without = train_until("Compiling the blocks to train", full)
    assert code == 0 and "computed without" in said and "in part" in without
    receipt = json.loads((output / "receipt.json").read_text())
    assert receipt["bit_equality"].startswith("not claimed")
