"""Dealing the songs of a dataset, and telling one list of them from another."""

import json
from dataclasses import replace
from pathlib import Path

from sidestep.config.schema import StorageSpec
from sidestep.config.shards import Shard
from sidestep.data.dataset import Song, read_songs
from sidestep.data.dealing import list_digest, songs_of
from sidestep.data.index import Share
from sidestep.data.shards import dealt_to
from sidestep.storage.local import LocalStore
from sidestep.storage.store import FileInfo

STORE = LocalStore(Path("/songs"), StorageSpec())


def song(path: str = "a.wav", size: int = 1, version: str = "1") -> Song:
    return Song(STORE, FileInfo(path, size, version), "a caption")


def test_songs_of_a_json_are_dealt_by_its_entries(tmp_path: Path) -> None:
    """Wherever they were found: each machine may have them elsewhere."""
    for album in range(12):
        (tmp_path / f"disk/{album}").mkdir(parents=True)
        (tmp_path / f"disk/{album}/01.mp3").write_bytes(b"sound")
    entries = [f"/another machine/disk/{album}/01.mp3" for album in range(12)]

    def dealt(count: int) -> list[list[str]]:
        (tmp_path / "dataset.json").write_text(json.dumps([{"audio_path": one} for one in entries[:count]]))
        songs = read_songs(None, (LocalStore(tmp_path, StorageSpec()), "dataset.json"))
        return [[one.entry for one in songs_of(songs, Shard(k, 2))] for k in range(2)]

    assert dealt(12) == [[one for one in entries if dealt_to(one, 2) == k] for k in range(2)]
    assert all(set(few) <= set(many) for few, many in zip(dealt(8), dealt(12), strict=True))


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
