"""Sweeps: each run by itself, in an order that stays; the best one is named, failures are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.config.sweep import members_of, shared_of
from sidestep.lifecycle.compared import read_run
from sidestep.lifecycle.sweep import keep_list, read_sweep
from sidestep.lifecycle.sweep_best import BestRun, read_best
from sidestep.runtime.errors import (
    AgainError,
    BadDataError,
    BadSpecError,
    ExitCode,
    SideStepError,
    StorageError,
    TakenError,
)
from sidestep.runtime.preemption import Preemption
from sidestep.storage.open import open_store
from sidestep.tasks import run
from sidestep.tasks.sweep import run_sweep
from tests.facts import facts, tells
from tests.runs import files
from tests.songs import MakeSpec, song, write_songs

SWEEP = {"train.lr": [1e-2, 1e-3], "train.adapter.rank": [2, 4]}


@pytest.fixture
def sweep(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """A sweep of four on eight songs, of which two are held out; two steps each."""
    folder = write_songs(tmp_path / "eight", [song(number) for number in range(8)])
    validation = {"songs": ["3", "5"], "every_epochs": 1, "draws": 2}

    def make(values: dict[str, Any] = SWEEP, **changes: Any) -> JobSpec:
        settings = {"dataset_dir": folder, "epochs": 1, "accumulation": 3, "validation": validation}
        places = {"runtime.workspace": str(tmp_path / "ws"), "runtime.lease_seconds": 1}
        return make_spec(**{**settings, **changes}).changed({"sweep": values, **places})

    return make


class Runs:
    """Stands in for `sidestep.tasks.run`: keeps what it is asked for, and fails by the folder."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failures: dict[str, BaseException] = {}

    def __call__(self, spec: JobSpec) -> None:
        folder = spec.output_place.rpartition("/")[2]
        self.asked.append(folder if spec.task == "train" else spec.task)
        if failure := self.failures.get(folder):
            raise failure


def done_by(spec: JobSpec, runs: Runs, **environ: str) -> list[str]:
    runs.asked.clear()
    run_sweep(spec, Preemption(), runs, environ)
    return list(runs.asked)


@pytest.mark.slow
def test_all_runs_one_after_the_other_and_the_best_by_name(sweep: MakeSpec, tmp_path: Path) -> None:
    spec = sweep()
    made = run(spec)
    output = Path(spec.output_place)
    best = read_best(open_store(spec.output_place, spec.storage))
    assert best and made
    assert made.adapter == f"{output}/{best.folder}/adapter"
    assert (best.finished, best.runs) == (4, 4)
    losses = {}
    for entry in read_sweep(open_store(spec.output_place, spec.storage)):
        losses[entry.folder] = read_run(open_store(f"{output}/{entry.folder}", spec.storage)).loss
    assert best.folder == min(losses, key=lambda folder: losses[folder])
    assert best.held_out == pytest.approx(min(losses.values()))
    assert (output / "adapter").is_dir()
    assert files(output / "adapter") == files(output / best.folder / "adapter")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    run(spec.changed({"sweep": {**SWEEP, "train.lr": [1e-2, 1e-3]}}))
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}


@pytest.mark.slow
def test_the_whole_is_compared_and_told(
    sweep: MakeSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = sweep({"train.seed": [1, 2]})
    run(spec)
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["compare", spec.output_place, "--output", str(page)], is_process=False) == ExitCode.DONE
    assert "run train.seed=1 train.seed=2 " in " ".join(capsys.readouterr().out.split())
    assert "train.seed=2" in page.read_text()
    assert main(["status", spec.output_place], is_process=False) == ExitCode.DONE
    told = capsys.readouterr().out
    assert "a sweep of 2 runs: 2 done" in told and "best: train.seed=" in told
    assert main(["status", spec.output_place, "--json"], is_process=False) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert [one["status"]["state"] for one in data["runs"]] == ["done", "done"]


