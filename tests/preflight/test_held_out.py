"""What is known of held-out songs before any is read, and what is refused that early."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sidestep.config.job import JobSpec
from sidestep.config.judging import ValidationSpec
from sidestep.config.schema import StorageSpec
from sidestep.data.index import FileRecord, Index, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.sides import Song, split
from sidestep.lifecycle.job import Job
from sidestep.planning.songs import find_songs
from sidestep.preflight.checks import Finding, run_checks
from sidestep.preflight.places import input_checks
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.storage.open import open_store
from sidestep.training.dataset import Samples
from tests.facts import tells
from tests.runs import newest, train
from tests.songs import MakeSpec, song, write_songs


def digest(number: int) -> str:
    return sha256(f"sound {number}".encode()).hexdigest()


def tensors(folder: Path, count: int, copies: int = 0) -> Path:
    """Tensors of `live-0.mp3` and so on, as preprocessing leaves them; the last are copies of the first."""
    write_songs(folder, [song(number) for number in range(count + copies)])
    places = {f"/music/live-{n}.mp3": n for n in range(count + copies)}
    files = {place: FileRecord(1, "v", digest(n % count)) for place, n in places.items()}
    samples = {place: str(n) for place, n in places.items()}
    write_index(open_store(str(folder), StorageSpec()), Index(files, samples, {}))
    return folder


def judged(make_spec: MakeSpec, folder: Path, output: str = "out", **changes: Any) -> JobSpec:
    return make_spec(output, dataset_dir=folder, **changes)


def finding(spec: JobSpec, name: str = "train.validation") -> Finding | None:
    found = {one.name: one for one in run_checks(input_checks(Job(spec), ahead=True))}
    return found.get(name)


def error(spec: JobSpec) -> str:
    found = finding(spec)
    assert found and isinstance(found.error, BadSpecError), found
    return str(found.error)


def test_by_the_index_it_is_known_which_songs_training_will_hold_out(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = tensors(tmp_path / "twelve", 12)
    spec = judged(make_spec, folder, validation={"share": 0.3})
    found = finding(spec)
    assert found and found.state == "ok"
    job = Job(spec)
    songs = Samples.pull(Preprocessed(job.tensors), job.workspace, known=True).songs
    out = split(songs, spec.train.validation).are_held_out(songs)
    names = [one.also[0] for one, is_out in zip(songs, out, strict=True) if is_out]
    assert 2 <= len(names) < 11 and tells(found.said, f"{len(names)} of 12", *names)
    planned = find_songs(job).outlook
    assert planned and planned.is_known and list(planned.held_out) == out


def test_names_are_those_of_the_songs_as_the_index_has_them(make_spec: MakeSpec, tmp_path: Path) -> None:
    """And the same names count in training, where the files' own are older."""
    folder = tensors(tmp_path / "eight", 8)
    spec = judged(make_spec, folder, validation={"songs": ["live-3", "live-5.mp3"], "draws": 1}, epochs=1)
    found = finding(spec)
    assert found and found.state == "ok" and tells(found.said, "2 of 8", "live-3.mp3", "live-5.mp3")
    train(spec)
    assert tells(error(judged(make_spec, folder, "o2", validation={"songs": ["live-9"]})), "live-9")
    job = Job(spec)
    songs = Samples.pull(Preprocessed(job.tensors), job.workspace, known=True).songs
    out = split(songs, spec.train.validation).are_held_out(songs)
    assert [number for number, is_out in enumerate(out) if is_out] == [3, 5]


def test_a_copy_with_the_same_texts_may_be_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    folder = tensors(tmp_path / "eight", 8)
    store = open_store(str(folder), StorageSpec())
    samples = {f"/music/{n}.mp3": str(n) for n in range(8)} | {"/music/zz-live.mp3": "4"}
    files = {place: FileRecord(1, "v", digest(int(key))) for place, key in samples.items()}
    write_index(store, Index(files, samples, {}))
    spec = judged(make_spec, folder, validation={"songs": ["zz-*"]})
    found = finding(spec)
    assert found and found.state == "ok" and tells(found.said, "1 of 8", "4.mp3")


@pytest.mark.parametrize("command", ["train", "estimate"])
def test_what_training_would_refuse_is_refused_at_once(
    make_spec: MakeSpec, tmp_path: Path, command: str
) -> None:
    def refused(folder: Path, **validation: Any) -> str:
        spec = judged(make_spec, folder, validation=validation)
        return error(spec.model_copy(update={"task": command}))

    eight = tensors(tmp_path / "eight", 8)
    assert tells(refused(tensors(tmp_path / "few", 7, copies=2), share=0.1), "7 songs")
    assert tells(refused(eight, songs=["live-1", "studio-*"]), "studio-*")
    assert tells(refused(eight, songs=["*"]), "every song")
    allowed = finding(judged(make_spec, tmp_path / "few", validation={"songs": ["live-1"]}))
    assert allowed and allowed.state == "ok"


