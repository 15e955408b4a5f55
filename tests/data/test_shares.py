"""How much of an epoch a song is: who may say it, and whose word counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.config.training import TrainSpec
from sidestep.data.dataset import Song
from sidestep.data.index import ONE, Index, Share, read_index, write_index
from sidestep.data.shares import as_set, shares_in, shares_of, shares_said
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.data.conftest import PlaceFiles
from tests.data.readers import songs_of
from tests.facts import facts

NAMES = [
    ["s3://studio/songs/ballads/a.mp3"],
    ["s3://studio/songs/b [live].mp3"],
    ["s3://studio/10_c/d.e.wav"],
]
Read = Callable[..., list[Song]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "tensors"), StorageSpec())


def repeats(**by_pattern: Any) -> list[int]:
    train = TrainSpec.model_validate({"repeats": by_pattern["patterns"]})
    return [share.repeats for share in as_set(NAMES, [ONE, Share(2), ONE], train)]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, [1, 2, 1]),
        ({"ballads/*": 3}, [3, 2, 1]),
        ({"*.mp3": 4}, [4, 4, 1]),
        ({"10_*/*": 10}, [1, 2, 10]),
        ({"d.e": 5, "d.e.wav": 5}, [1, 2, 5]),
        ({"studio/songs/ballads/a": 6}, [6, 2, 1]),
        ({"b?*": 1}, [1, 1, 1]),
        ({"b [live]": 7}, [1, 7, 1]),  # the name itself, not a pattern of one letter
        ({"songs/b [live].mp3": 8}, [1, 8, 1]),
        ({"b [[]*": 9}, [1, 9, 1]),
    ],
)
def test_patterns_are_of_the_end_of_a_path(patterns: dict[str, int], expected: list[int]) -> None:
    assert repeats(patterns=patterns) == expected


def test_a_name_in_brackets_is_no_pattern_where_a_song_has_it() -> None:
    names = [["/songs/a.mp3"], ["/songs/[ab].mp3"], ["/songs/b.mp3"]]

    def repeats_of(pattern: str, count: int) -> list[int]:
        train = TrainSpec.model_validate({"repeats": {pattern: 3}})
        return [share.repeats for share in as_set(names[:count], [ONE] * count, train)]

    assert repeats_of("[ab]", 3) == repeats_of("[ab].mp3", 3) == [1, 3, 1]
    assert repeats_of("[ab]", 1) == [3], "no song has it as its name"


@pytest.mark.parametrize("pattern", ["ballad/*", "*.MP3", "", "songs/a.mp3", "songs"])
def test_a_pattern_that_fits_no_song_is_refused(pattern: str) -> None:
    with pytest.raises(BadSpecError, match=facts("train.repeats", repr(pattern), "a.mp3")):
        repeats(patterns={pattern: 2})


def test_patterns_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadSpecError, match=facts("a.mp3", "'ballads/*'", "'*.mp3'", 3, 4)):
        repeats(patterns={"ballads/*": 3, "*.mp3": 4})
    assert repeats(patterns={"ballads/*": 3, "a*": 3}) == [3, 2, 1]


@pytest.mark.parametrize("field", ["repeats", "weights"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), 1e9, "many", None, True])
def test_the_spec_refuses_what_is_no_share(field: str, value: Any) -> None:
    with pytest.raises(BadSpecError, match=facts(f"train.{field}.a")):
        JobSpec.load(None, task="train", output_dir="out", train={field: {"a": value}})


def test_the_index_says_what_the_dataset_said_and_of_copies_the_larger(store: Store) -> None:
    index = Index(
        samples={"/songs/a.mp3": "k", "/songs/copy.mp3": "k", "/songs/b.mp3": "l"},
        shares={"/songs/a.mp3": Share(3, 0.5), "/songs/copy.mp3": Share(2, 5.0), "/songs/gone.mp3": Share(9)},
    )
    write_index(store, index)
    assert read_index(store) == index
    files = ["k.pt", "l.pt"]
    assert shares_of(read_index(store), files, TrainSpec()) == [Share(3, 5.0), ONE]
    over = shares_of(read_index(store), files, TrainSpec(repeats={"copy": 7}, weights={"b.mp3": 0.25}))
    assert over == [Share(7, 5.0), Share(1, 0.25)]
    write_index(store, Index(samples=index.samples))
    assert b"shares" not in store.read_bytes("index.json")


def test_without_an_index_tensors_are_known_by_their_own_names(store: Store) -> None:
    assert shares_of(read_index(store), ["a.pt", "b.pt"], TrainSpec(weights={"b": 2})) == [ONE, Share(1, 2.0)]


@pytest.mark.parametrize("share", [{"repeats": 10**9}, {"repeats": 0}, {"weight": -1}, {"weight": 1e-9}])
def test_a_hostile_index_is_damaged(store: Store, share: dict[str, Any]) -> None:
    store.write_bytes("index.json", json.dumps({"files": {}, "samples": {}, "shares": {"a": share}}).encode())
    with pytest.raises(BadDataError, match=facts("index.json", next(iter(share)))):
        read_index(store)


def test_what_makes_a_run_another_is_what_is_not_one() -> None:
    files, shares = ["a", "b", "c"], [Share(3), ONE, Share(2, 0.5)]
    said = shares_said(files, shares)
    assert said == {"train.repeats": {"a": 3, "c": 2}, "train.weights": {"c": 0.5}}
    assert shares_in(said, files) == shares
    assert shares_said(files, [ONE] * 3) == {} and shares_in({}, files) == [ONE] * 3


def read(folder: Path, entry: dict[str, Any]) -> Share:
    (folder / "d.json").write_text(json.dumps([{"audio_path": "a.mp3", **entry}]))
    (song,) = songs_of(JobSpec(task="preprocess", dataset_dir="t", dataset_json=str(folder / "d.json")))
    return song.share


@pytest.mark.parametrize(
    ("entry", "share"),
    [
        ({}, ONE),
        ({"repeats": 3, "weight": 0.5}, Share(3, 0.5)),
        ({"num_repeats": "4", "loss_weight": "2"}, Share(4, 2.0)),
        ({"repeats": 2.0, "weight": None}, Share(2)),
        ({"repeats": "n/a"}, ONE),
    ],
)
def test_a_dataset_json_says_it(place_files: PlaceFiles, entry: dict[str, Any], share: Share) -> None:
    assert read(place_files("a.mp3"), entry) == share


@pytest.mark.parametrize("field", ["repeats", "weight"])
@pytest.mark.parametrize("value", [0, -1, 1e9, "many", True, [1], "nan", 10**400])
def test_what_is_no_share_is_one_clear_problem(place_files: PlaceFiles, field: str, value: Any) -> None:
    with pytest.raises(BadDataError, match=facts("1 problem", "sample 1", field)):
        read(place_files("a.mp3"), {field: value})


def test_songs_come_a_whole_number_of_times(place_files: PlaceFiles) -> None:
    with pytest.raises(BadDataError, match=facts("sample 1", "repeats", "whole", 2.5)):
        read(place_files("a.mp3"), {"repeats": 2.5})


def test_texts_beside_songs_say_it_and_lyrics_do_not(place_files: PlaceFiles) -> None:
    folder = place_files("a.mp3", "b.mp3", "c.mp3")
    (folder / "a.txt").write_text("repeats: 3\n")
    (folder / "b.txt").write_text("Weight: on my shoulders\nLa la\n")
    (folder / "songs.csv").write_text("file,repeats,weight\nc.mp3,2,0.5\n")
    spec = JobSpec(
        task="preprocess",
        dataset_dir=str(folder / "t"),
        audio_dir=str(folder),
        preprocess={"bare_text": "lyrics"},
    )
    a, b, c = songs_of(spec)
    assert (a.share, b.share, c.share) == (Share(3), ONE, Share(2, 0.5))
    assert b.lyrics == "Weight: on my shoulders\nLa la"
