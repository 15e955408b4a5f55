"""Tensor files as the ACE-Step app and upstream Side-Step write them, among ours; and those that are none."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.acestep.loading import read_silence
from sidestep.cli import main
from sidestep.config.schema import StorageSpec
from sidestep.data.index import Index, dataset_digest, write_index
from sidestep.data.preprocessed import Preprocessed
from sidestep.data.tensors import Sample, read_sample
from sidestep.runtime.errors import BadDataError, BadSpecError, ExitCode
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.training.dataset import Samples
from sidestep.training.numbers import Numbers, Progress
from tests.facts import facts, tells
from tests.s3 import S3Server
from tests.songs import flip_a_bit, sha256, song, write_songs

TOKENS = 769  # what both pad the conditions to: 512 lyrics, 1 timbre, 256 text
VALID = 40


def foreign(number: int, metadata: dict[str, Any], **more: torch.Tensor) -> dict[str, Any]:
    """A song in bf16 with padded conditions; the pads hold what the encoder made of them."""
    made = song(number, frames=24, conditions=TOKENS)
    mask = torch.zeros(TOKENS)
    mask[:VALID] = 1
    tensors = {
        "target_latents": made.target_latents,
        "attention_mask": torch.ones(24),
        "encoder_hidden_states": made.encoder_hidden_states,
        "encoder_attention_mask": mask,
        "context_latents": made.context_latents,
        **more,
    }
    return {key: value.to(torch.bfloat16) for key, value in tensors.items()} | {"metadata": metadata}


APP = {
    "audio_path": "C:\\Music\\a.mp3",
    "filename": "a.mp3",
    "caption": "mine, a song",
    "lyrics": "[Instrumental]",
    "duration": 30,
    "bpm": None,
    "keyscale": "",
    "timesignature": "",
    "language": "unknown",
    "is_instrumental": True,
    "preprocess_mode": "lora",
}
UPSTREAM = {
    "audio_path": "/home/me/b.wav",
    "filename": "b.wav",
    "caption": "b",
    "lyrics": "[Verse]\nLa",
    "duration": 0,
    "bpm": "120",
    "keyscale": "C major",
    "timesignature": "4",
    "genre": "rock",
    "is_instrumental": False,
    "custom_tag": "",
    "prompt_override": None,
    "repeat": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One song of each writer, with the files that they put beside."""
    folder = write_songs(tmp_path / "mixed", [song(0)])
    torch.save(foreign(1, APP), folder / "3f2a9c10.pt")
    (folder / "manifest.json").write_text(
        json.dumps({"metadata": {}, "samples": ["3f2a9c10.pt", "0.pt", "b.pt"]})
    )
    genre = {
        "encoder_hidden_states_genre": torch.randn(TOKENS, 64),
        "encoder_attention_mask_genre": torch.ones(TOKENS),
    }
    torch.save(foreign(2, UPSTREAM, **genre), folder / "b.pt")
    (folder / "preprocess_meta.json").write_text("{}")
    return folder


def test_their_pads_are_gone_and_their_metadata_stays(folder: Path) -> None:
    for name, metadata in (("3f2a9c10.pt", APP), ("b.pt", UPSTREAM)):
        raw = torch.load(folder / name, weights_only=True)
        sample = read_sample(folder / name)
        assert torch.equal(sample.encoder_hidden_states, raw["encoder_hidden_states"][:VALID].float())
        assert torch.equal(sample.target_latents, raw["target_latents"].float())
        assert torch.equal(sample.context_latents, raw["context_latents"].float())
        assert sample.metadata == metadata
    assert len(Preprocessed(open_store(str(folder), StorageSpec())).samples()) == 3


def arguments(checkpoints: Path, folder: Path, *more: str) -> list[str]:
    places = ["--checkpoint-dir", str(checkpoints), "--dataset-dir", str(folder), "--output-dir", "out"]
    return ["fixed", *places, "--rank", "4", "--epochs", "1", "--device", "cpu", "--workspace", "work", *more]


def test_all_of_them_train_also_in_chunks(folder: Path, tiny_checkpoints: Path) -> None:
    chunks = ["--chunk-duration", "1", "--accumulation", "1"]
    assert main(arguments(tiny_checkpoints, folder, *chunks)) == ExitCode.DONE
    assert Path("out/adapter/adapter_model.safetensors").exists()


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("open('exploded', 'w')",))


