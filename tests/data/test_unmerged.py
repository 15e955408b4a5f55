"""Merging refuses what is no whole dataset, once, of one list of songs and one recipe."""

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.config.shards import Shard
from sidestep.data.index import FileRecord, Index, read_index, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.shards import Dealt, dealt_to
from sidestep.data.unmerged import check_whole, is_merged, merge_shards, merge_waiting, settle
from sidestep.runtime.errors import BadDataError, MissingInputError, StorageError
from sidestep.storage.local import LocalStore
from sidestep.storage.store import Store
from tests.facts import facts, tells

NAMES = [f"{letter}.wav" for letter in "abcdefgh"]
Write = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path, StorageSpec())


@pytest.fixture
def write(store: Store) -> Write:
    """Write a shard as preprocessing leaves it; `left` songs are not made yet."""

    def write(
        k: int, of: int = 2, *, songs: str = "songs", recipe: str = "recipe", left: int = 0, folder: str = ""
    ) -> None:
        shard, index = Shard(k, of), Index()
        index.dealt = Dealt(shard.name, songs, recipe, ("/songs",))
        for name in (name for name in NAMES if dealt_to(name, of) == k):
            place, key, content = f"/songs/{name}", sha256(name.encode()).hexdigest(), name.encode()
            index.files[place] = FileRecord(1, "1", sha256(content).hexdigest())
            index.samples[place] = key
            index.tensors[key] = sha256(content).hexdigest()
            store.write_bytes(f"{key}.pt", content)
        for key in list(index.tensors)[:left]:
            del index.tensors[key]
        write_index(store.child(folder or shard.folder), index)

    return write


def root(store: Store) -> Index:
    index = read_index(store)
    assert index
    return index


def test_the_dataset_is_all_songs_once_none_of_the_shards_alone(store: Store, write: Write) -> None:
    write(0)
    with pytest.raises(BadDataError, match="merge-index"):  # or any .pt would be trained on
        Preprocessed(store).samples()
    write(1)
    write(0, 3)  # of another number, and not whole
    merged = merge_shards(store)
    assert (merged.of, list(merged.foreign)) == (2, ["0-of-3"])
    assert sorted(root(store).samples) == [f"/songs/{name}" for name in NAMES]
    assert len(Preprocessed(store).samples()) == len(NAMES) and root(store).dealt is None
    assert is_merged(store)


@pytest.mark.parametrize(
    ("second", "error", "said"),
    [
        (None, MissingInputError, "1 of 2 shards missing: 1-of-2"),
        ({"left": 2}, MissingInputError, r"left to preprocess of 1-of-2 \(2 of"),
        ({"songs": "with one more"}, BadDataError, "different songs or texts: 0-of-2; 1-of-2"),
        ({"recipe": "another"}, BadDataError, "different settings or models: 0-of-2; 1-of-2"),
        ({"k": 0, "folder": "shards/1-of-2"}, BadDataError, r"copies of another's index: 1-of-2 \(0-of-2\)"),
    ],
)
def test_what_is_no_whole_dataset_is_not_merged(
    store: Store, write: Write, second: dict[str, object] | None, error: type[Exception], said: str
) -> None:
    write(0)
    if second is not None:
        write(**{"k": 1, **second})
    for merge in (merge_shards, merge_waiting):
        with pytest.raises(error, match=said):
            merge(store)
    assert read_index(store) is None and not store.stat("shards/merged.json")


def test_shards_of_an_older_list_are_foreign(store: Store, write: Write) -> None:
    for k in range(2):
        write(k)
    with pytest.raises(BadDataError, match="than the dataset has now: 0-of-2, 1-of-2"):
        merge_shards(store, 2, "of now")
    write(1, songs="of now")
    with pytest.raises(BadDataError, match="than the dataset has now: 0-of-2"):
        merge_shards(store, 2, "of now")
    write(0, songs="of now")
    assert merge_shards(store, 2, "of now").of == 2


def test_where_others_are_there_than_asked_for_these_are_named(store: Store, write: Write) -> None:
    with pytest.raises(MissingInputError) as none:
        merge_shards(store, 3)
    assert tells(str(none.value), "3 of 3 shards missing") and "other shards" not in str(none.value)
    for k in range(2):
        write(k)
    write(1, 4)
    with pytest.raises(
        MissingInputError, match=facts("3 of 3 shards missing", "2 of 2 and 1 of 4", "--shards")
    ):
        merge_shards(store, 3)


def test_all_damaged_indexes_are_named(store: Store, write: Write) -> None:
    for k in range(3):
        write(k, 3)
    files = [f"shards/{k}-of-3/index.json" for k in (0, 2)]
    for file in files:
        store.write_bytes(file, b"{")
    with pytest.raises(BadDataError, match=facts(*files, "delete it and preprocess again")):
        merge_shards(store)