def test_runs_that_fail_do_not_stop_the_others_and_the_first_permanent_failure_is_told(
    sweep: MakeSpec,
) -> None:
    spec, runs = sweep(), Runs()
    folders = [member.folder for member in members_of(spec)]
    assert done_by(spec, runs) == folders
    runs.failures = {folders[0]: StorageError("no network"), folders[2]: BadDataError("no song")}
    with pytest.raises(BadDataError, match=r"2 of 4 runs(.|\n)*no network(.|\n)*no song"):
        done_by(spec, runs)
    assert runs.asked == folders
    runs.failures = {folders[1]: StorageError("no network"), folders[3]: TakenError("another")}
    with pytest.raises(StorageError):
        done_by(spec, runs)
    runs.failures = {folders[3]: ZeroDivisionError("a bug"), folders[1]: StorageError("no network")}
    with pytest.raises(SideStepError) as bug:
        done_by(spec, runs)
    assert bug.value.exit_code is ExitCode.BUG


def test_notice_stops_the_sweep(sweep: MakeSpec) -> None:
    spec, runs = sweep(), Runs()
    folders = [member.folder for member in members_of(spec)]
    runs.failures = {folders[0]: BadDataError("no song"), folders[1]: AgainError("stopped")}
    with pytest.raises(AgainError):
        done_by(spec, runs)
    assert runs.asked == folders[:2]


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, 2),
        ({"SLURM_ARRAY_TASK_ID": "0"}, 0),
        ({"SKYPILOT_JOB_RANK": "3", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}, 3),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}, None),
        ({"DSTACK_NODE_RANK": "0", "DSTACK_NODES_NUM": "1"}, None),
        ({"DSTACK_NODE_RANK": "1", "DSTACK_NODES_NUM": "4"}, 1),
    ],
)
def test_an_index_is_one_run(sweep: MakeSpec, environ: dict[str, str], index: int | None) -> None:
    """A job by itself on a platform that numbers the machines of each job has none."""
    spec, runs = sweep(), Runs()
    folders = [member.folder for member in members_of(spec)]
    assert done_by(spec, runs, **environ) == (folders if index is None else [folders[index]])