def test_bad_tensors_end_a_run_before_it_begins(
    folder: Path, tiny_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").unlink()
    torch.save({"target_latents": Bomb()}, folder / "bomb.pt")
    torch.save(foreign(1, APP) | {"target_latents": torch.ones(1).expand(10**9, 64)}, folder / "huge.pt")
    torch.save({"text_hidden_states": torch.ones(3, 64)}, folder / "song.pt")
    (folder / "cut.pt").write_bytes((folder / "b.pt").read_bytes()[:-1000])
    write_songs(folder / "wide", [song(0, width=128)])
    (folder / "wide" / "0.pt").rename(folder / "wide.pt")

    assert main(arguments(tiny_checkpoints, folder)) == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert "Traceback" not in said and "5 of 8" in said
    for problem in (
        ("bomb.pt", "exec"),
        ("cut.pt", "plain tensors"),
        ("huge.pt", "[1000000000, 64]"),
        ("song.pt", "target_latents"),
        ("wide.pt", "128", "64"),
    ):
        assert any(tells(line, *problem) for line in said.splitlines())
    assert not Path("exploded").exists()
    assert not Path("out/checkpoints").exists() and not Path("out/adapter").exists()


def test_a_sound_dataset_is_as_long_as_its_files(folder: Path, tmp_path: Path) -> None:
    store = open_store(str(folder), StorageSpec())
    samples = Samples.pull(Preprocessed(store), Workspace(tmp_path / "work"))
    assert len(samples) == len(list(folder.glob("*.pt"))) == 3
    told = {fact.name: (fact.seconds, fact.caption) for fact in samples.facts}
    assert told["0.pt"] == (24 / 25, "0")  # of 24 frames; its metadata has no name
    assert told["a.mp3"] == (round(len(samples[1].target_latents) / 25, 2), APP["caption"])
    (folder / "0.pt").write_bytes(b"")
    with pytest.raises(BadDataError, match=facts("1 of 3", "0.pt")):
        Samples.pull(Preprocessed(store), Workspace(tmp_path / "work"))


def index_of(folder: Path) -> Index:
    """As if all songs in a folder had been preprocessed here."""
    digests = {file.stem: sha256(file.read_bytes()) for file in folder.glob("*.pt")}
    return Index(samples={f"/songs/{key}": key for key in digests}, tensors=digests)


def run_on(samples: Samples, dataset: str = "") -> Numbers:
    """What a checkpoint says of a run on these."""
    return Numbers({"dataset": dataset}, {}, Progress(), [], {}, samples.records)


def pulled(folder: Path, before: Numbers | None = None) -> Samples:
    work = Workspace(folder.parent / "work")
    return Samples.pull(Preprocessed(open_store(str(folder), StorageSpec())), work, before)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    return write_songs(tmp_path / "songs", [song(number) for number in range(3)])


def test_a_flipped_bit_in_what_was_preprocessed_is_not_trained_on(songs: Path) -> None:
    write_index(open_store(str(songs), StorageSpec()), index_of(songs))
    before = pulled(songs)
    assert before.records == {}, "a run's state says nothing of files that an index knows, or of their times"
    flip_a_bit(songs / "1.pt")
    with pytest.raises(BadDataError, match=facts("1 of 3", songs / "1.pt", "preprocess")) as error:
        pulled(songs)
    assert "0.pt" not in str(error.value)
    flip_a_bit(songs / "1.pt")
    assert pulled(songs).content == before.content


def test_of_others_files_a_run_keeps_what_it_was_begun_with(songs: Path) -> None:
    begun = pulled(songs)
    assert {name: record.sha256 for name, record in begun.records.items()} == {
        file.name: sha256(file.read_bytes()) for file in songs.iterdir()
    }
    flip_a_bit(songs / "1.pt")
    assert pulled(songs).content != begun.content  # a run that begins now takes what is there
    with pytest.raises(BadDataError, match=facts("1 of 3", songs / "1.pt")):
        pulled(songs, run_on(begun))


def test_a_file_of_another_time_is_known_by_its_content(songs: Path) -> None:
    begun = pulled(songs)
    os.utime(songs / "1.pt", ns=(1, 1))
    touched = pulled(songs, run_on(begun))
    assert touched.content == begun.content and touched.records["1.pt"].version == "1"
    flip_a_bit(songs / "1.pt")
    os.utime(songs / "1.pt", ns=(2, 2))
    with pytest.raises(BadSpecError, match=r"1\.pt") as error:
        pulled(songs, run_on(begun))
    assert "0.pt" not in str(error.value)


def test_a_damaged_copy_in_the_workspace_is_pulled_again(
    songs: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    store, work = s3_server.store("songs"), Workspace(tmp_path / "work")
    for file in songs.iterdir():
        store.write_bytes(file.name, file.read_bytes())
    begun = Samples.pull(Preprocessed(store), work)
    copy = work.pulled(store.place) / "1.pt"
    for damage in (flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:-100])):
        damage(copy)
        again = Samples.pull(Preprocessed(store), work, run_on(begun))
        assert again.content == begun.content and copy.read_bytes() == (songs / "1.pt").read_bytes()
    write_index(store, index_of(songs))
    flip_a_bit(songs / "1.pt")
    store.write_bytes("1.pt", (songs / "1.pt").read_bytes())
    assert Samples.pull(Preprocessed(store), work).content == begun.content, (
        "a copy of what was written is as good"
    )
    with pytest.raises(BadDataError, match=facts("1 of 3", f"{store.place}/1.pt")):
        Samples.pull(Preprocessed(store), Workspace(tmp_path / "new"))


