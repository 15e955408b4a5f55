"""What the job says of single songs is looked at before any of them is pulled."""

from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data.index import Index, Share, write_index
from sidestep.lifecycle.job import Job
from sidestep.preflight.checks import Finding, run_checks
from sidestep.preflight.places import check_places, input_checks
from sidestep.runtime.errors import BadSpecError
from sidestep.storage.open import open_store
from tests.facts import facts, tells
from tests.songs import MakeSpec, song, write_songs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tensors of four songs, studio-0.flac and so on, with an index."""
    made = write_songs(tmp_path / "made", [song(number) for number in range(4)])
    samples = {f"/music/studio-{n}.flac": str(n) for n in range(4)}
    shares = {"/music/studio-3.flac": Share(5, 0.5)}
    write_index(open_store(str(made), StorageSpec()), Index(samples=samples, shares=shares))
    return made


def found(spec: JobSpec) -> dict[str, Finding]:
    return {one.name: one for one in run_checks(input_checks(Job(spec), ahead=True))}


@pytest.mark.parametrize("field", ["repeats", "weights"])
def test_a_pattern_of_a_song_that_is_not_there(make_spec: MakeSpec, folder: Path, field: str) -> None:
    """And what the other field says is said of that one alone."""
    (other,) = {"repeats", "weights"} - {field}
    settings: dict[str, Any] = {field: {"nosuch": 2}, other: {"studio-[01]": 3}}
    findings = found(make_spec(dataset_dir=folder, **settings))
    refused, sound = findings[f"train.{field}"], findings[f"train.{other}"]
    assert isinstance(refused.error, BadSpecError) and tells(refused.said, f"train.{field}", "nosuch")
    assert sound.state == "ok" and tells(sound.said, "3 of 4")  # the dataset's own one is among them
    with pytest.raises(BadSpecError, match=facts("nosuch")):
        check_places(Job(make_spec(dataset_dir=folder, **settings)))
    assert f"train.{field}" not in found(make_spec(dataset_dir=folder))


def test_without_an_index_a_song_goes_by_its_tensors_name(make_spec: MakeSpec) -> None:
    assert found(make_spec(repeats={"1": 2}))["train.repeats"].state == "ok"
    assert found(make_spec(repeats={"studio-1": 2}))["train.repeats"].state == "FAIL"


def test_songs_of_a_pipeline_go_by_their_files(make_spec: MakeSpec, tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(3):
        (music / f"demo-{number}.ogg").write_bytes(b"sound %d" % number)

    def pipeline(**train: Any) -> JobSpec:
        places = {"task": "pipeline", "audio_dir": str(music), "dataset_dir": str(tmp_path / "none")}
        return JobSpec.load(None, **(make_spec("made", **train).model_dump() | places))

    sound = found(pipeline(repeats={"demo-1": 2}, weights={"*.ogg": 0.5}))
    assert tells(sound["train.repeats"].said, "1 of 3") and tells(sound["train.weights"].said, "3 of 3")
    refused = found(pipeline(repeats={"studio-1": 2}))["train.repeats"]
    assert isinstance(refused.error, BadSpecError) and tells(refused.said, "studio-1")
    for file in music.iterdir():
        file.unlink()
    assert found(pipeline(repeats={"demo-1": 2}))["train.repeats"].state == "skipped"


@pytest.mark.parametrize(("field", "prompt"), [("caption_dropout", "trigger"), ("genre_share", "genre")])
def test_prompts_that_were_not_encoded(make_spec: MakeSpec, folder: Path, field: str, prompt: str) -> None:
    spec = make_spec(dataset_dir=folder, **{field: 0.25})
    refused = found(spec)["prompts"]
    assert isinstance(refused.error, BadSpecError) and tells(refused.said, f"train.{field}", prompt)
    store = open_store(str(folder), StorageSpec())
    write_index(store, Index(samples={f"/music/{n}.flac": str(n) for n in range(4)}, alternates=[prompt]))
    sound = found(spec)["prompts"]
    assert sound.state == "ok" and tells(sound.said, prompt)
    store.delete("index.json")
    unknown = found(spec)["prompts"]
    assert unknown.state == "skipped" and tells(unknown.said, prompt, "index.json")
    assert "prompts" not in found(make_spec(dataset_dir=folder))
