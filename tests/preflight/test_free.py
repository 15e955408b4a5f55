"""What is in the way of a job's files, and what earlier attempts left damaged: found before it begins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.schema import StorageSpec
from sidestep.config.sweep import folder_of
from sidestep.preflight.free import check_output_free, check_sweep_free, check_tensors_free
from sidestep.runtime.errors import BadDataError, BadSpecError, ExitCode
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.facts import tells
from tests.songs import song, write_songs
from tests.tasks.preprocessing import write_song

RUN = folder_of({"train.seed": 1})
SWEEP = ("--sweep", "train.seed=1,2")


@pytest.fixture
def flags(tiny_checkpoints: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """Flags of a sound job with this task, whose output is `out` and whose tensors are in it or in `made`."""
    write_songs(tmp_path / "made", [song(n) for n in range(3)])
    (tmp_path / "songs").mkdir()
    write_song(tmp_path / "songs" / "a.wav", 1)

    def flags(task: str) -> list[str]:
        source = ("--dataset-dir", "made") if task == "train" else ("--audio-dir", "songs")
        places = ("--checkpoint-dir", str(tiny_checkpoints), "--output-dir", "out", "--workspace", "ws")
        return ["--task", task, *places, *source, "--device", "cpu"]

    return flags


Flags = Callable[[str], list[str]]


def put(path: Path, kind: str) -> None:
    """A file or a folder of this name; any other `kind` is a file's content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if kind == "folder" else path.write_text("" if kind == "file" else kind)


@pytest.mark.parametrize(
    ("task", "more", "name", "kind"),
    [
        ("train", (), "attempts", "file"),
        ("train", (), "samples", "file"),
        ("train", (), "checked.json", "folder"),
        ("train", (), "trackers.json", "folder"),
        ("train", SWEEP, "sweep", "file"),
        ("train", SWEEP, "sweep/commits", "file"),
        ("train", SWEEP, "sweep.json", "folder"),
        ("train", SWEEP, "best.json", "folder"),
        ("train", SWEEP, RUN, "file"),
        ("train", SWEEP, f"{RUN}/checkpoints", "file"),
        ("train", SWEEP, "sweep.json", "{}"),
        ("preprocess", (), "tensors/shards", "file"),
        ("preprocess", (), "tensors/unfinished", "file"),
        ("preprocess", (), "tensors/dataset-report.json", "folder"),
        ("preprocess", (), "tensors/preview/clip.wav", "folder"),
        ("preprocess", (), "tensors/index.json", "damaged"),
        ("preprocess", ("--shards", "2"), "shards/0-of-2", "file"),
        ("preprocess", ("--shards", "2"), "shards/1-of-2/status.json", "folder"),
        ("preprocess", ("--shards", "2"), "shards/1-of-2/logs", "file"),
        ("preprocess", ("--shards", "2"), "tensors/shards/1-of-2", "file"),
        ("preprocess", ("--shards", "2"), "tensors/shards/1-of-2/index.json", "folder"),
        ("preprocess", ("--shards", "2"), "tensors/shards/1-of-2/index.json", "damaged"),
        ("preprocess", ("--shards", "2"), "tensors/shards/merged.json", "folder"),
        ("pipeline", (), "tensors/index.json", "folder"),
        ("pipeline", (), "tensors/unfinished", "file"),
        ("pipeline", (), "tensors/index.json", "damaged"),
    ],
)
def test_a_plan_names_what_the_job_would_end_at(
    flags: Flags,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    more: tuple[str, ...],
    name: str,
    kind: str,
) -> None:
    words = ["plan", "--check-only", *flags(task), *more]
    assert main(words) == 0
    put(tmp_path / "out" / name, kind)
    capsys.readouterr()
    assert main(words) == (ExitCode.BAD_SPEC if name == RUN else ExitCode.BAD_DATA)  # as the run itself does
    assert str(tmp_path / "out" / name) in "".join(capsys.readouterr().out.split())


def test_all_damaged_indexes_of_the_shards_are_named_and_none_of_other_numbers(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--check-only", *flags("preprocess"), "--shards"]
    for name in ("0-of-2", "1-of-2", "0-of-3"):
        put(tmp_path / "out" / "tensors" / "shards" / name / "index.json", "damaged")
    assert main([*words, "4"]) == 0  # theirs are read as far as they are sound
    assert main([*words, "2"]) == ExitCode.BAD_DATA
    found = capsys.readouterr().out
    assert tells(found, "0-of-2", "1-of-2") and "0-of-3" not in found


@pytest.mark.parametrize(
    ("command", "task", "more"),
    [
        ("run", "train", ()),
        ("run", "train", SWEEP),
        ("run", "pipeline", SWEEP),
        ("run", "preprocess", ("--shards", "2", "--shard", "0")),
        ("plan", "train", SWEEP),
        ("merge-index", "preprocess", ("--shards", "2")),
    ],
)
def test_a_file_in_the_place_of_the_output_is_the_spec_s_fault(
    flags: Flags,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    task: str,
    more: tuple[str, ...],
) -> None:
    (tmp_path / "out").touch()
    words = flags(task)[2 if command == "merge-index" else 0 :]
    assert main([command, *words, *more], is_process=False) == ExitCode.BAD_SPEC
    told = "".join("".join(capsys.readouterr()).replace("output_dir  ", "output_dir:").split())
    assert f"output_dir:{tmp_path}/outisafile,whereafolderisneeded.Moveitaway,ornameanotherplace." in told
    assert told.count("isafile") == 1


@pytest.mark.slow
def test_each_name_that_jobs_leave_is_looked_at(flags: Flags, tmp_path: Path) -> None:
    """A file that is new in an output, in a sweep's or beside tensors belongs into a list of `free`."""
    out, options = tmp_path / "out", StorageSpec()
    assert main(["run", *flags("pipeline"), "--epochs", "1", *SWEEP], is_process=False) == 0
    assert main(["merge-index", "--output-dir", "out"]) == ExitCode.MISSING

    def check_whole(store: Store) -> None:
        check_output_free(store)
        check_sweep_free(store, [RUN])

    looks = [(out / RUN, check_output_free), (out / "tensors", check_tensors_free), (out, check_whole)]
    for number, (folder, look) in enumerate(looks):
        for there in folder.iterdir():
            if there.name == folder_of({"train.seed": 2}):
                continue
            other = tmp_path / f"other-{number}-{there.name}"
            put(other / there.name, "file" if there.is_dir() else "folder")
            with pytest.raises((BadDataError, BadSpecError), match=there.name):
                look(open_store(str(other), options))
