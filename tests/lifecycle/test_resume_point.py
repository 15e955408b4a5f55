"""Where a run goes on: the newest commit, what waits on this machine, or what --resume-from names."""

from pathlib import Path
from typing import Any

import pytest

from sidestep.commitlog.lease import Lease
from sidestep.commitlog.writer import Writer, take_over
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.resume import (
    ResumePoint,
    check_crash_loop,
    find_resume_point,
    where_named,
)
from sidestep.runtime.errors import BadSpecError, MissingInputError, SideStepError
from sidestep.training.numbers import NUMBERS_FILE, TENSORS_FILE, Numbers, Progress, numbers_bytes
from tests.clock import Clock
from tests.facts import facts, tells


def make_job(tmp_path: Path, output: str = "out", **train: Any) -> Job:
    runtime = {"workspace": str(tmp_path / "workspace")}
    spec = JobSpec.load(None, task="train", output_dir=tmp_path / output, runtime=runtime, train=train)
    return Job(spec)


def begin(job: Job) -> Writer:
    clock = Clock()
    return take_over(job.commits, Lease(60, clock, clock.sleep), None, {})


def state(step: int) -> dict[str, tuple[bytes, ...]]:
    numbers = Numbers({}, {}, Progress(step), [], {"kind": "AdamW"})
    return {NUMBERS_FILE: (numbers_bytes(numbers),), TENSORS_FILE: (b"tensors",)}


def commit(job: Job, writer: Writer, step: int, origin: str = "") -> None:
    name = f"checkpoint-step-{step}"
    folder = job.pending.put(name, step, state(step), writer.position)
    writer.commit(folder, name, step, writer.checkpoints(name), origin)
    job.pending.clear(folder)


def find(job: Job, tmp_path: Path) -> ResumePoint:
    (tmp_path / "fetched").mkdir(exist_ok=True)
    return find_resume_point(job, tmp_path / "fetched")


def step_of(point: ResumePoint) -> int | None:
    return point.numbers.progress.step if point.numbers else None


