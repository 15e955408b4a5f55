"""Other prompts of a song: encoded where they are asked for, and as if each were the song's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.job import JobSpec
from sidestep.data.index import read_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.tensors import Sample, read_sample
from sidestep.lifecycle.job import Job
from sidestep.preflight.places import check_places
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.tasks.preprocess import preprocess
from sidestep.tasks.setup import prepare_setup
from sidestep.training.machine import choose_machine
from tests.facts import facts, tells
from tests.runs import run_task
from tests.songs import MakeSpec, song, write_songs
from tests.tasks.preprocessing import Counted, MakeJob, tensors

TAG = "xyz style"
SONGS: list[dict[str, Any]] = [
    {"audio_path": "songs/a.wav", "caption": "A song", "lyrics": "La la", "bpm": 97, "genre": "folk"},
    {"audio_path": "songs/b.wav", "caption": "Another", "genre": "rock", "prompt_override": "caption"},
]
MakeDataset = Callable[..., str]


@pytest.fixture
def dataset(tmp_path: Path, songs: Path) -> MakeDataset:
    def dataset(samples: list[dict[str, Any]] = SONGS, **metadata: Any) -> str:
        path = tmp_path / "dataset.json"
        path.write_text(json.dumps({"metadata": metadata, "samples": samples}))
        return str(path)

    return dataset


def by_name(job: JobSpec) -> dict[str, Sample]:
    read = (read_sample(content, alternates=("trigger", "genre")) for content in tensors(job).values())
    return {sample.metadata["filename"]: sample for sample in read}


@pytest.mark.slow
@pytest.mark.parametrize("position", ["prepend", pytest.param("append", marks=pytest.mark.slow)])
def test_they_are_what_a_song_with_that_caption_alone_is_made_of(
    spec: MakeJob, dataset: MakeDataset, tmp_path: Path, position: str
) -> None:
    """Lyrics, tempo and key stay as they are."""

    def made(folder: str, samples: list[dict[str, Any]], **preprocess_: Any) -> dict[str, Sample]:
        job = spec(
            dataset_json=dataset(samples, custom_tag=TAG, tag_position=position),
            dataset_dir=str(tmp_path / folder),
            preprocess=preprocess_,
        )
        run_task(preprocess, job)
        return by_name(job)

    both = made("both", SONGS, alternates=["trigger", "genre"])
    plain = made("plain", SONGS)
    genre = made("genre", [{**SONGS[0], "prompt_override": "genre"}, SONGS[1]])
    tags = json.loads(Path(dataset(SONGS, custom_tag=TAG, tag_position="replace")).read_text())["samples"]
    trigger = spec(
        dataset_json=dataset(tags, custom_tag=TAG, tag_position="replace"),
        dataset_dir=str(tmp_path / "trigger"),
    )
    run_task(preprocess, trigger)
    alone = by_name(trigger)
    for name, sample in both.items():
        assert torch.equal(sample.encoder_hidden_states, plain[name].encoder_hidden_states)
        assert torch.equal(sample.alternates["trigger"], alone[name].encoder_hidden_states)
        assert sample.metadata == plain[name].metadata and not plain[name].alternates
    assert torch.equal(both["a.wav"].alternates["genre"], genre["a.wav"].encoder_hidden_states)
    assert alone["a.wav"].metadata["caption"] == TAG
    assert set(both["b.wav"].alternates) == {"trigger"}  # its prompt_override says so


def test_nothing_moves_where_none_is_asked_for(spec: MakeJob, dataset: MakeDataset, tmp_path: Path) -> None:
    plain = spec(dataset_json=dataset(custom_tag=TAG))
    run_task(preprocess, plain)
    before = tensors(plain)
    assert "alternates" not in json.loads((tmp_path / "tensors" / "index.json").read_text())
    with_genre = spec(dataset_json=dataset(custom_tag=TAG), preprocess={"alternates": ["genre"]})
    run_task(preprocess, with_genre)
    kept = before.keys() & tensors(with_genre).keys()
    assert len(kept) == 1  # b has no other prompt, and is what it was
    index = read_index(Job(with_genre).tensors)
    assert index and index.alternates == ["genre"]
    run_task(preprocess, plain)
    assert tensors(plain) == before
    index = read_index(Job(plain).tensors)
    assert index and index.alternates == []


def test_they_cost_text_encoding_alone_and_no_song_is_decoded_again(
    spec: MakeJob, dataset: MakeDataset, counted: Counted
) -> None:
    job = spec(dataset_json=dataset(custom_tag=TAG))
    run_task(preprocess, job)
    counted()
    run_task(preprocess, job.changed({"preprocess.alternates": ["trigger"]}))
    done = counted()
    assert "load_vae" not in done and "decoded" not in done
    assert done["encode_text"] == done["encode_conditions"] == 4


def test_what_training_is_set_to_draw_is_encoded(spec: MakeJob, dataset: MakeDataset) -> None:
    job = spec(dataset_json=dataset(custom_tag=TAG), train={"caption_dropout": 0.1, "genre_share": 0.2})
    assert job.alternates == ("genre", "trigger")
    drawn_one = job.changed({"train.caption_dropout": 0, "preprocess.alternates": ["trigger"]})
    assert drawn_one.alternates == ("genre", "trigger")
    run_task(preprocess, job)
    index = read_index(Job(job).tensors)
    assert index and index.alternates == ["genre", "trigger"]
    assert set(by_name(job)["a.wav"].alternates) == {"trigger", "genre"}
    same = spec(dataset_json=dataset(custom_tag=TAG), preprocess={"alternates": "trigger,genre,genre"})
    before = tensors(job)
    run_task(preprocess, same)
    assert tensors(same) == before


def test_songs_without_a_trigger_word_are_named(spec: MakeJob, dataset: MakeDataset) -> None:
    job = spec(dataset_json=dataset([SONGS[0], {**SONGS[1], "custom_tag": "own"}]))
    run_task(preprocess, job)  # without a wish for it, nothing is missing
    with pytest.raises(BadDataError, match=facts("1 of 2", "a.wav", "custom_tag", "caption_dropout")):
        run_task(preprocess, job.changed({"train.caption_dropout": 0.1}))


def test_a_dataset_without_a_genre_is_refused_and_songs_without_one_are_named(
    spec: MakeJob, dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    job = spec(dataset_json=dataset([{**SONGS[0], "genre": ""}, SONGS[1]]), train={"genre_share": 0.1})
    with pytest.raises(BadDataError, match=facts("genre", "genre_share", "prompt_override")):
        run_task(preprocess, job)
    assert Job(spec(dataset_json=dataset(), train={"genre_share": 0.1})).read_songs()
    assert tells(caplog.text, "1 of 2", "b.wav")


def test_genre_ratio_gives_way_to_draws_by_sample(
    spec: MakeJob, dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    path = dataset([SONGS[0], {**SONGS[1], "prompt_override": "genre"}], genre_ratio=100)
    assert [song.uses_genre for song in Job(spec(dataset_json=path)).read_songs()] == [True, True]
    assert not caplog.text
    drawn = Job(spec(dataset_json=path, train={"genre_share": 0.5})).read_songs()
    assert [song.uses_genre for song in drawn] == [False, True]  # an override stays one
    assert tells(caplog.text, "genre_ratio", "genre_share")


@pytest.mark.parametrize(("alternate", "setting"), [("trigger", "caption_dropout"), ("genre", "genre_share")])
def test_tensors_that_were_made_without_are_refused_before_they_are_pulled(
    spec: MakeJob, dataset: MakeDataset, tmp_path: Path, alternate: str, setting: str
) -> None:
    job = spec(dataset_json=dataset(custom_tag=TAG))
    run_task(preprocess, job)
    train = job.changed({"task": "train", "output_dir": str(tmp_path / "out")})
    check_places(Job(train))
    wanted = train.changed({f"train.{setting}": 0.1})
    with pytest.raises(BadSpecError, match=facts(f"train.{setting}", f"--alternates {alternate}")):
        check_places(Job(wanted))
    check_places(Job(wanted.changed({"task": "estimate"})))  # which draws none of them
    run_task(preprocess, job.changed({"preprocess.alternates": [alternate]}))
    check_places(Job(wanted))


def test_tensors_of_others_show_by_themselves_what_they_lack(
    make_spec: MakeSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They have no index: one trainer's have a genre where a song has one, and no trigger word."""
    songs = [song(n) for n in range(2)]
    songs[1] = replace(songs[1], alternates={"genre": torch.ones(2, 64), "trigger": torch.ones(3, 64)})
    folder = write_songs(tmp_path / "theirs", songs)

    def pulled(spec: JobSpec) -> list[Sample]:
        job, machine = Job(spec), choose_machine(spec.runtime)
        dataset, alternates = Preprocessed(job.tensors), spec.train.alternates
        return list(prepare_setup(job, dataset, machine, alternates=alternates).samples)

    first, second = pulled(make_spec(dataset_dir=folder, genre_share=0.5))
    assert not first.alternates and set(second.alternates) == {"genre"}
    assert tells(caplog.text, "1 of 2", "genre")
    with pytest.raises(BadSpecError, match=facts("caption_dropout", "1 of 2", "0.pt", "trigger")):
        pulled(make_spec(dataset_dir=folder, caption_dropout=0.5))
    (folder / "1.pt").write_bytes((folder / "0.pt").read_bytes())
    with pytest.raises(BadSpecError, match=facts("genre_share", "2 of 2")):
        pulled(make_spec(dataset_dir=folder, genre_share=0.5))
