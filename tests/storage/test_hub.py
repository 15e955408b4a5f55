"""Repositories on the Hugging Face Hub: read at one commit, through its stumbles, and never written to."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.retry import Limits, Retry
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from tests.clock import Clock
from tests.hub import TOKEN, Hub

CONTENT = bytes(range(256)) * 9000  # more than two blocks
FILES = {
    "README.md": b"about",
    "model/config.json": b"{}",
    "model/ä 100%?#.bin": CONTENT,
    "model/empty": b"",
    "models/other": b"1",
}


def opened(place: str, clock: Clock | None = None) -> Store:
    clock = clock or Clock()
    limits = Limits(Retry(clock=clock, sleep=clock.sleep))
    return open_store(place, StorageSpec(), limits=limits)


def test_a_repository_is_read(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push("ace/step", FILES)
    store = opened("hf://ace/step")
    assert store.commit == commit and store.place == "hf://ace/step"
    assert [(info.path, info.size) for info in store.list_files()] == [
        (path, len(data)) for path, data in sorted(FILES.items())
    ]
    assert all(store.read_bytes(path) == data for path, data in FILES.items())
    assert store.stat("model") is None and store.stat("none") is None
    assert [info.path for info in store.list_files("model")] == [
        path for path in sorted(FILES) if path.startswith("model/")
    ]
    child = store.child("model")
    assert child.place == "hf://ace/step/model"
    assert [info.path for info in child.list_files()] == ["config.json", "empty", "ä 100%?#.bin"]
    seen: list[int] = []
    child.download("ä 100%?#.bin", tmp_path / "copy", seen.append)
    assert (tmp_path / "copy").read_bytes() == CONTENT and sum(seen) == len(CONTENT)
    child.download("empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    with pytest.raises(MissingInputError, match="hf://ace/step/model/none"):
        child.read_bytes("none")


def test_a_part_of_a_file(hub: Hub) -> None:
    hub.push("ace/step", FILES)
    store = opened("hf://ace/step/model")
    assert store.read_range("ä 100%?#.bin", 1000, 10) == CONTENT[1000:1010]
    assert hub.asked[-1][1] == "bytes=1000-1009"
    assert store.read_range("config.json", 1, 100) == b"}"
    assert store.read_range("config.json", 2, 100) == b""


@pytest.mark.parametrize("name", ["v1.0", "refs%2Fpr%2F1", "commit"])
def test_a_revision(hub: Hub, name: str) -> None:
    hub.push("ace/step", {"file": b"new"})
    commit = hub.push("ace/step", {"file": b"old"}, name.replace("%2F", "/"))
    place = f"hf://ace/step@{commit if name == 'commit' else name}"
    store = opened(f"{place}/")
    assert (store.place, store.commit, store.read_bytes("file")) == (place, commit, b"old")


def test_a_repository_that_moves_on_while_it_is_read(hub: Hub) -> None:
    first = hub.push("ace/step", {"a": b"1", "b": b"1"})
    store = opened("hf://ace/step")
    assert store.read_bytes("a") == b"1"
    hub.push("ace/step", {"a": b"2", "c": b"2"})
    assert store.child("").read_bytes("b") == b"1" and store.commit == first
    assert opened("hf://ace/step").read_bytes("a") == b"2"


def test_a_dataset(hub: Hub, tmp_path: Path) -> None:
    hub.push("ace/songs", {"album/a.wav": b"RIFF"}, kind="datasets")
    hub.push("ace/songs", {"config.json": b"{}"})
    store = opened("hf://datasets/ace/songs/album")
    root = pull(store, store.list_files(), Workspace(tmp_path), "Pulling")
    assert (root / "a.wav").read_bytes() == b"RIFF"


def test_what_is_pulled_is_pulled_once(hub: Hub, tmp_path: Path) -> None:
    hub.push("ace/step", FILES)
    for _ in range(2):
        hub.asked.clear()
        store = opened("hf://ace/step")
        pull(store, store.list_files(), Workspace(tmp_path), "Pulling")
    assert not any("/resolve/" in path for path, _ in hub.asked)
    hub.push("ace/step", {**FILES, "README.md": b"other"})
    store = opened("hf://ace/step")
    root = pull(store, store.list_files(), Workspace(tmp_path), "Pulling")
    assert (root / "README.md").read_bytes() == b"other"
    assert [path.rpartition("/")[2] for path, _ in hub.asked if "/resolve/" in path] == ["README.md"]


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("hf://ace/none", MissingInputError, "HF_TOKEN"),
        ("hf://ace/secret", MissingInputError, "private"),
        ("hf://ace/step@none", MissingInputError, "revision"),
        ("hf://datasets/ace/step", MissingInputError, "datasets/ace/step"),
        ("hf://ace/gated", AccessError, "terms"),
    ],
)
def test_what_cannot_be_read(hub: Hub, place: str, error: type[SideStepError], words: str) -> None:
    for name in ("step", "secret", "gated"):
        hub.push(f"ace/{name}", FILES)
    hub.private, hub.gated = {"ace/secret"}, {"ace/gated"}
    with pytest.raises(error, match=words) as caught:
        opened(place).read_bytes("README.md")
    assert place in str(caught.value)


def test_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("secret", "gated"):
        hub.push(f"ace/{name}", FILES)
    hub.private, hub.gated = {"ace/secret"}, {"ace/gated"}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("secret", "gated"):
        assert opened(f"hf://ace/{name}").read_bytes("README.md") == b"about"
    with pytest.raises(MissingInputError):  # no token is sent then
        open_store("hf://ace/secret", StorageSpec(anonymous=True)).list_files()
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused(hub: Hub, status: int) -> None:
    hub.push("ace/step", FILES)
    store = opened("hf://ace/step")
    store.list_files()
    hub.faults = [status]
    with pytest.raises((AccessError, MissingInputError), match="HF_TOKEN"):
        store.read_bytes("README.md")


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_faults_that_pass(hub: Hub, tmp_path: Path, fault: int | str) -> None:
    hub.push("ace/step", FILES)
    store = opened("hf://ace/step/model")
    hub.faults = [fault] if fault != "cut" else []
    store.list_files()
    seen: list[int] = []
    hub.faults = [fault, fault]
    store.download("ä 100%?#.bin", tmp_path / "copy", seen.append)
    assert (tmp_path / "copy").read_bytes() == CONTENT and sum(seen) == len(CONTENT)
    if fault == "cut":  # it goes on where it was
        assert hub.asked[-1][1] != "bytes=0-2303999"
    hub.faults = [fault]
    assert store.read_bytes("config.json") == b"{}"


def test_faults_that_last(hub: Hub) -> None:
    hub.push("ace/step", FILES)
    hub.faults = [503] * 100
    clock = Clock()
    with pytest.raises(StorageError, match="503"):
        opened("hf://ace/step", clock).list_files()
    assert 30 <= clock.now < 60


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="HF_ENDPOINT"):
        opened("hf://ace/step").list_files()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        opened("hf://ace/step").list_files()


@pytest.mark.parametrize("place", ["hf://ace", "hf://ace/", "hf://", "hf://datasets/ace", "hf://a/b@"])
def test_what_names_no_repository(place: str) -> None:
    with pytest.raises(BadSpecError):
        open_store(place, StorageSpec())


def test_it_is_read_alone(tmp_path: Path) -> None:
    store = open_store("hf://ace/step", StorageSpec())
    (tmp_path / "file").touch()
    for write in (
        lambda: store.write_bytes("file", b""),
        lambda: store.create("file", b""),
        lambda: store.upload(tmp_path / "file", "file"),
        lambda: store.delete("file"),
    ):
        with pytest.raises(BadSpecError, match="can only be read"):
            write()
