"""What in a folder is a song, and what only looks like one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec
from sidestep.runtime.errors import MissingInputError
from tests.data.conftest import PlaceFiles
from tests.data.readers import songs_of

Paths = Callable[..., list[str]]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The songs of tmp_path, with other places in the job."""

    def paths(**fields: Any) -> list[str]:
        places = {"audio_dir": str(tmp_path), "dataset_dir": "tensors", **fields}
        return [song.path for song in songs_of(JobSpec(task="preprocess", **places))]

    return paths


def test_hidden_files_and_folders_of_systems_are_no_songs(place_files: PlaceFiles, paths: Paths) -> None:
    place_files(
        *("a.wav", "._a.wav", ".cache/b.wav", "x/.hidden/deep/c.wav", "$RECYCLE.BIN/d.wav", "x/@eaDir/e.wav"),
        *("__MACOSX/f.wav", "lost+found/g.wav", "System Volume Information/h.wav", "x/.Trash-1000/i.wav"),
        *("#recycle/j.wav", "x/@Recycle/k.wav"),
    )
    assert paths() == ["a.wav"]


def test_songs_of_a_volume_of_kubernetes_are_found_once(tmp_path: Path, paths: Paths) -> None:
    version = tmp_path / "..2026_07_01"
    version.mkdir()
    (version / "a.wav").write_bytes(b"x")
    (version / "a.txt").write_text("caption: from a volume")
    (tmp_path / "..data").symlink_to("..2026_07_01")
    for name in ("a.wav", "a.txt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert paths() == ["a.wav"]
    (song,) = songs_of(JobSpec(task="preprocess", audio_dir=str(tmp_path), dataset_dir="tensors"))
    assert song.caption == "from a volume"


RESULTS = ("tensors/preview/clip.wav", "tensors/index.json", "logs/x.mp3", "deep/er/y.wav")


@pytest.mark.parametrize("link", [False, True])
def test_the_jobs_own_places_hold_no_songs(
    tmp_path: Path, place_files: PlaceFiles, paths: Paths, caplog: pytest.LogCaptureFixture, link: bool
) -> None:
    place_files("a.wav", "out2/b.wav", *(f"out/{path}" for path in RESULTS), "w/pulled/c.wav")
    output = tmp_path / "out"
    if link:
        output = tmp_path.parent / f"{tmp_path.name}-link"
        output.symlink_to(tmp_path / "out")
    with caplog.at_level("INFO", logger="sidestep"):
        found = paths(output_dir=str(output), runtime={"workspace": str(tmp_path / "w")})
    assert found == ["a.wav", "out2/b.wav"]
    lines = [record.message for record in caplog.records if "left out" in record.message]
    assert len(lines) == 1
    said = lines[0]
    assert "out" in said and "w" in said
    tensors = tmp_path / "t"
    shutil.move(tmp_path / "out", tensors)
    assert paths(dataset_dir=str(tensors), runtime={"workspace": str(tmp_path / "w")}) == [
        "a.wav",
        "out2/b.wav",
    ]


def test_previews_of_any_tensors_are_no_songs(place_files: PlaceFiles, paths: Paths) -> None:
    place_files(
        *("a.wav", "old/tensors/preview/clip.wav", "old/tensors/preview/reconstruction.wav"),
        *("old/tensors/index.json", "t/preview/clip.wav", "t/0.pt"),
        *("preview/clip.wav", "u/preview/clip.wav", "t/preview/mine.wav"),
    )
    assert paths() == ["a.wav", "preview/clip.wav", "t/preview/mine.wav", "u/preview/clip.wav"]


def test_songs_and_results_in_one_folder(tmp_path: Path, place_files: PlaceFiles, paths: Paths) -> None:
    place_files("a.wav", "preview/clip.wav", "preview/reconstruction.wav", "index.json", "tensors/b.wav")
    assert paths(dataset_dir=str(tmp_path)) == ["a.wav", "tensors/b.wav"]
    assert paths(dataset_dir=None, output_dir=str(tmp_path)) == ["a.wav"]


def test_songs_may_lie_in_an_output(tmp_path: Path, place_files: PlaceFiles, paths: Paths) -> None:
    place_files("songs/a.wav")
    assert paths(audio_dir=str(tmp_path / "songs"), output_dir=str(tmp_path)) == ["a.wav"]


def test_what_a_dataset_json_names_is_a_song_wherever_it_is(place_files: PlaceFiles, tmp_path: Path) -> None:
    place_files(".hidden/a.wav", "out/tensors/preview/clip.wav", "out/tensors/index.json")
    (tmp_path / "d.json").write_text(
        '[{"audio_path": ".hidden/a.wav"}, {"audio_path": "out/tensors/preview/clip.wav"}]'
    )
    spec = JobSpec(
        task="preprocess",
        dataset_json=str(tmp_path / "d.json"),
        audio_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
    )
    assert [song.path for song in songs_of(spec)] == [".hidden/a.wav", "out/tensors/preview/clip.wav"]


def test_a_bucket_is_looked_through_by_its_keys() -> None:
    from sidestep.config.schema import StorageSpec
    from sidestep.storage.open import open_store

    store = open_store("memory://listing/p", StorageSpec())
    for path in ("a.wav", ".x/b.wav", "out/tensors/preview/clip.wav", "out/c.wav", "out2/d.wav"):
        store.write_bytes(path, b"x")
    spec = JobSpec(task="preprocess", audio_dir="memory://listing/p", output_dir="memory://listing/p/out")
    assert [song.path for song in songs_of(spec)] == ["a.wav", "out2/d.wav"]


def test_songs_that_are_not_read_are_named(
    place_files: PlaceFiles, paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    place_files("a.wav", "0.APE", "c/d.wv", ".e.dsf", *(f"{n:02}.mid" for n in range(10)))
    assert paths() == ["a.wav"]
    lines = [record.message for record in caplog.records if "not read" in record.message]
    assert len(lines) == 1
    warning = lines[0]
    assert "0.APE" in warning and "00.mid" in warning and "09.mid" not in warning and "2 more" in warning
    assert ".e.dsf" not in warning


def test_links_to_what_is_not_here_are_named(
    tmp_path: Path, place_files: PlaceFiles, paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    """As git-annex leaves them before songs are fetched."""
    place_files("a.wav", "x/b.wav", ".hidden/c.wav")
    for name in ("x/gone.flac", ".hidden/gone.wav", "gone.txt"):
        (tmp_path / name).symlink_to("../annex/objects/1")
    (tmp_path / "linked.wav").symlink_to("x/b.wav")
    assert paths() == ["a.wav", "linked.wav", "x/b.wav"]
    said = [record.message for record in caplog.records if "nowhere" in record.message]
    assert len(said) == 1
    assert "x/gone.flac" in said[0] and ".hidden" not in said[0] and "linked" not in said[0]


def test_a_folder_of_nothing_else_says_so(place_files: PlaceFiles, paths: Paths) -> None:
    place_files("b.ape", "c.dsf")
    with pytest.raises(MissingInputError, match=r"(?s)b\.ape, c\.dsf.*\*\.wav"):
        paths()
