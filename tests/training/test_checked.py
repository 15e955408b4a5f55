"""What was found sound once is known by its digest: a start need not read it, and a step compares it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.config.schema import StorageSpec
from sidestep.data.checked import FILE, read_checked, write_checked
from sidestep.data.index import Index, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.tensors import Sample, read_sample
from sidestep.lifecycle.job import Job
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from sidestep.tasks import run
from sidestep.training import dataset, files
from sidestep.training.dataset import Samples
from sidestep.training.loop import EVALUATION_DRAWS
from tests.facts import facts, tells
from tests.songs import MakeSpec, flip_a_bit, sha256, song, write_songs

SILENCE = torch.zeros(1, 15000, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three songs as preprocessing has left them."""
    folder = write_songs(tmp_path / "songs", [song(n, frames=20 + 4 * n) for n in range(3)])
    digests = {file.stem: sha256(file.read_bytes()) for file in folder.glob("*.pt")}
    write_index(store_of(folder), Index(samples={f"/s/{key}": key for key in digests}, tensors=digests))
    write_checked(store_of(folder), pulled(folder).checked)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read as tensors."""
    names: list[str] = []

    def read(data: Any, name: str = "", *more: Any, **keys: Any) -> Sample:
        names.append(Path(name).name)
        return original(data, name, *more, **keys)

    original = read_sample
    monkeypatch.setattr(dataset, "read_sample", read)
    return names


def store_of(folder: Path) -> Store:
    return open_store(str(folder), StorageSpec())


def pulled(folder: Path, **more: Any) -> Samples:
    store = store_of(folder)
    keys = {"silence": SILENCE, "known": True, "sound": read_checked(store), **more}
    return Samples.pull(Preprocessed(store), Workspace(folder.parent / "work"), **keys)


def told(samples: Samples) -> Any:
    contexts = samples._contexts
    return samples.content, samples.facts, samples.frames, samples.songs, samples.width, contexts


def test_a_start_reads_nothing_that_is_known_and_says_the_same(folder: Path, reads: list[str]) -> None:
    known = pulled(folder)
    assert reads == [] and known.frames == [20, 24, 28]
    assert told(known) == told(pulled(folder, sound={})) and sorted(reads) == ["0.pt", "1.pt", "2.pt"]


def test_what_was_not_asked_before_is_read_for(folder: Path, reads: list[str]) -> None:
    pulled(folder, silence=SILENCE + 1)  # another model's
    assert sorted(reads) == ["0.pt", "1.pt", "2.pt"]
    reads.clear()
    with pytest.raises(Exception, match="genre"):
        pulled(folder, alternates=["genre"])
    assert sorted(reads) == ["0.pt", "1.pt", "2.pt"]


def test_damage_is_found_before_its_bytes_are_used(folder: Path, reads: list[str]) -> None:
    flip_a_bit(folder / "1.pt")
    samples = pulled(folder)
    assert torch.equal(samples[0].target_latents, song(0, frames=20).target_latents)
    with pytest.raises(BadDataError, match=facts(f"{folder}/1.pt", "preprocess")):
        samples[1]
    assert reads == ["0.pt"]
    (folder / "1.pt").write_bytes(b"short")  # its size is seen at the start
    with pytest.raises(BadDataError, match=facts("1 of 3", folder / "1.pt")):
        pulled(folder)


def test_a_digest_is_taken_once_in_an_attempt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    original = files.Content.sha256

    def counted(self: files.Content) -> str:
        taken.append(1)
        return original(self)

    monkeypatch.setattr(files.Content, "sha256", counted)
    samples = pulled(folder)
    for number in (0, 1, 0, 0, 1):
        samples[number]
    assert len(taken) == 2


def test_without_it_or_with_a_bad_one_the_tensors_are_read(folder: Path, reads: list[str]) -> None:
    good = (folder / FILE).read_bytes()
    for content in (
        b"{",
        b'{"version": 1, "files": {"x": {}}}',
        good.replace(b'"version": 1', b'"version": 0'),
    ):
        (folder / FILE).write_bytes(content)
        assert pulled(folder).frames == [20, 24, 28] and len(reads) == 3
        reads.clear()
    (folder / FILE).unlink()
    pulled(folder)
    assert len(reads) == 3


@pytest.mark.parametrize("change", [{"frames": 28}, {"width": 32}, {"alternates": ("genre",)}], ids=str)
def test_what_is_said_of_a_song_is_compared_when_it_is_read(folder: Path, change: dict[str, Any]) -> None:
    """A digit of it may have flipped, and steps are planned by it."""
    sound = {
        digest: replace(file, **change, asked=("genre",)) for digest, file in pulled(folder).checked.items()
    }
    samples = pulled(folder, sound=sound, alternates=["genre"] if "alternates" in change else [])
    with pytest.raises(BadDataError, match=facts(f"{folder}/0.pt", FILE)):
        samples[0]


def test_a_bad_song_met_later_ends_a_run_after_what_was_made_is_committed(
    make_spec: MakeSpec, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' tensors: what the first attempt has found of them is in the output."""
    spec, bad = make_spec(epochs=2, accumulation=1), tmp_path / "tensors" / "2.pt"
    sound = bad.read_bytes()
    original = Samples.__getitem__

    def damaged_later(self: Samples, index: int) -> Sample:
        if len(reads) == 3 + EVALUATION_DRAWS + 3:  # the start, the loss on fixed draws, an epoch
            flip_a_bit(bad)
        self._seen.clear()  # as if each was read for the first time
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Samples, "__getitem__", damaged_later)
        with pytest.raises(BadDataError, match=facts(bad)):
            run(spec)
    log = Job(spec).commits
    newest = log.newest_commit(log.tail())
    assert newest and 3 <= newest.step < 6
    assert len(read_checked(store_of(tmp_path / "out"))) == 3

    with pytest.raises(BadDataError, match=facts(bad)):  # at once: nothing is made, and nothing committed
        run(spec)
    assert log.newest_commit(log.tail()) == newest

    flip_a_bit(bad)
    assert bad.read_bytes() == sound
    monkeypatch.setattr(dataset._Check, "read", lambda *_: pytest.fail("read at the start"))
    result = run(spec)
    assert result and result.steps == 6


def test_what_is_damaged_is_said_once_and_shortly(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a training begins it is read, and again before it is written."""
    (folder / FILE).write_text('{"version": 1, "files": {"a": {"size": "x"}}}')
    store = store_of(folder)
    assert read_checked(store) == {}
    known = pulled(folder).checked
    write_checked(store, known)
    assert read_checked(store) == known
    (said,) = [each for each in caplog.messages if FILE in each]
    assert tells(said, "damaged", "read anew") and "\n" not in said