@pytest.mark.parametrize(
    ("count", "said"), [("4", ()), ("3", ("leave out 1", "start 4")), ("6", ("78", "start 4"))]
)
def test_another_number_of_jobs_than_runs_is_warned_of(
    sweep: MakeSpec, count: str, said: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    done_by(sweep(), Runs(), SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_TASK_COUNT=count)
    warned = [message for message in caplog.messages if "SLURM_ARRAY_TASK_COUNT" in message]
    assert len(warned) == bool(said)
    assert all(tells(message, f"{count} jobs", "4 runs", *said) for message in warned)


@pytest.mark.parametrize("index", ["4", "-1", "x"])
def test_no_run_has_that_index(sweep: MakeSpec, index: str) -> None:
    spec = sweep()
    with pytest.raises(BadSpecError, match=index):
        done_by(spec, Runs(), JOB_COMPLETION_INDEX=index)
    assert not Path(spec.output_place, "sweep.json").exists()


def test_the_list_only_grows_and_an_index_stays_the_same_run(sweep: MakeSpec) -> None:
    """Not by a value that is added, by other settings, or by another order of the sweep in the spec."""
    runs, spec = Runs(), sweep()
    before = done_by(spec, runs)
    more = sweep({"train.adapter.rank": [8, 4, 2], "train.lr": ["0.001", 1e-2]}, epochs=3)
    grown = done_by(more, runs)
    assert grown[:4] == before and len({*grown}) == 6
    assert done_by(more, runs, JOB_COMPLETION_INDEX="3") == before[3:]
    store = open_store(spec.output_place, spec.storage)
    assert [entry.folder for entry in read_sweep(store)] == grown
    assert done_by(spec, runs) == before
    assert [entry.folder for entry in read_sweep(store)] == grown
    assert before == ["939e931f341d", "87ba3f334b2f", "28a5284c9525", "a2351669bccb"]


def test_a_damaged_list_ends_a_sweep_before_it_begins_and_is_written_anew_once_it_is_gone(
    sweep: MakeSpec,
) -> None:
    spec = sweep()
    folders = done_by(spec, Runs())
    file = Path(spec.output_place, "sweep.json")
    sound = file.read_bytes()
    file.write_bytes(b"{}")
    with pytest.raises(BadDataError, match=facts(file, "sidestep run")):
        run_sweep(spec, Preemption(), Runs(), {})
    assert file.read_bytes() == b"{}"
    file.unlink()
    assert done_by(spec, Runs()) == folders and file.read_bytes() == sound


def test_what_two_specs_add_at_once_is_all_there(sweep: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, other = sweep(), sweep({"train.seed": [1, 2]})
    store = open_store(spec.output_place, spec.storage)
    keep_list(store, members_of(sweep({"train.seed": [3]})))
    write, is_first = store.write_bytes, iter([True])

    def overtaken(path: str, data: bytes) -> None:
        write(path, data)
        if next(is_first, False):
            write(path, Path(spec.output_place, "others.json").read_bytes())

    theirs = open_store(f"{spec.output_place}-2", spec.storage)
    keep_list(theirs, members_of(sweep({"train.seed": [3]})))
    keep_list(theirs, members_of(other))
    Path(spec.output_place, "others.json").write_bytes(theirs.read_bytes("sweep.json"))
    monkeypatch.setattr(store, "write_bytes", overtaken)
    keep_list(store, members_of(spec))
    assert len(read_sweep(store)) == 1 + 2 + 4


def test_what_the_runs_share_has_the_prompts_that_any_of_them_needs(sweep: MakeSpec) -> None:
    spec = sweep({"train.caption_dropout": [0, 0.5], "train.genre_share": [0, 0.2]})
    spec = spec.changed({"task": "pipeline", "dataset_dir": None, "audio_dir": "songs"})
    spec = spec.changed({"train.adapter.rank_from": "estimate"})
    members = members_of(spec)
    shared = shared_of(spec, members, "preprocess")
    assert (shared.task, shared.alternates, shared.is_sweep) == ("preprocess", ("genre", "trigger"), False)
    assert shared.output_dir == spec.output_dir
    assert {member.spec.dataset_dir for member in members} == {f"{spec.output_place}/tensors"}
    assert {member.spec.train.adapter.rank_from for member in members} == {spec.output_place}
    assert {member.spec.alternates for member in members} >= {(), ("genre", "trigger")}


def test_several_processes_take_no_sweep(sweep: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sidestep.tasks.sweep.run_sweep", lambda *_: pytest.fail("it was begun"))
    spec = sweep()
    with pytest.raises(BadSpecError, match=facts("sweep", "one of 2 processes")):
        run(spec)
    assert not Path(spec.output_place).exists()


def test_the_best_one_of_too_few_songs_is_not_called_a_matter_of_chance() -> None:
    kept = {
        "folder": "a" * 12,
        "name": "b",
        "values": {},
        "step": 1,
        "held_out": 1.0,
        "finished": 2,
        "runs": 2,
    }
    best = BestRun.model_validate({**kept, "is_sure": False})
    assert "chance" not in str(best)  # the difference may be large, and measured on two songs
    assert "not a sure winner" in str(best)
    assert "sure" not in str(best.model_copy(update={"is_sure": True}))


@pytest.mark.parametrize("command", ["train", "fixed", "vanilla", "lr-find", "verify-resume"])
def test_a_command_for_one_adapter_takes_no_sweep(
    sweep: MakeSpec, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "--output-dir", sweep().output_place, "--sweep", "train.seed=1,2"]
    assert main(words, is_process=False) == ExitCode.BAD_SPEC
    assert tells(capsys.readouterr().err, f"`sidestep {command}`", "sidestep run", "--sweep '{}'")


@pytest.mark.parametrize("command", ["publish", "calibrate"])
def test_what_takes_one_run_names_those_of_a_sweep(
    sweep: MakeSpec, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = sweep({"train.seed": list(range(12))})
    store = open_store(spec.output_place, spec.storage)
    members = keep_list(store, members_of(spec))
    assert main([command, spec.output_place]) == 64
    told = caplog.messages[-1]
    assert f"{store.place}/{members[9].folder}  train.seed=9\n" in told
    assert members[10].folder not in told and "2 more" in told