def test_a_file_that_changes_while_it_is_trained_on(songs: Path) -> None:
    samples = pulled(songs)
    os.utime(songs / "1.pt", ns=(1, 1))
    assert torch.equal(samples[1].target_latents, song(1).target_latents)
    flip_a_bit(songs / "1.pt")
    os.utime(songs / "1.pt", ns=(2, 2))
    with pytest.raises(BadDataError, match=r"1\.pt"):
        samples[1]
    assert torch.equal(samples[2].target_latents, song(2).target_latents)


def test_a_run_that_began_before_manifests_counted_keeps_its_files(songs: Path) -> None:
    """It took every `*.pt`, and its digest is of all of them; also where the manifest is of no use."""
    store = open_store(str(songs), StorageSpec())
    (songs / "0.tmp.pt").write_bytes((songs / "0.pt").read_bytes())
    every = dataset_digest([file for file in store.list_files() if file.path.endswith(".pt")])
    for manifest in ({"samples": ["1.pt"]}, {"samples": ["9.pt"]}, {"samples": [1]}):
        (songs / "manifest.json").write_text(json.dumps(manifest))
        begun = Numbers({"dataset": every}, {}, Progress(), [], {})
        assert len(pulled(songs, begun)) == 4
    (songs / "manifest.json").write_text(json.dumps({"samples": ["1.pt"]}))
    assert len(pulled(songs)) == len(pulled(songs, run_on(pulled(songs), "of others"))) == 1


@pytest.fixture
def silence(tiny_checkpoints: Path) -> torch.Tensor:
    return read_silence(tiny_checkpoints / "acestep-v15-base" / "silence_latent.pt")


def with_context(number: int, latents: torch.Tensor) -> Sample:
    context = torch.cat([latents, torch.ones_like(latents)], dim=1)
    return replace(song(number), context_latents=context)


def test_songs_that_hold_their_own_answer_are_refused_with_their_count(
    tiny_checkpoints: Path, tmp_path: Path, silence: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the app's preprocess_mode lokr writes them, in bf16, beside sound ones."""
    answers = [with_context(n, song(n).target_latents.bfloat16().float()) for n in (1, 2)]
    folder = write_songs(tmp_path / "own", [with_context(0, silence[0, :24]), *answers])
    assert main(arguments(tiny_checkpoints, folder)) == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert tells(said, "2 of 3", "context_latents", "lokr", folder) and not Path("out/checkpoints").exists()


def test_other_contexts_are_counted_and_a_silent_song_is_sound(
    tiny_checkpoints: Path, tmp_path: Path, silence: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = replace(with_context(0, silence[0, :24]), target_latents=silence[0, :24])
    folder = write_songs(tmp_path / "others", [quiet, song(1), with_context(2, silence[0, :24])])
    (folder / "3.tmp.pt").write_bytes(b"cut off")
    assert main(arguments(tiny_checkpoints, folder)) == ExitCode.DONE
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in warned if tells(line, "1 of 3", "silence")]) == 1
    assert len([line for line in warned if tells(line, "3.tmp.pt", "1 unfinished")]) == 1
