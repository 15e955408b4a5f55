"""Places that cannot be used, by the command: told apart, and found out before a task begins."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import raise_problems, run_checks
from sidestep.preflight.places import check_places, output_checks
from sidestep.runtime.errors import BadSpecError, ExitCode, SideStepError, StorageError
from sidestep.storage import disks, local
from sidestep.storage.open import open_store
from sidestep.tasks import train as train_task
from tests.disks import LACKS, MEANS, answer
from tests.faults import faulty_server
from tests.odd_server import odd_server, refusal
from tests.s3 import S3Server, set_credentials, strict_server
from tests.songs import MakeSpec

Refused = Callable[..., str]


@pytest.fixture
def refused(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs `sidestep train` with these settings: it must end with `code` before its task begins."""

    def run(code: int, **settings: Any) -> str:
        def begun(*_: object) -> None:
            raise AssertionError("the task has begun")

        monkeypatch.setattr(train_task, "train", begun)
        Path("job.json").write_text(make_spec(**settings).model_dump_json())
        assert main(["train", "--config", "job.json"]) == code
        said = capsys.readouterr().err
        assert "Traceback" not in said and "Pulling" not in said
        return said.partition("\n")[2]  # after the line that says what begins

    return run


def test_a_missing_bucket(refused: Refused, s3_server: S3Server) -> None:
    storage = {"endpoint_url": s3_server.endpoint}
    said = refused(66, dataset_dir="s3://of-nobody/tensors", storage=storage)
    assert said.startswith("error: dataset_dir: s3://of-nobody/tensors: there is no such bucket.")
    said = refused(66, output_dir="s3://of-nobody/runs", storage=storage)
    assert said.startswith("error: output_dir: s3://of-nobody/runs: there is no such bucket.")


def test_a_checkpoint_that_there_is_not(refused: Refused, tmp_path: Path) -> None:
    """Known before any model is read; nothing is left in the output."""
    said = refused(66, resume_from="checkpoint-epoch-50")
    assert "train.resume_from" in said and "checkpoint-epoch-50" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_prefix(refused: Refused, s3_server: S3Server) -> None:
    said = refused(66, dataset_dir=s3_server.place("nope"), storage={"endpoint_url": s3_server.endpoint})
    assert said.startswith("error: dataset_dir: there are no tensors (.pt) in s3://studio/nope.")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_songs_in_place_of_tensors(refused: Refused, s3_server: S3Server, kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "mine") if kind == "local" else s3_server.place("mine")
    storage = {"endpoint_url": s3_server.endpoint}
    store = open_store(place, JobSpec.load(task="estimate", output_dir="o", storage=storage).storage)
    store.write_bytes("cover.png", b"a picture")
    said = refused(66, dataset_dir=place, storage=storage)
    assert "sidestep preprocess" in said and "audio_dir" not in said
    store.write_bytes("b/Tune.FLAC", b"a song")
    said = refused(66, dataset_dir=place, storage=storage)
    assert all(fact in said for fact in ("b/Tune.FLAC", "--audio-dir", place, "sidestep preprocess"))


