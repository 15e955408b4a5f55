"""An interrupted run goes on: found, its settings taken from its output, and said as flags."""

import shutil
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec, resolve
from sidestep.config.schema import StorageSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.lifecycle.status import Commit, State, Status, now
from sidestep.runtime.errors import BadSpecError
from sidestep.tasks import demo
from sidestep.wizard.resume import answers_that_make, is_unfinished
from sidestep.wizard.runs import known_runs, runs_below, standing
from sidestep.wizard.settings import Settings, load_settings, remember_run
from sidestep.wizard.state import WizardState
from tests.s3 import S3Server

from .answers import MENU, NEXT, stands
from .terminal import CONTROL_C, Terminal

STORAGE = StorageSpec()


def write_run(
    output: str, state: State = "preempted", spec: dict[str, Any] | None = None, **more: Any
) -> None:
    Path(output).mkdir(parents=True)
    status = Status(name=Path(output).name, task="train", state=state, step=4, steps=10, **more)
    Path(output, "status.json").write_text(status.model_dump_json())
    if spec is not None:
        Path(output, "job.yaml").write_bytes(dump_yaml(spec_of(spec).model_dump(mode="json")))


def spec_of(values: dict[str, Any]) -> JobSpec:
    return resolve(arguments={"task": "train", **values}, needs_places=False)[0]


def test_a_run_shows_its_name_step_state_and_age() -> None:
    before = now() - timedelta(hours=3)
    run = Status(name="pop", task="train", state="preempted", step=4, steps=10, heartbeat=before)
    assert standing(run) == "pop: training, interrupted, step 4 of 10, 3 h 00 min ago"
    run = run.model_copy(update={"state": "running"})
    assert standing(run) == "pop: training, no sign of life, step 4 of 10, 3 h 00 min ago"
    assert "running, step 4" in standing(run.model_copy(update={"heartbeat": now()}))
    assert "failed" in standing(run.model_copy(update={"state": "failed", "step": None}))
    done = run.model_copy(update={"state": "done", "step": 1, "steps": 1})
    assert standing(done) == "pop: training, finished, 1 step, 3 h 00 min ago"


def test_runs_are_found_wherever_they_are_named_or_remembered(config: Path) -> None:
    write_run("output/a")
    write_run("output/deep/b", "failed")
    write_run("far/c")
    remember_run("far/c")
    remember_run("gone")
    assert load_settings().runs == (f"{Path.cwd()}/gone", f"{Path.cwd()}/far/c")
    known = known_runs(Settings(runs=load_settings().runs), STORAGE)
    assert list(known) == ["gone", "far/c", "output/a", "output/deep/b"]
    assert [isinstance(run, Status) for run in known.values()] == [False, True, True, True]
    assert list(runs_below("output/a", STORAGE)) == ["output/a"]  # named itself


def test_runs_in_a_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = StorageSpec(endpoint_url=s3_server.endpoint)
    write_run("pop")
    content = Path("pop/status.json").read_bytes()
    s3_server.store("studio").write_bytes("runs/pop/status.json", content)
    (found,) = runs_below(s3_server.place("studio"), storage).items()
    assert found[0] == f"{s3_server.place('studio')}/runs/pop"
    assert standing(found[1]).startswith("pop: training, interrupted, step 4")


