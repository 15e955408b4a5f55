"""Dealing the songs of a dataset, and telling one list of them from another."""

import json
from dataclasses import replace
from pathlib import Path

from sidestep.config.schema import StorageSpec
from sidestep.config.shards import Shard
from sidestep.data.dataset import Song, read_songs
from sidestep.data.dealing import list_digest, songs_of
from sidestep.data.index import Share
from sidestep.storage.local import LocalStore
from sidestep.storage.store import FileInfo

STORE = LocalStore(Path("/songs"), StorageSpec())


def song(path: str = "a.wav", size: int = 1, version: str = "1") -> Song:
    return Song(STORE, FileInfo(path, size, version), "a caption")


def test_entries_of_many_albums_are_dealt_by_the_whole_of_their_paths(tmp_path: Path) -> None:
    """On a disk beside audio_dir, where each album begins with a 01.mp3."""
    for album in range(12):
        (tmp_path / f"disk/{album}").mkdir(parents=True)
        (tmp_path / f"disk/{album}/01.mp3").write_bytes(b"sound")
    entries = [{"audio_path": str(tmp_path / f"disk/{album}/01.mp3")} for album in range(12)]

    def listed(count: int) -> list[Song]:
        (tmp_path / "dataset.json").write_text(json.dumps(entries[:count]))
        return read_songs(None, (LocalStore(tmp_path, StorageSpec()), "dataset.json"))

    dealt = [{one.place for one in songs_of(listed(12), Shard(k, 2))} for k in range(2)]
    assert min(map(len, dealt)) > 2 and len(dealt[0] | dealt[1]) == 12 and not dealt[0] & dealt[1]
    for k in range(2):
        assert {one.place for one in songs_of(listed(8), Shard(k, 2))} <= dealt[k]


def test_what_is_another_list_of_songs() -> None:
    """Other songs, sizes, texts or shares; not another machine's copy of the same."""
    one = song()
    same = [song(version="of another machine"), replace(one, store=LocalStore(Path("/mnt"), StorageSpec()))]
    assert {list_digest([other]) for other in (one, *same)} == {list_digest([one])}
    assert list_digest([one, song("b.wav")]) == list_digest([song("b.wav"), one])
    others = [
        [one, song("b.wav")],
        [song("b.wav")],
        [song(size=2)],
        [replace(one, caption="another")],
        [replace(one, custom_tag="tag")],
        [replace(one, share=Share(repeats=2))],
        [song("\udcff.wav")],
    ]
    assert len({list_digest(songs) for songs in others} | {list_digest([one])}) == len(others) + 1