def test_no_folder_of_tensors_at_all(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("gone", "file"):
        assert "sidestep preprocess" in refused(66, dataset_dir=str(tmp_path / name))


def test_wrong_credentials(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with strict_server(tmp_path / "buckets") as server:
        set_credentials(monkeypatch, secret="wrong-secret")
        storage = {"endpoint_url": server.endpoint}
        said = refused(77, dataset_dir=server.place("tensors"), storage=storage)
        assert "dataset_dir: s3://studio/tensors: the store refuses access" in said
        assert "refuses access" in refused(77, output_dir=server.place("runs"), storage=storage)
        assert "wrong-secret" not in said


def test_a_bucket_that_may_be_listed_alone(refused: Refused, s3_server: S3Server) -> None:
    """Listing needs another right than reading."""
    s3_server.store("tensors").write_bytes("a.pt", b"tensors")
    with faulty_server(s3_server.endpoint) as server:
        server.refuses = ("HEAD",)
        storage = {"endpoint_url": server.endpoint}
        said = refused(77, dataset_dir=s3_server.place("tensors"), storage=storage)
    assert said.startswith("error: dataset_dir: s3://studio/tensors/a.pt: the store refuses access")


def test_an_output_that_may_be_read_alone(refused: Refused, s3_server: S3Server) -> None:
    with faulty_server(s3_server.endpoint) as server:
        server.refuses = ("PUT", "POST")
        storage = {"endpoint_url": server.endpoint}
        said = refused(77, output_dir=s3_server.place("runs"), storage=storage)
    assert "output_dir: s3://studio/runs/.sidestep-probe-" in said and "AccessDenied" in said


def test_a_local_output_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(78, output_dir=tmp_path / "file" / "run")
    assert (
        said
        == f"error: output_dir: {tmp_path}/file is a file, where a folder is needed. Move it away, or name "
        "another place.\n"
    )
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        locked = tmp_path / "locked"
    else:
        locked = Path("/sys")  # where even root may make no folder
    assert "the file system refuses access" in refused(77, output_dir=locked / "side-step")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("status.json", "folder"),
        ("receipt.json", "folder"),
        ("report.html", "link"),
        ("made.json", "folder"),
        ("adapter/adapter_model.safetensors", "folder"),
        ("logs", "link"),
        ("runs", "file"),
        ("commits", "file"),
        ("checkpoints", "link"),
        ("adapter", "link"),
        ("runs/events.out.tfevents.0000000001.sidestep", "folder"),
        ("runs/events.out.tfevents.0000000041.sidestep", "link"),
        ("logs/sidestep-1.log", "folder"),
        ("heartbeats/000002.json", "link"),
        ("checkpoints/checkpoint-epoch-10", "link"),
        ("checkpoints/checkpoint-step-7.g2", "file"),
        ("checkpoints/checkpoint-epoch-10/training_state.json", "folder"),
        ("checkpoints/checkpoint-epoch-10/adapter_model.safetensors", "link"),
    ],
)
def test_something_is_in_the_way_of_what_an_output_holds(
    refused: Refused, tmp_path: Path, name: str, kind: str
) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir,
        "file": path.touch,
        "link": lambda: path.symlink_to(other),
    }
    make[kind]()
    assert f"output_dir: {path} is a " in refused(65)
    assert list(other.iterdir()) == []


def test_what_others_keep_in_an_output_is_in_nobody_s_way(make_spec: MakeSpec, tmp_path: Path) -> None:
    out, spec = tmp_path / "out", make_spec(output_dir=tmp_path / "out")
    for name in ("runs/mine", "logs/old", "checkpoints/mine", "checkpoints/checkpoint-epoch-5/notes"):
        (out / name).mkdir(parents=True)
    for name in ("runs/events.out.tfevents.1700000000.host", "checkpoints/best"):
        (out / name).symlink_to(tmp_path)
    assert not [found.error for found in run_checks(output_checks(Job(spec))) if found.error]


