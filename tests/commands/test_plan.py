"""`sidestep plan`: its own flags, what it prints, and that it can do without any place."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.commands.plan import size_in_bytes
from tests.songs import MakeSpec


@pytest.mark.parametrize(("text", "size"), [("12GB", 12e9), ("12 g", 12e9), ("11.5GiB", 11.5 * 2**30)])
def test_sizes_are_read_as_people_write_them(text: str, size: float) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    "words",
    ["--fit 12", "--fit 0GB", "--fit=-1GB", "--fit infGB", "--songs 0", "--song-seconds nan", "--songs 2.5"],
)
def test_wrong_numbers_are_refused_before_anything_else(words: str, capsys: Any) -> None:
    assert main(["plan", "--offline", *words.split()]) == 64
    assert words.split("=")[0].split()[0] in capsys.readouterr().err


def test_the_command_on_a_job_s_own_places(make_spec: MakeSpec, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["plan", "job.json", "--json", "--fit", "24GB"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert all(check["ok"] for check in data["checks"])
    assert data["plan"]["job"]["songs"] == {"value": 3, "says": data["plan"]["job"]["songs"]["says"]} | {
        "basis": "measured"
    }
    assert data["plan"]["fit"]["changes"] == []
    assert {check["state"] for check in data["checks"]} == {"ok"}
    assert main(["plan", "job.json", "--dataset-dir", "nowhere", "--json"]) == 66
    assert "plan" not in json.loads(capsys.readouterr().out)


def test_what_could_not_be_checked_is_not_called_ok(make_spec: MakeSpec, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["plan", "job.json", "--check-only", "--checkpoint-dir", "nowhere", "--json"]) == 66
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    found = {
        name: (checks[name]["ok"], checks[name]["state"]) for name in ("checkpoint_dir", "train.adapter")
    }
    assert found == {"checkpoint_dir": (False, "FAIL"), "train.adapter": (False, "skipped")}
    assert "exit_code" not in checks["train.adapter"]
    assert main(["plan", "job.json", "--check-only", "--checkpoint-dir", "nowhere"]) == 66
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["skipped", "train.adapter"] in lines and ["ok", "dataset_dir"] in lines


@pytest.mark.slow
def test_offline_needs_nothing_at_all(capsys: Any) -> None:
    """Neither places in the spec nor any access: the 2B model, whole."""
    assert main(["plan", "--offline", "--songs", "3", "--song-seconds", "30", "--price-per-hour", "1"]) == 0
    text = capsys.readouterr().out
    assert "LoRA, 44,040,192 parameters in 384 tensors" in text
    assert "3, 1 min 30 s of sound" in text
    assert not list(Path().glob("out*"))


def states(capsys: Any) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.parametrize("flag", ["--elsewhere", "--offline"])
def test_what_nobody_looked_at_is_skipped_and_not_well(make_spec: MakeSpec, flag: str, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    assert main(["plan", "job.json", "--check-only", flag, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = {check["name"]: check["state"] for check in data["checks"]}
    assert found["device"] == found["workspace"] == found["packages"] == "skipped"
    assert (found["dataset_dir"] == "skipped") == (flag == "--offline")
    assert data["summary"]["skipped"] == list(found.values()).count("skipped")
    assert main(["plan", "job.json", "--check-only", flag]) == 0
    said = capsys.readouterr().out
    assert f"{data['summary']['skipped']} skipped" in said and "All" not in said


def test_tensors_that_are_no_dataset_s_are_not_counted(make_spec: MakeSpec, capsys: Any) -> None:
    spec = make_spec()
    tensors = Path(spec.tensors_place)
    Path("job.json").write_text(spec.model_dump_json())
    (tensors / "of-a-lost-song.tmp.pt").write_bytes(b"half")
    assert main(["plan", "job.json", "--check-only"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 tensors" in said and "1 more there" in said
    (tensors / "index.json").write_text('{"files": {}, "samples": {}}')
    for command in (["plan", "job.json", "--check-only"], ["train", "--config", "job.json"]):
        assert main(command) == 66
        words = capsys.readouterr()
        assert "none of the 4" in " ".join((words.out + words.err).split())


def test_no_song_that_is_read_fails_the_check(tiny_checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    songs, job = tmp_path / "songs", ["--checkpoint-dir", str(tiny_checkpoints), "--output-dir", "out"]
    songs.mkdir()
    job += ["--audio-dir", str(songs), "--json"]
    for name in ("notes.txt", "old.ape"):
        (songs / name).write_bytes(b"x")
    for task in ("preprocess", "pipeline"):
        assert main(["plan", "--task", task, "--check-only", *job]) == 66
        assert states(capsys)["audio_dir"] == "FAIL"
    (songs / "a.mp3").touch()
    assert main(["plan", "--task", "preprocess", "--check-only", *job]) == 65
    assert states(capsys)["audio_dir"] == "FAIL"
    (tmp_path / "d.json").write_text('[{"audio_path": "gone.mp3"}]')
    assert main(["plan", "--check-only", "--dataset-json", str(tmp_path / "d.json"), *job]) == 66
    found = states(capsys)
    assert (found["audio_dir"], found["dataset_json"]) == ("ok", "FAIL")


def test_a_song_that_cannot_be_opened_fails_the_plan(
    tiny_checkpoints: Path, tmp_path: Path, capsys: Any
) -> None:
    from sidestep.tasks import demo

    demo.write_songs(tmp_path / "songs")
    (tmp_path / "songs" / "note.mp3").write_text("a letter")
    job = ["--task", "preprocess", "--checkpoint-dir", str(tiny_checkpoints), "--output-dir", "out", "--json"]
    job += ["--audio-dir", str(tmp_path / "songs"), "--elsewhere"]
    assert main(["plan", *job]) == 65
    found = capsys.readouterr()
    error = json.loads(found.out)["error"]
    assert error["exit_code"] == 65 and "note.mp3" in error["said"] and "note.mp3" in found.err
    assert main(["plan", *job, "--on-bad-file", "skip"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["job"]["songs"]["value"] == 4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status nowhere", 66),
        ("run --config none.yaml", 66),
        ("train --rnak 3", 64),
        ("plan --epochs 0 --output-dir o --audio-dir a", 78),
        ("preprocess --audio-dir nowhere --tensor-output t", 66),
        ("train --dry-run --output-dir s3:/x", 78),
        ("presets list --nonsense", 64),
    ],
)
def test_an_error_is_json_too_where_that_is_asked_for(words: str, code: int, capsys: Any) -> None:
    assert main([*words.split(), "--json"]) == code
    found = capsys.readouterr()
    error = json.loads(found.out)["error"]
    assert error["exit_code"] == code and error["said"].splitlines()[0] in found.err
    assert main(words.split()) == code
    assert not capsys.readouterr().out


def test_a_doubtful_rate_is_told_before_a_gpu_is_rented(make_spec: MakeSpec, capsys: Any) -> None:
    Path("job.json").write_text(make_spec().model_dump_json())
    rate = ["--optimizer-type", "prodigy", "--lr"]
    for lr, is_told in (("1e-4", True), ("1", False)):
        assert main(["plan", "job.json", "--check-only", "--elsewhere", *rate, lr]) == 0
        assert ("prodigy finds the learning rate" in " ".join(capsys.readouterr().out.split())) == is_told