@pytest.mark.parametrize(
    ("state", "task", "is_offered"),
    [
        ("preempted", "train", True),
        ("failed", "pipeline", True),
        ("running", "train", True),
        ("done", "train", False),
        ("preempted", "preprocess", False),
    ],
)
def test_what_can_be_continued(state: State, task: str, is_offered: bool) -> None:
    assert is_unfinished(Status(name="x", task=task, state=state)) == is_offered
    assert not is_unfinished("no job has begun there")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "output_dir": "out",
            "train": {"adapter": {"rank": 8, "alpha": 128}},
        },  # alpha's default is not rank 8's
        {"train": {"lr": 0.00012345678901, "optimizer_type": "prodigy"}},
        {"train": {"adapter": {"rank_pattern": {"v_proj": 16}, "target_modules": ["v_proj", "up_proj"]}}},
        {"train": {"chunk_duration": None, "gradient_checkpointing": False}, "storage": {"path_style": True}},
    ],
)
def test_answers_make_the_same_spec(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTEP_TRAIN__CHUNK_DURATION", "30")  # it counts for what was not said
    spec = JobSpec.model_validate({"task": "train", **values})
    state = WizardState(answers_that_make(spec))
    assert state.spec().model_dump(exclude={"task"}) == spec.model_dump(exclude={"task"})


def test_what_no_answer_can_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTEP_TRAIN__ADAPTER__RANK_PATTERN", "v_proj=16")
    with pytest.raises(BadSpecError, match="rank_pattern"):
        answers_that_make(JobSpec.model_validate({"task": "train"}))


def test_a_run_is_shown_with_its_settings_and_continued_by_its_flags(terminal: Terminal) -> None:
    write_run("output/mine", spec={"output_dir": "/elsewhere/then", "train": {"adapter": {"rank": 8}}})
    write_run("output/ended", "done", spec={})
    write_run("far/away/other")
    terminal.answer(MENU, "resume")
    terminal.see("mine: training, interrupted, step 4 of 10")
    assert "ended" not in terminal.text
    terminal.answer("Run:", "elsewhere")
    terminal.answer("Where to look:", "far")
    terminal.see("far/away/other")
    terminal.answer("Run: [far/away/other]", "")
    terminal.see("far/away/other has no job.yaml yet")
    terminal.answer(MENU, "resume")
    terminal.answer("Run: [output/mine]", "")
    terminal.answer(NEXT, "all")
    terminal.see("sidestep train --output-dir output/mine --rank 8")


def test_a_run_that_has_a_checkpoint_does_not_begin_where_it_once_began(terminal: Terminal) -> None:
    commit = Commit(folder="checkpoints/x", step=4, at=now())
    train = {"resume_from": "old/checkpoints/epoch-3", "new_attempt": True, "seed": 7}
    write_run("output/gone-on", spec={"train": train}, last_commit=commit)
    write_run("output/not-begun", spec={"train": train})
    for name, is_said in (("gone-on", False), ("not-begun", True)):
        terminal.answer(MENU, "resume")
        terminal.answer("Run:", name)
        terminal.answer(NEXT, "all")
        terminal.see(f"--output-dir output/{name}")
        line = " ".join(terminal.text.replace("\n", "").rpartition("sidestep train ")[2].split())
        assert ("--resume-from old/checkpoints/epoch-3" in line) == is_said, line
        assert ("--new-attempt" in line) == is_said
        assert "--seed 7" in line
        terminal.answer(NEXT, "menu")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_songs_to_an_adapter_with_a_run_in_between_that_is_interrupted(
    terminal: Terminal, tiny_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.patience = 300  # runs, not questions alone
    shutil.rmtree("my_tensors")
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    monkeypatch.setattr(demo, "TUNES", demo.TUNES[:2])
    demo.write_songs(Path("songs"))
    for question, answer in (
        (MENU, "prep"),
        ("Models:", str(tiny_checkpoints)),
        ("Model:", "base"),
        ("Songs:", "songs"),
        ("Dataset JSON:", ""),
        ("Tensors:", ""),
        ("Questions:", ""),
        (NEXT, ""),
        ("Train on these tensors now?", "yes"),
        ("Adapter:", ""),
        ("Mode:", ""),
        ("Models:", ""),
        ("Model: [base]", ""),
        ("Tensors: [my_tensors]", ""),
        ("Output:", "out"),
        ("Preset:", ""),
        ("Questions:", ""),
        ("Rank:", "2"),
        ("Epochs: [300]", "1"),
        ("Optimizer:", ""),
        (NEXT, ""),
        (MENU, "stat"),
        ("Run:", ""),  # the newest
        (MENU, "pipeline"),
        ("Models:", str(tiny_checkpoints)),
        ("Model:", "base"),
        ("Songs:", "songs"),
        ("Dataset JSON:", ""),
        ("Output:", "output/long"),
        ("Adapter:", "lokr"),
        ("Mode:", ""),
        ("Preset:", ""),
        ("Questions:", ""),
        ("Rank:", "2"),
        ("Epochs: [300]", "9999"),
        ("Optimizer:", ""),
        (NEXT, ""),
    ):
        terminal.answer(question, answer)
    terminal.wait(lambda: stands("output/long").step is not None, "a step")
    terminal.process.send(CONTROL_C)  # it saves, and stops
    terminal.answer(MENU, "resume")
    first = stands("output/long")
    assert (first.state, first.task) == ("preempted", "pipeline")
    terminal.answer("Run: [output/long]", "")
    terminal.answer(NEXT, "")
    terminal.wait(lambda: (stands("output/long").step or 0) > (first.step or 0), "another step")
    terminal.process.send(CONTROL_C)
    terminal.answer(MENU, "quit")
    assert terminal.end() == 0
    assert stands("output/long").attempt == 2
    assert stands("output/long").last_commit is not None
    assert Path("out/adapter/adapter_model.safetensors").exists()
    assert "my-lora: training, finished, 1 step," in terminal.raw


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pipeline_that_was_killed_before_it_trained_can_be_continued(
    terminal: Terminal, tiny_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are kept from the beginning."""
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    demo.write_songs(Path("songs"))
    run = Terminal(
        *("run", "--task", "pipeline", "--checkpoint-dir", str(tiny_checkpoints), "--audio-dir", "songs"),
        *("--output-dir", "output/cut", "--epochs", "1", "--rank", "2"),
    )
    run.wait(lambda: Path("output/cut/status.json").exists(), "a sign of it")
    run.process.kill(signal.SIGKILL)
    run.process.close(force=True)
    terminal.answer(MENU, "resume")
    terminal.answer("Run: [output/cut]", "")
    terminal.answer(NEXT, "all")
    terminal.see("sidestep run --task pipeline")
    terminal.see("--rank 2")