def test_something_is_in_the_way_of_tensors(tiny_checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    Path("songs").mkdir()
    Path("songs", "a.wav").write_bytes(b"RIFF")
    words = ["preprocess", "--checkpoint-dir", str(tiny_checkpoints), "--audio-dir", "songs"]
    for name in ("index.json", "status.json", "ab12.pt"):
        Path(name, name).mkdir(parents=True)
        assert main([*words, "--tensor-output", name]) == 65
        assert f"dataset_dir: {tmp_path}/{name}/{name} is a folder" in capsys.readouterr().err


def start_at(go: int, spec: JobSpec) -> int:
    """The exit code of a start that begins when all others do."""
    os.read(go, 1)
    try:
        job = Job(spec)
        raise_problems(run_checks(output_checks(job)))
        job.output_store.create("commits/1", b"")
        job.output_store.delete("commits/1")
    except SideStepError as error:
        return int(error.exit_code)
    return 0


def test_starts_in_pairs(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Two attempts at one new output, and two jobs of an array whose outputs have one new parent folder: each
    a process of its own, started in the same moment."""
    codes = []
    for number in range(10):
        ready, go = os.pipe()
        children = []
        for job in ("one", "one") if number % 2 else ("one", "two"):
            spec = make_spec(output_dir=tmp_path / f"array-{number}" / job)
            if not (child := os.fork()):
                code = int(ExitCode.BUG)
                os.close(go)
                try:
                    code = start_at(ready, spec)
                finally:
                    os._exit(code)
            children.append(child)
        os.close(ready)
        os.close(go)
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 20


def test_the_probe_makes_no_folder(make_spec: MakeSpec, tmp_path: Path) -> None:
    """It looks in the nearest one that there is, and leaves nothing there."""
    (tmp_path / "here").mkdir()
    check_places(Job(make_spec(output_dir=tmp_path / "here" / "array" / "one")))
    assert list((tmp_path / "here").iterdir()) == []
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(BadSpecError, match="nowhere is a file, where a folder is needed"):
        check_places(Job(make_spec(output_dir=tmp_path / "nowhere")))


def test_a_folder_is_deleted_while_its_kind_is_asked(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another attempt that has just deleted its last file in there."""
    commits, ask = tmp_path / "out" / "commits", Path.stat
    commits.mkdir(parents=True)

    def asked_once(path: Path, **how: Any) -> os.stat_result:
        found = ask(path, **how)
        if path == commits and how.get("follow_symlinks", True):
            path.rmdir()
        return found

    monkeypatch.setattr(Path, "stat", asked_once)
    check_places(Job(make_spec()))
    assert not commits.exists()


def test_the_nearest_folder_is_deleted_meanwhile(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = tmp_path / "array"
    array.mkdir()
    make = tempfile.TemporaryFile

    def made_late(dir: Path) -> Any:
        if array.is_dir():
            array.rmdir()
        return make(dir=dir)

    monkeypatch.setattr(local, "TemporaryFile", made_late)
    check_places(Job(make_spec(output_dir=array / "one")))
    assert not array.exists()


def test_a_local_place_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    said = refused(66, dataset_dir=tmp_path / "nowhere", checkpoint_dir=tmp_path / "no models")
    first, second = said.splitlines()[:2]
    assert (
        first
        == f"error: dataset_dir: {tmp_path}/nowhere does not exist. Check the path, and what is mounted. "
        "`sidestep preprocess` makes tensors of songs."
    )
    assert second.startswith(f"  checkpoint_dir: there is no folder {tmp_path}/no models")
    assert not (tmp_path / "out").exists()  # nothing is left where the results would be


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": ["q_proj", "qproj"]}, "target_modules: qproj names no module of this model"),
        ({"target_modules": ["layers.4.mlp.up_proj"]}, "to layers.3.mlp.down_proj."),
        ({"rank_pattern": {"up_proj": 2}}, "rank_pattern: up_proj names none of the modules"),
        ({"alpha_pattern": {"up_proj": 2}}, "alpha_pattern: up_proj names none of the modules"),
    ],
)
def test_modules_that_the_model_lacks(refused: Refused, adapter: dict[str, Any], message: str) -> None:
    said = refused(78, adapter=adapter)
    assert said.startswith("error: train.adapter: ") and message in said


def test_groups_of_rates_that_name_no_module(refused: Refused) -> None:
    said = refused(78, lr_groups={"cross_attn": 2, "mlp": 0.5})
    assert said.startswith("error: train.adapter: ") and "lr_groups: mlp " in said


def test_a_model_that_cannot_be_loaded(refused: Refused, tiny_checkpoints: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    model = shutil.copytree(tiny_checkpoints / "acestep-v15-base", checkpoints / "acestep-v15-base")
    index = {"weight_map": {"decoder.a": "model.safetensors", "decoder.b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    said = refused(66, checkpoint_dir=checkpoints)
    assert "acestep-v15-base lacks model-2.safetensors, which model.safetensors.index.json names" in said
    (model / "model.safetensors.index.json").unlink()
    (model / "config.json").write_text('{"hidden_size": 64')
    said = refused(65, checkpoint_dir=checkpoints)
    assert said.startswith(f"error: checkpoint_dir: {model}/config.json is damaged")
    assert said.count("config.json") == 1  # not once more by the check of target_modules
    said = refused(66, checkpoint_dir=tmp_path / "nowhere")
    assert f"checkpoint_dir: there is no folder {tmp_path}/nowhere." in said


def test_songs_and_dataset_are_looked_for(tiny_checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["preprocess", "--checkpoint-dir", str(tiny_checkpoints), "--tensor-output", "tensors"]
    words += ["--audio-dir", "nowhere", "--dataset-json", str(tmp_path / "songs.json")]
    assert main(words) == 66
    said = capsys.readouterr().err
    assert f"audio_dir: {tmp_path}/nowhere does not exist" in said
    assert f"dataset_json: there is no file songs.json in {tmp_path}" in said
    assert not Path("tensors").exists()
    Path("songs.json").mkdir()
    main(words)
    assert f"dataset_json: {tmp_path}/songs.json is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["vae", "Qwen3-Embedding-0.6B"])
def test_preprocessing_needs_the_encoders_too(
    tiny_checkpoints: Path, tmp_path: Path, capsys: Any, part: str
) -> None:
    def leave_out(folder: str, names: list[str]) -> list[str]:
        return [part] if part in names else []

    checkpoints = shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints", ignore=leave_out)
    Path("songs").mkdir()
    Path("songs", "a.wav").write_bytes(b"RIFF")
    words = ["preprocess", "--checkpoint-dir", str(checkpoints), "--tensor-output", "tensors"]
    assert main([*words, "--audio-dir", "songs"]) == 66
    said = capsys.readouterr().err.partition("\n")[2]
    assert said.startswith("error: checkpoint_dir: ") and f"{part}/" in said
    assert not Path("tensors").exists()


def test_the_probe_leaves_nothing_and_finds_a_store_that_overwrites(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_places(Job(make_spec()))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    check_places(Job(make_spec()))
    assert list((tmp_path / "out").iterdir()) == []
    assert "If-None-Match" not in caplog.text
    with strict_server(tmp_path / "buckets") as server:  # rclone ignores If-None-Match
        set_credentials(monkeypatch)
        spec = make_spec(output_dir=server.place("run"), storage={"endpoint_url": server.endpoint})
        check_places(Job(spec))
        assert server.store("").list_files() == []
    assert "s3://studio/run: one run at a time" in caplog.text and "ignores If-None-Match" in caplog.text


@pytest.mark.parametrize("kind", LACKS)
@pytest.mark.parametrize("is_there", [False, True])
def test_by_what_records_are_made(
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    is_there: bool,
) -> None:
    """Plan says it always, a job where it is not the usual one."""
    answer(monkeypatch, **LACKS[kind])
    if is_there:
        (tmp_path / "out").mkdir()
    job = Job(make_spec())
    (found,) = run_checks(output_checks(job))
    assert found.error is None and MEANS[kind] in found.said
    caplog.clear()
    with caplog.at_level("INFO"):
        check_places(job)
    assert (MEANS[kind] in caplog.text) is (kind != "link")
    assert not list(tmp_path.glob("**/.sidestep*"))


@pytest.mark.parametrize("why", ["cached", "replaces"])
def test_a_disk_that_cannot_keep_two_runs_apart(
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    why: str,
) -> None:
    """Only where there is to be one writer."""
    if why == "cached":
        (tmp_path / "mounts").write_text(f"drive {tmp_path} fuse rw 0 0\n")
        monkeypatch.setattr(disks, "MOUNTS", tmp_path / "mounts")
    else:
        monkeypatch.setattr(os, "link", os.replace)
    job = Job(make_spec())
    (found,) = run_checks(output_checks(job))
    for said in (found.said, caplog.text):
        assert "one run at a time: this disk cannot keep two apart" in said
    assert found.error is None and "WARNING" in caplog.text
    assert why != "cached" or "drive" in found.said
    caplog.clear()
    (shared,) = run_checks(output_checks(Job(make_spec().model_copy(update={"task": "estimate"}))))
    assert "one run" not in shared.said + caplog.text


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_without_conditional_writes_is_written_with_a_warning(
    make_spec: MakeSpec, s3_server: S3Server, caplog: pytest.LogCaptureFixture, status: int, code: str
) -> None:
    with odd_server(s3_server.endpoint) as odd:
        odd.answer = lambda request: refusal(status, code) if request.is_conditional else None
        storage = {"endpoint_url": odd.endpoint}
        check_places(Job(make_spec(output_dir=s3_server.place("run"), storage=storage)))
    assert "s3://studio/run: one run at a time" in caplog.text and "refuses If-None-Match" in caplog.text
    caplog.clear()
    check_places(
        Job(make_spec(output_dir=s3_server.place("run"), storage={"endpoint_url": s3_server.endpoint}))
    )
    assert "If-None-Match" not in caplog.text


def test_a_store_that_says_of_every_file_that_it_is_there_is_found_out(
    make_spec: MakeSpec, s3_server: S3Server
) -> None:
    with odd_server(s3_server.endpoint) as odd:
        odd.answer = lambda request: refusal(412, "PreconditionFailed") if request.is_conditional else None
        storage = {"endpoint_url": odd.endpoint}
        with pytest.raises(StorageError, match="If-None-Match"):
            check_places(Job(make_spec(output_dir=s3_server.place("run"), storage=storage)))


def test_a_probe_that_cannot_be_deleted_is_named(
    make_spec: MakeSpec, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    with odd_server(s3_server.endpoint) as odd:
        odd.answer = lambda request: refusal(403, "AccessDenied") if request.method == "DELETE" else None
        storage = {"endpoint_url": odd.endpoint}
        check_places(Job(make_spec(output_dir=s3_server.place("run"), storage=storage)))
    (probe,) = s3_server.store("run").list_files()
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert f"s3://studio/run/{probe.path}" in warning and "delete" in warning
