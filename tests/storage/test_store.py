"""What every kind of store promises, on a disk, in memory and on a real S3 server."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import BadDataError, BadSpecError, MachineError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.storage.store import FileInfo, Store

NAMES = [
    "plain.wav",
    "with space.wav",
    "quotes ' and \".mp3",
    "ünïcödé 音楽 🎵.flac",
    "hash#mark.ogg",
    "per%20cent %.wav",
    "star*.wav",
    "question?.wav",
    "brackets [1] {2}.wav",
    "plus+and&equals=~.wav",
    ":colon::twice.wav",
    "back\\slash.wav",
    ".hidden",
]


def test_any_name_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    paths = sorted(NAMES + [f"{name}.d/{name}/{name}" for name in NAMES])
    for number, path in enumerate(paths):
        store.write_bytes(path, b"%d" % number)
    store.write_bytes("star1.wav", b"what a wildcard would find")
    listed = {info.path: info for info in store.list_files()}
    assert list(listed) == sorted([*paths, "star1.wav"])

    for number, path in enumerate(paths):
        content = b"%d" % number
        assert store.read_bytes(path) == content
        assert store.stat(path) == listed[path]
        target = tmp_path / "target" / path
        store.download(path, target)
        assert target.read_bytes() == content
        assert store.create(path, b"other") is False
        store.delete(path)
        assert store.create(path, b"other") is True
        store.upload(target, path)
        assert store.read_bytes(path) == content
    assert [info.path for info in store.child(f"{NAMES[8]}.d").list_files()] == [f"{NAMES[8]}/{NAMES[8]}"]
    assert [info.path for info in store.list_files()] == list(listed)


def test_list_is_deep_sorted_and_of_that_folder_alone(store: Store) -> None:
    assert store.list_files() == store.list_files("folder") == []
    for path in ("b/2.txt", "b/1.txt", "a.txt", "b/c/d/3.txt", "ba/4.txt", "b.txt"):
        store.write_bytes(path, path.encode())
    assert [info.path for info in store.list_files()] == [
        "a.txt", "b.txt", "b/1.txt", "b/2.txt", "b/c/d/3.txt", "ba/4.txt",
    ]  # fmt: skip
    assert [info.path for info in store.list_files("b")] == ["b/1.txt", "b/2.txt", "b/c/d/3.txt"]
    assert [info.path for info in store.child("b").list_files("c/")] == ["c/d/3.txt"]
    assert [info.size for info in store.list_files("b/c")] == [11]


def test_a_part_of_a_file(store: Store) -> None:
    content = bytes(range(256)) * 40
    store.write_bytes("a part [1].bin", content)
    store.write_bytes("empty", b"")
    for start, size in ((0, 8), (8, 1000), (10_000, 5), (10_230, 100), (len(content) - 1, 1)):
        assert store.read_range("a part [1].bin", start, size) == content[start : start + size]
    assert store.read_range("empty", 0, 8) == b""
    with pytest.raises(MissingInputError, match="nowhere"):
        store.read_range("nowhere", 0, 8)
    with pytest.raises(BadDataError, match="leads out"):
        store.read_range("../a part [1].bin", 0, 8)


def test_nothing_is_cached(store: Store) -> None:
    other = open_store(store.place, store.options)
    assert other.list_files() == [] and other.stat("new") is None
    store.write_bytes("new", b"1")
    (before,) = other.list_files()
    store.write_bytes("new", b"22")
    (after,) = other.list_files()
    assert (before.size, after.size) == (1, 2)
    assert before.version != after.version
    assert other.stat("new") == after
    store.delete("new")
    assert other.list_files() == [] and other.stat("new") is None


def test_what_is_absent(store: Store, tmp_path: Path) -> None:
    store.write_bytes("folder/file", b"")
    assert store.stat("absent") is None
    assert store.stat("folder") is None
    store.delete("absent")
    with pytest.raises(MissingInputError, match=r"absent does not exist"):
        store.read_bytes("absent")
    with pytest.raises(MissingInputError, match=r"absent does not exist"):
        store.download("absent", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    with pytest.raises(MissingInputError, match=r"source does not exist"):
        store.upload(tmp_path / "source", "file")


def test_an_empty_file_is_a_file(store: Store, tmp_path: Path) -> None:
    store.write_bytes("empty", b"")
    store.download("empty", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == store.read_bytes("empty") == b""
    assert [info.size for info in store.list_files()] == [0]


def test_create_has_one_winner(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: (store.create("commits/1.json", b"%d" % n), n), range(24)))
    winners = [n for won, n in results if won]
    assert [b"%d" % n for n in winners] == [store.read_bytes("commits/1.json")]


def test_advance_counts_the_bytes(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * 2**20 + 1))
    up: list[int] = []
    down: list[int] = []
    store.upload(source, "file", up.append)
    store.download("file", tmp_path / "copy", down.append)
    assert sum(up) == sum(down) == 3 * 2**20 + 1
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/..", "x\0y"])
def test_no_path_leads_out(store: Store, tmp_path: Path, path: str) -> None:
    for use in (
        store.stat,
        store.read_bytes,
        store.list_files,
        store.child,
        store.delete,
        lambda path: store.write_bytes(path, b""),
        lambda path: store.create(path, b""),
        lambda path: store.download(path, tmp_path / "target"),
        lambda path: store.upload(Path(__file__), path),
    ):
        with pytest.raises(BadDataError, match="leads out of"):
            use(path)


def test_child_is_the_folder(store: Store) -> None:
    store.write_bytes("a b/c/file", b"1")
    for child in (store.child("a b").child("c"), store.child("./a b/c/")):
        assert child.place == f"{store.place}/a b/c"
        assert [info.path for info in child.list_files()] == ["file"]
        assert type(child) is type(store) and child.options is store.options
    assert store.child("").place == store.place
    assert (store.child("x").local_root is None) == (store.local_root is None)


def test_places_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(text: str) -> str:
        return open_store(text, StorageSpec()).place

    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("songs/") == place("./x/../songs") == place("~/songs") == str(tmp_path / "songs")
    assert place(f"file://{tmp_path}/songs//") == str(tmp_path / "songs")
    assert place("file://localhost/a%20b") == "/a b"
    assert place("S3://bucket/folder//") == "s3://bucket/folder"
    assert place("s3://bucket/") == "s3://bucket"
    assert place("memory:///x/") == "memory://x"
    assert open_store("songs", StorageSpec()).local_root == tmp_path / "songs"
    assert open_store("memory://x", StorageSpec()).local_root is None


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("ftp://host/songs", "ftp:// is not a known kind of place.*s3://"),
        ("s3://", "s3://bucket/folder"),
        ("s3://bucket/a/../b", "without '..'"),
        ("file://host/songs", "file:///absolute/path"),
    ],
)
def test_what_is_no_place(place: str, said: str) -> None:
    with pytest.raises(BadSpecError, match=said):
        open_store(place, StorageSpec())


def test_secrets_in_a_place_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadSpecError, match="AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://AKIAXYZ:hush@bucket/songs", StorageSpec())
    assert "hush" not in str(caught.value) and "AKIAXYZ" not in str(caught.value)


def test_an_endpoint_without_a_host_is_refused() -> None:
    with pytest.raises(BadSpecError, match=r"endpoint_url .* names no host"):
        open_store("s3://bucket", StorageSpec(endpoint_url="http://:80"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(MachineError, match="gcsfs"):
        open_store("gs://bucket/songs", StorageSpec())


def test_a_local_store_needs_no_client_library() -> None:
    code = (
        "import sys; from sidestep.storage.open import open_store; "
        "from sidestep.config.schema import StorageSpec; "
        "print(open_store('.', StorageSpec()).list_files()); "
        "sys.exit(any(name in sys.modules for name in ('fsspec', 'boto3', 'botocore', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_memory_stores_are_shared() -> None:
    open_store("memory://shared-by-all", StorageSpec()).write_bytes("a", b"1")
    (info,) = open_store("memory://shared-by-all", StorageSpec()).list_files()
    assert info == FileInfo("a", 1, info.version)
