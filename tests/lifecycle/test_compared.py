"""Outputs as a comparison reads them: finished, unfinished, damaged, and of every age."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.lifecycle.compared import called_apart, read_run
from sidestep.report.comparison import Run
from sidestep.runtime.errors import BadDataError, ExitCode, MissingInputError
from sidestep.storage.open import open_store
from tests.runs import newest, outcome, train, train_with_notice_after
from tests.songs import MakeSpec, flip_a_bit, song, write_songs


@pytest.fixture
def make_judged(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """A spec with eight songs, of which two are held out; four epochs of three steps."""
    folder = write_songs(tmp_path / "eight", [song(number) for number in range(8)])
    validation = {"songs": ["3", "5"], "every_epochs": 1, "draws": 2}
    settings = {"dataset_dir": folder, "epochs": 2, "validation": validation}
    return lambda output="out", **changes: make_spec(output, **{**settings, **changes})


def read(spec: JobSpec) -> Run:
    return read_run(open_store(spec.output_place, spec.storage))


def test_a_finished_run(make_judged: MakeSpec) -> None:
    spec = make_judged()
    train(spec)
    run = read(spec)
    assert (run.label, run.state, run.adapter_step) == ("out", "finished", 6)
    assert run.progress.losses == outcome(spec)[1]
    assert list(run.held_out) == [0, 3, 6]
    assert run.measured == 6 and len(set(run.songs)) == len(run.by_song) == 2
    assert run.settings["train.lr"] == 1e-2 and run.settings["train.validation.draws"] == 2
    assert run.settings["train.batch_size × train.accumulation"] == 2  # what makes a step, however it is cut
    assert "train.accumulation" not in run.settings
    assert run.seconds and run.cost is None


def test_the_same_songs_are_known_by_their_content(make_judged: MakeSpec, tmp_path: Path) -> None:
    first = make_judged("first")
    train(first)
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for file in (tmp_path / "eight").iterdir():
        shutil.copy(file, renamed / f"song-{file.name}")
    validation = {"songs": ["song-3", "song-5"], "every_epochs": 1, "draws": 2}
    second = make_judged("second", dataset_dir=renamed, validation=validation)
    train(second)
    assert sorted(read(first).songs) == sorted(read(second).songs)


def test_an_unfinished_run_has_the_numbers_of_its_newest_checkpoint(make_judged: MakeSpec) -> None:
    spec = make_judged()
    train_with_notice_after(spec, 4)
    run = read(spec)
    assert run.progress.step == len(run.progress.losses) == 4
    assert "step 4 of 6" in run.state
    assert run.measured == 3


def test_a_checkpoint_that_was_published_is_the_adapter_s(make_judged: MakeSpec) -> None:
    spec = make_judged(checkpoint={"every_epochs": 1, "keep": 9})
    train(spec)
    assert main(["publish", str(spec.output_dir), "--checkpoint", "checkpoint-epoch-1"]) == 0
    run = read(spec)
    assert (run.adapter_step, run.measured, run.progress.step) == (3, 3, 6)


def test_a_run_without_validation_and_one_of_an_older_version(make_spec: MakeSpec) -> None:
    spec = make_spec()
    train(spec)
    run = read(spec)
    assert not run.held_out and run.songs == () and run.measured is None
    assert len(run.progress.losses) == run.progress.step


@pytest.mark.parametrize(
    "file", ["training_state.json", "training_state.safetensors", "status.json", "job.yaml"]
)
def test_damage(file: str, make_judged: MakeSpec) -> None:
    """What its numbers are in makes an output useless; without time and cost, it is compared all the same."""
    spec = make_judged()
    train(spec)
    path = Path(spec.output_place, newest(spec).folder, file)
    if not path.exists():
        Path(spec.output_place, file).write_bytes(b"{")
        run = read(spec)
        assert run.cost is None and (run.seconds is None) == (file == "status.json")
        return
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if file.endswith(".safetensors"):
        path.write_bytes(b"\xff" * 100)
    with pytest.raises(BadDataError, match=file):
        read(spec)


def test_a_flipped_bit_in_the_numbers_is_found(make_judged: MakeSpec) -> None:
    spec = make_judged()
    train(spec)
    flip_a_bit(Path(spec.output_place, newest(spec).folder, "training_state.json"))
    with pytest.raises(BadDataError, match=r"training_state\.json"):
        read(spec)


def test_no_checkpoint(make_spec: MakeSpec) -> None:
    with pytest.raises(MissingInputError, match="no checkpoint"):
        read(make_spec("nothing"))


def test_labels_tell_runs_apart(make_spec: MakeSpec, tmp_path: Path) -> None:
    runs = []
    for folder in ("a/out", "b/out", "c"):
        spec = make_spec(folder, max_steps=1)
        train(spec)
        runs.append(read(spec))
    labels = [run.label for run in called_apart(runs)]
    assert labels == [str(tmp_path / "a/out"), str(tmp_path / "b/out"), "c"]


def test_the_command(make_judged: MakeSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, loud = make_judged("soft", lr=1e-5), make_judged("loud", lr=1e-2)
    for spec in (soft, loud):
        train(spec)
    places = [str(soft.output_dir), str(loud.output_dir)]
    before = {
        path: path.read_bytes() for place in places for path in Path(place).rglob("*") if path.is_file()
    }
    assert main(["compare", *places]) == 0
    table = capsys.readouterr().out
    assert "train.lr" in table and "1e-05" in table
    page = Path("compare.html").read_text()
    assert "soft" in page and "loud" in page
    gone = str(tmp_path / "gone")
    assert main(["compare", *places, gone, "--json", "--output", "page.html"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert [run["place"] for run in data["runs"]] == places
    assert gone in captured.err and gone in Path("page.html").read_text()
    after = {path: path.read_bytes() for place in places for path in Path(place).rglob("*") if path.is_file()}
    assert after == before
    assert main(["compare", places[0], gone]) == ExitCode.MISSING
    assert gone in capsys.readouterr().err
    assert main(["compare", places[0]]) == ExitCode.USAGE
    assert main(["compare", places[0], places[0]]) == ExitCode.USAGE


@pytest.mark.slow
def test_the_command_loads_no_torch(make_judged: MakeSpec) -> None:
    places = []
    for name in ("soft", "loud"):
        spec = make_judged(name, max_steps=1)
        train(spec)
        places.append(str(spec.output_dir))
    code = (
        "import sys; from sidestep.cli import main; "
        f"code = main(['compare', *{places!r}]); "
        "sys.exit(code or ('torch' in sys.modules and 'torch is loaded'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