def test_without_an_index_what_cannot_be_known_is_skipped_and_counts_are_refused(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = write_songs(tmp_path / "foreign", [song(number) for number in range(10)])
    spec = judged(make_spec, folder, validation={"share": 0.2, "draws": 1}, epochs=1)
    found = finding(spec)
    assert found and found.state == "skipped" and tells(found.said, "2 of 10")
    planned = find_songs(Job(spec)).outlook  # which reads them, as they are here
    assert planned and planned.is_known
    train(spec)
    (folder / "9.pt").unlink()
    (folder / "8.pt").unlink()
    (folder / "7.pt").unlink()
    assert tells(error(judged(make_spec, folder, "other", validation={"share": 0.2})), "7 songs")
    named = judged(make_spec, folder, "other", validation={"songs": ["nobody"]})
    found = finding(named)
    assert found and found.state == "skipped"
    with pytest.raises(BadSpecError, match="nobody"):
        find_songs(Job(named))


def test_songs_that_are_not_preprocessed_are_known_by_their_names(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(9):
        (music / f"live-{number}.mp3").write_bytes(b"sound %d" % number)

    def pipeline(**validation: Any) -> JobSpec:
        spec = make_spec("made", validation=validation)
        places = {"task": "pipeline", "audio_dir": str(music), "dataset_dir": str(tmp_path / "none")}
        return JobSpec.load(None, **(spec.model_dump() | places))

    found = finding(pipeline(share=0.3))
    assert found and found.state == "skipped" and tells(found.said, "3 of 9")
    assert tells(error(pipeline(songs=["studio"])), "studio")
    assert tells(error(pipeline(songs=["live-*"])), "every song")
    (music / "live-0.mp3").unlink()
    (music / "live-1.mp3").unlink()
    assert tells(error(pipeline(share=0.3)), "7 songs")
    assert finding(pipeline()) is None


def _adapter(folder: Path, *out: int, trained: range) -> Path:
    songs = [Song(f"live-{n}.mp3", f"latents {n}", digest(n)) for n in trained]
    sides = split(songs, ValidationSpec(songs=tuple(f"live-{n}" for n in out)))
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "pytorch_lora_weights.safetensors", sides.as_metadata())
    return folder


def test_a_song_that_the_first_adapter_was_trained_on_is_not_held_out(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = tensors(tmp_path / "nine", 9)
    place = _adapter(tmp_path / "first", 2, trained=range(6))

    def begun(name: str) -> JobSpec:
        return judged(make_spec, folder, validation={"songs": [name]}, init_from=str(place))

    assert tells(error(begun("live-4")), "live-4.mp3", "trained on")
    found = finding(begun("live-8"))
    assert found and found.state == "ok" and tells(found.said, "2 of 9", "live-2.mp3", "live-8.mp3")
    planned = find_songs(Job(judged(make_spec, folder, init_from=str(place)))).outlook
    assert planned and planned.count == 1  # also where validation is off


def test_a_damaged_list_in_the_first_adapter_is_found(make_spec: MakeSpec, tmp_path: Path) -> None:
    place = tmp_path / "first"
    place.mkdir()
    save_file({"x": torch.zeros(1)}, place / "pytorch_lora_weights.safetensors", {"sidestep_sides": "[{]"})
    found = finding(judged(make_spec, tensors(tmp_path / "nine", 9), init_from=str(place)), "train.init_from")
    assert found and isinstance(found.error, BadDataError)


def test_a_run_that_goes_on_keeps_its_sides(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A name that was trained on is refused; one that a file has lost since plays no part any more."""
    folder = tensors(tmp_path / "nine", 9)
    spec = judged(make_spec, folder, validation={"songs": ["live-3"], "draws": 1}, epochs=1)
    train(spec)
    assert newest(spec).kind == "done"
    assert tells(error(judged(make_spec, folder, validation={"songs": ["live-4"]})), "live-4.mp3")
    store = open_store(str(folder), StorageSpec())
    renamed = {f"/music/new-{n}.mp3": str(n) for n in range(9)}
    write_index(
        store, Index({place: FileRecord(1, "v", digest(int(n))) for place, n in renamed.items()}, renamed, {})
    )
    found = finding(spec)
    assert found and found.state == "ok" and tells(found.said, "1 of 9", "new-3.mp3")