def test_it_begins_at_the_beginning(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert find(job, tmp_path) == ResumePoint(str(tmp_path / "out"), None)
    begin(job)
    assert find(job, tmp_path) == ResumePoint(str(tmp_path / "out"), None)


def test_the_newest_commit_whatever_was_fetched_before(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
        (tmp_path / "fetched").mkdir(exist_ok=True)
        (tmp_path / "fetched" / "of-before").touch()
        point = find(job, tmp_path)
        assert (step_of(point), point.newest, point.unsent) == (step, writer.newest, None)
        assert point.folder == tmp_path / "fetched"
        assert not (tmp_path / "fetched" / "of-before").exists()


def test_what_waits_on_this_machine_comes_first(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    commit(job, writer, 2)
    folder = job.pending.put("checkpoint-step-3", 3, state(3), writer.position)
    point = find(job, tmp_path)
    assert (step_of(point), point.folder, point.newest) == (3, folder, writer.newest)
    assert point.unsent and point.unsent.step == 3


def test_going_back_needs_a_word(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
    with pytest.raises(BadSpecError, match=r"checkpoint-step-4, after step 4\n.*--new-attempt"):
        find(make_job(tmp_path, resume_from="checkpoint-step-2"), tmp_path)
    point = find(make_job(tmp_path, resume_from="checkpoint-step-2", new_attempt=True), tmp_path)
    assert (step_of(point), point.newest) == (2, writer.newest) and point.origin
    newest = find(make_job(tmp_path, resume_from="checkpoint-step-4"), tmp_path)
    assert (step_of(newest), newest.origin) == (4, "")  # which is where it goes on anyway


def test_a_name_means_the_newest_generation_of_that_checkpoint(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    for _ in range(11):  # by number, not by name: g11 sorts before g2
        writer = begin(job)
        commit(job, writer, 2)
    commit(job, writer, 4)
    point = find(make_job(tmp_path, resume_from="checkpoint-step-2", new_attempt=True), tmp_path)
    assert point.folder == tmp_path / "out" / "checkpoints" / "checkpoint-step-2.g11"


def test_another_run_s_checkpoint_is_where_this_one_begins_and_not_where_it_goes_on(tmp_path: Path) -> None:
    other, wish = make_job(tmp_path, "other"), tmp_path / "other" / "checkpoints" / "checkpoint-step-2"
    commit(other, begin(other), 2)
    job = make_job(tmp_path, resume_from=str(wish))
    first = find(job, tmp_path)
    assert (step_of(first), first.place, first.folder) == (2, str(wish), wish)
    writer = begin(job)
    commit(job, writer, 3, first.origin)
    commit(job, writer, 4)
    again = find(job, tmp_path)
    assert (step_of(again), again.origin) == (4, "")
    for file in wish.iterdir():  # it may be deleted meanwhile; but then nobody knows that name
        file.unlink()
    with pytest.raises(MissingInputError, match=facts(wish, "checkpoint-step-2")):
        find(job, tmp_path)


def lay(folder: Path, step: int) -> Path:
    """A checkpoint that somebody has put there."""
    folder.mkdir(parents=True)
    for name, parts in state(step).items():
        (folder / name).write_bytes(b"".join(parts))
    return folder


@pytest.mark.parametrize("how", ["as a path", "relative", "as a URI", "with a slash", "through a link"])
def test_the_place_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Not one of that name in this output; its folder `checkpoints` goes without saying."""
    commit(make_job(tmp_path), begin(make_job(tmp_path)), 2)
    lay(tmp_path / "one" / "checkpoints" / "checkpoint-step-2", 21)
    newer = lay(tmp_path / "one" / "checkpoints" / "checkpoint-step-2.g3", 23)
    lay(tmp_path / "one" / "checkpoints" / "checkpoint-step-20", 24)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    wish = {
        "as a path": tmp_path / "one" / "checkpoint-step-2",
        "relative": "one/checkpoint-step-2",
        "as a URI": f"file://{tmp_path}/one/checkpoint-step-2",
        "with a slash": "./one/checkpoint-step-2/",
        "through a link": "link/checkpoint-step-2",
    }[how]
    job = make_job(tmp_path, "two", resume_from=str(wish))
    assert step_of(find(job, tmp_path)) == 23
    exact = make_job(tmp_path, "two", resume_from="one/checkpoints/checkpoint-step-2")
    assert step_of(find(exact, tmp_path)) == 21
    for file in newer.parent.glob("checkpoint-step-2/*"):
        file.unlink()
    assert step_of(find(exact, tmp_path)) == 23


def test_a_bare_name_is_looked_for_here_and_then_in_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, resume_from="checkpoint-step-2", new_attempt=True)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
    monkeypatch.chdir(tmp_path)
    assert step_of(find(job, tmp_path)) == 2
    lay(tmp_path / "checkpoint-step-2", 17)
    assert step_of(find(job, tmp_path)) == 17
    with pytest.raises(MissingInputError):  # which is no bare name
        find(make_job(tmp_path, resume_from="./nowhere/checkpoint-step-2"), tmp_path)


def test_what_is_no_checkpoint_is_said_with_what_lies_there(tmp_path: Path) -> None:
    """At each place that was looked at."""
    job = make_job(tmp_path)
    commit(job, begin(job), 2)
    lay(tmp_path / "one" / "checkpoints" / "checkpoint-step-7", 7)
    (tmp_path / "one" / "checkpoint-step-9").mkdir()
    (tmp_path / "one" / "checkpoint-step-9" / "notes.txt").touch()
    with pytest.raises(
        MissingInputError, match=facts("checkpoint-step-20", tmp_path / "out", "checkpoint-step-2\n")
    ):
        find(make_job(tmp_path, resume_from="checkpoint-step-20"), tmp_path)
    with pytest.raises(
        MissingInputError,
        match=facts("step-9: notes.txt", tmp_path / "one" / "checkpoints", "checkpoint-step-7"),
    ):
        find(make_job(tmp_path, resume_from=str(tmp_path / "one" / "checkpoint-step-9")), tmp_path)
    with pytest.raises(MissingInputError, match=facts(tmp_path / "nowhere", "nothing")) as said:
        find(make_job(tmp_path, resume_from=str(tmp_path / "nowhere" / "checkpoint-step-2")), tmp_path)
    assert str(tmp_path / "out") not in str(said.value)


def typed(job: Job) -> Job:
    return Job(job.spec, may_go_back=True)


def test_what_is_typed_goes_back_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4, 6):
        commit(job, writer, step)
    job = typed(make_job(tmp_path, resume_from=str(tmp_path / "out" / "checkpoint-step-2")))
    point = find(job, tmp_path)
    assert (step_of(point), point.newest) == (2, writer.newest)
    warning = next(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert tells(warning, "step 2", "step 6")
    writer = begin(job)
    commit(job, writer, 3, point.origin)
    caplog.clear()
    assert step_of(find(job, tmp_path)) == 3
    for file in (tmp_path / "out" / "checkpoints" / "checkpoint-step-2").iterdir():  # as newer ones come
        file.unlink()
    assert step_of(find(job, tmp_path)) == 3
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_nobody_goes_back_to_another_run_by_typing(tmp_path: Path) -> None:
    """This output has a run of its own; a copy of one of its checkpoints is one of them."""
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
    other = lay(tmp_path / "other" / "checkpoint-step-1", 1)
    with pytest.raises(BadSpecError, match=facts(other, "checkpoint-step-4", "--new-attempt")):
        find(typed(make_job(tmp_path, resume_from=str(other))), tmp_path)
    copy = lay(tmp_path / "copy", 2)
    assert step_of(find(typed(make_job(tmp_path, resume_from=str(copy))), tmp_path)) == 2


def test_a_checkpoint_that_was_deleted_is_known_by_its_own_place_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
    back = typed(make_job(tmp_path, resume_from="checkpoint-step-2"))
    commit(job, begin(job), 3, find(back, tmp_path).origin)
    for file in (tmp_path / "out" / "checkpoints" / "checkpoint-step-2").iterdir():
        file.unlink()
    assert step_of(find(back, tmp_path)) == 3
    with pytest.raises(MissingInputError, match="nowhere"):
        find(typed(make_job(tmp_path, resume_from=str(tmp_path / "nowhere" / "checkpoint-step-2"))), tmp_path)


def test_after_many_attempts_without_a_checkpoint_there_is_no_hope(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    most = job.spec.runtime.max_attempts
    for _ in range(most - 1):
        begin(job)
    check_crash_loop(job)
    begin(job)
    with pytest.raises(SideStepError, match=f"{most} attempts"):
        check_crash_loop(job)
    check_crash_loop(make_job(tmp_path, new_attempt=True))
    commit(job, begin(job), 2)
    for _ in range(most - 1):
        begin(job)
    check_crash_loop(job)


@pytest.mark.parametrize(
    "file",
    ["adapter_model.safetensors", "adapter/adapter_model.safetensors", "adapter/lokr_weights.safetensors"],
)
def test_another_trainer_s_checkpoint_is_told_what_it_is_good_for(tmp_path: Path, file: str) -> None:
    theirs = tmp_path / "theirs" / "epoch_10"
    (theirs / file).parent.mkdir(parents=True)
    (theirs / file).touch()
    (theirs / "training_state.pt").touch()
    with pytest.raises(MissingInputError, match=facts(theirs, file, "sidestep export")):
        find(make_job(tmp_path, resume_from=str(theirs)), tmp_path)


@pytest.mark.parametrize("named", ["", "adapter"])
def test_a_run_of_ours_is_no_other_trainer_s(tmp_path: Path, named: str) -> None:
    """Its output, or the adapter there: the message has the checkpoints to choose from."""
    job = make_job(tmp_path, "earlier")
    commit(job, begin(job), 2)
    (tmp_path / "earlier" / "adapter").mkdir()
    (tmp_path / "earlier" / "adapter" / "lokr_weights.safetensors").touch()
    with pytest.raises(MissingInputError, match="checkpoint-step-2") as said:
        find(make_job(tmp_path, resume_from=str(tmp_path / "earlier" / named)), tmp_path)
    assert "another trainer" not in str(said.value)


def test_a_checkpoint_that_is_named_is_found_or_missed_before_anything_is_loaded(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    writer = begin(job)
    for step in (2, 4):
        commit(job, writer, step)
    missing = make_job(tmp_path, resume_from="checkpoint-step-9")
    with pytest.raises(MissingInputError, match="checkpoint-step-4"):
        where_named(missing)
    assert where_named(job) is None
    named = make_job(tmp_path, resume_from="checkpoint-step-2")
    assert str(where_named(named)).endswith("checkpoint-step-2")
    commit(job, begin(job), 3, find(typed(named), tmp_path).origin)
    for file in (tmp_path / "out" / "checkpoints" / "checkpoint-step-2").iterdir():
        file.unlink()
    assert tells(str(where_named(named)), "step 3")
    begin(job).finish()
    assert tells(str(where_named(missing)), "finished")
    with pytest.raises(MissingInputError):
        where_named(make_job(tmp_path, resume_from="checkpoint-step-9", new_attempt=True))