def test_a_store_that_fails_is_no_missing_shard(
    store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(0)
    write(0, 3)

    def fails(place: Store) -> Index:
        raise StorageError("down")

    monkeypatch.setattr("sidestep.data.unmerged.read_index", fails)
    with pytest.raises(StorageError):
        merge_shards(store)


def test_unfinished_work_of_other_shards_goes_once_its_songs_are_made(
    store: Store, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(2):
        write(k)
    write(0, 3, left=2)
    write(1, 3)
    more = root(store.child("shards/1-of-3"))
    more.samples["/songs/new.wav"] = "new"  # a song that the merged set does not have
    write_index(store.child("shards/1-of-3"), more)
    write_index(store, Index(samples=dict(root(store.child("shards/0-of-2")).samples)))  # of one job
    folders = ["shards/0-of-3", "shards/1-of-3", "shards/2-of-3", "."]  # the third one has no index
    left = [f"{folder}/unfinished/latents".removeprefix("./") for folder in folders]
    for file in left:
        store.write_bytes(file, b"work")
    merge_shards(store, 2)
    assert [bool(store.stat(file)) for file in left] == [False, True, True, False]
    assert f"{store.place}/shards/1-of-3/unfinished" in caplog.text


def test_two_whole_sets_of_different_songs_are_asked_for(store: Store, write: Write) -> None:
    for k in range(2):
        write(k)
    for k in range(3):
        write(k, 3, songs="others")
    with pytest.raises(BadDataError, match=r"2 and 3\n.*--shards"):
        merge_shards(store)
    assert merge_shards(store, 3).of == 3
    for k in range(3):
        write(k, 3)  # the same songs: either will do
    assert merge_shards(store).of == 2


def test_a_song_of_two_shards_and_tensors_that_are_gone(store: Store, write: Write) -> None:
    for k in range(2):
        write(k)
    own = root(store.child("shards/0-of-2"))
    lost = next(name for name in NAMES if dealt_to(name, 2) == 0)
    Path(store.place, f"{own.samples[f'/songs/{lost}']}.pt").unlink()
    with pytest.raises(MissingInputError, match="do not show"):
        merge_shards(store)
    other = next(name for name in NAMES if dealt_to(name, 2) == 1)
    own.samples[f"/songs/{other}"] = own.samples.pop(f"/songs/{lost}")
    write_index(store.child("shards/0-of-2"), own)
    with pytest.raises(BadDataError, match=f"0-of-2 and 1-of-2 both have /songs/{other}"):
        merge_shards(store)


def test_of_copies_with_other_bits_the_file_decides(store: Store, write: Write) -> None:
    """Two machines may make other bits of the same song under one key: the last one's have stayed."""
    for k in range(2):
        write(k)
    mine, other = (root(store.child(f"shards/{k}-of-2")) for k in range(2))
    key = next(iter(other.tensors))
    mine.tensors[key] = sha256(b"other bits").hexdigest()
    write_index(store.child("shards/0-of-2"), mine)
    merge_shards(store)
    assert root(store).tensors[key] == other.tensors[key]
    store.write_bytes(f"{key}.pt", b"neither")
    with pytest.raises(BadDataError, match="damaged"):
        merge_shards(store)


def test_it_is_merged_again_when_shards_have_changed_alone(store: Store, write: Write) -> None:
    for k in range(2):
        write(k)
    merge_waiting(store)
    (Path(store.place) / "index.json").unlink()  # nobody has it any more
    assert not is_merged(store)
    merge_waiting(store)
    for k in range(2):
        write(k, songs="with one more")
        assert not is_merged(store)
    write_index(store, Index(samples={"/songs/a.wav": "a"}))  # all songs by one job, after that
    settle(store)
    merge_waiting(store)
    assert root(store).samples == {"/songs/a.wav": "a"}


def test_tensors_of_songs_that_were_there_before_keep_their_digests(
    store: Store, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_index(store, Index(tensors={"old": "digest"}))
    for k in range(2):
        write(k)
    with caplog.at_level(logging.INFO):
        merge_waiting(store)
    assert root(store).tensors["old"] == "digest" and "8 songs of 2 shards" in caplog.text


def test_a_damaged_index_is_written_anew_once_all_shards_are_whole(
    store: Store, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write(0)
    store.write_bytes("index.json", b"damaged")
    store.write_bytes("unfinished/latents", b"work")
    with pytest.raises(MissingInputError):
        merge_shards(store)
    assert store.read_bytes("index.json") == b"damaged"
    write(1)
    merge_shards(store)
    assert len(root(store).samples) == len(NAMES) and is_merged(store)
    assert tells(caplog.text, f"{store.place}/index.json", "written anew")
    assert store.stat("unfinished/latents")  # whose songs these are, nobody knows any more


def test_what_would_be_merged_is_known_before(store: Store, write: Write) -> None:
    """A plan writes nothing; it finds what the merge would refuse."""
    write(0)
    with pytest.raises(MissingInputError, match="1-of-2"):
        check_whole(store)
    write(1)
    assert check_whole(store) == 2 and store.stat("index.json") is None


def test_a_stray_folder_of_many_shards_is_looked_into_alone(
    store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(2):
        write(k)
    write(0, 3000)
    asked = []

    def counted(place: Store) -> Index | None:
        asked.append(place.place)
        return read_index(place)

    monkeypatch.setattr("sidestep.data.unmerged.read_index", counted)
    assert merge_shards(store).of == 2 and len(asked) < 9
    for k in range(2):
        Path(store.place, f"shards/{k}-of-2/index.json").unlink()
    asked.clear()
    with pytest.raises(MissingInputError, match="2,999 of 3,000 shards missing: 1-of-3000"):
        merge_shards(store)
    assert len(asked) < 9
    Path(store.place, "shards/0-of-3000").rename(Path(store.place, "shards/0-of-999999"))
    with pytest.raises(MissingInputError, match="no shards"):  # more than preprocess.shards can say
        merge_shards(store)
