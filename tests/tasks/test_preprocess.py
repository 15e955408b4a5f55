"""The whole of preprocessing on the golden checkpoints, with songs of a fraction of a second."""

import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.acestep.vae import encode_audio
from sidestep.config.schema import StorageSpec
from sidestep.data import encode
from sidestep.data.audio import read_audio
from sidestep.data.checked import read_checked
from sidestep.data.tensors import read_sample
from sidestep.runtime import tally
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.local import LocalStore
from sidestep.storage.open import open_store
from sidestep.tasks.preprocess import preprocess
from tests.facts import tells
from tests.runs import run_task
from tests.songs import sha256
from tests.tasks.preprocessing import SECONDS, Counted, MakeJob, tensors, write_dataset, write_song


def test_tensors_are_what_the_models_make_of_songs_and_texts(
    spec: MakeJob, tmp_path: Path, golden: Path, songs: Path
) -> None:
    dataset = write_dataset(
        tmp_path, caption="A song", lyrics="La la", bpm=97, language="en", custom_tag="me"
    )
    job = spec(dataset_json=dataset)
    run_task(preprocess, job)
    read = {sample.metadata["filename"]: sample for sample in map(read_sample, tensors(job).values())}
    assert set(read) == {"a.wav", "b.wav"}
    sample = read["a.wav"]

    checkpoints = golden / "checkpoints"
    latents = encode_audio(load_vae(checkpoints, "cpu", torch.float32), read_audio(songs / "a.wav", 240))
    assert latents.shape == (3, 64)
    assert torch.equal(sample.target_latents, latents)
    text_encoder = load_text_encoder(checkpoints, "cpu", torch.float32)
    prompt = encode_text(
        text_encoder,
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        "# Caption\nme, A song\n\n"
        "# Metas\n- bpm: 97\n- timesignature: N/A\n- keyscale: N/A\n- duration: 0 seconds\n<|endoftext|>\n",
    )
    lyrics = embed_lyrics(text_encoder, "# Languages\nen\n\n# Lyric\nLa la<|endoftext|>")
    model = load_model(checkpoints, "base", parts=("condition_encoder",))
    assert torch.equal(sample.encoder_hidden_states, encode_conditions(model, prompt, lyrics, "silence"))
    silence = torch.load(checkpoints / "acestep-v15-base" / "silence_latent.pt", weights_only=True)
    assert torch.equal(sample.context_latents[:, :64], silence[0, :, :3].T.float())
    assert (sample.context_latents[:, 64:] == 1).all()

    assert sample.metadata == {
        "audio_path": "songs/a.wav",
        "audio_sha256": sha256((songs / "a.wav").read_bytes()),
        "filename": "a.wav",
        "caption": "me, A song",
        "lyrics": "La la",
        "duration": SECONDS,
        "bpm": 97,
        "keyscale": "",
        "timesignature": "",
        "language": "en",
        "genre": "",
        "custom_tag": "me",
        "is_instrumental": False,
        "timbre": "silence",
        "lyrics_format": "inference",
        "levels": {},
    }


def test_max_duration_is_what_is_used(spec: MakeJob) -> None:
    job = spec(preprocess={"max_duration": 0.05})
    run_task(preprocess, job)
    for content in tensors(job).values():
        sample = read_sample(content)
        assert len(sample.target_latents) == 2 and sample.metadata["duration"] == 0.05


def test_each_model_is_in_memory_during_its_own_work_only(
    spec: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[str, weakref.ref[Any]] = {}

    def living() -> set[str]:
        return {name for name, model in alive.items() if model() is not None}

    def watch_loading(name: str, model_of: Callable[[Any], Any]) -> None:
        original = getattr(encode, name)

        def load(*given: Any, **named: Any) -> Any:
            assert not living()
            loaded = original(*given, **named)
            alive[name] = weakref.ref(model_of(loaded))
            return loaded

        monkeypatch.setattr(encode, name, load)

    watch_loading("load_vae", lambda vae: vae)
    watch_loading("load_text_encoder", lambda encoder: encoder.model)
    watch_loading("load_model", lambda model: model.condition_encoder)
    seen = []

    def recorded(*given: Any) -> torch.Tensor:
        seen.append(living())
        return encode_conditions(*given)

    monkeypatch.setattr(encode, "encode_conditions", recorded)
    run_task(preprocess, spec())
    assert seen == [{"load_model"}] * 2
    assert len(alive) == 3 and not living()


def test_nothing_of_this_machine_is_in_the_tensors(spec: MakeJob, tmp_path: Path) -> None:
    run_task(preprocess, spec())
    for content in tensors(spec()).values():
        assert str(tmp_path).encode() not in content


def test_only_keys_the_index_a_report_and_a_preview_are_written(spec: MakeJob, tmp_path: Path) -> None:
    run_task(preprocess, spec(output_dir=str(tmp_path / "output")))
    files = {path.name for path in (tmp_path / "tensors").iterdir()}
    others = {"index.json", "checked.json", "dataset-report.json", "preview"}
    assert others <= files and len(files - others) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}\.pt", name) for name in files - others)
    written = {sha256(content) for content in tensors(spec()).values()}
    known = read_checked(LocalStore(tmp_path / "tensors", StorageSpec()))
    assert known.keys() == written and all(file.context == "silence" for file in known.values())
    assert {path.name for path in (tmp_path / "tensors" / "preview").iterdir()} == {
        *("clip.wav", "reconstruction.wav")
    }


def test_songs_are_tallied_as_they_are_made(spec: MakeJob) -> None:
    before = tally.total(tally.SONGS)
    for _ in range(2):
        run_task(preprocess, spec())
        assert tally.total(tally.SONGS) == before + 2  # nothing is made a second time


def test_copies_of_a_song_count_once(spec: MakeJob, songs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (songs / "c.wav").write_bytes((songs / "a.wav").read_bytes())
    dataset = songs / "dataset.json"
    dataset.write_text(
        json.dumps([{"audio_path": name, "caption": "x"} for name in ("a.wav", "b.wav", "c.wav")])
    )
    run_task(preprocess, spec(dataset_json=str(dataset)))
    assert len(tensors(spec())) == 2
    assert "1 song: the same sound and texts" in caplog.text


def test_songs_and_tensors_in_remote_places(spec: MakeJob, songs: Path, counted: Counted) -> None:
    memory = open_store("memory://studio/songs", StorageSpec())
    for song in songs.iterdir():
        memory.upload(song, song.name)
    job = spec(audio_dir="memory://studio/songs", dataset_dir="memory://studio/tensors")
    run_task(preprocess, job)
    remote = tensors(job)
    run_task(preprocess, spec())
    assert tensors(spec()) == remote
    counted()
    run_task(preprocess, job)
    assert counted() == {}


def test_timbre_lyrics_and_level_as_asked(spec: MakeJob, tmp_path: Path, golden: Path, songs: Path) -> None:
    """As trainers of old made tensors: raw lyrics, a zero frame for timbre; and at a level of choice."""
    lyrics = "la " * 600
    settings = {"timbre": "zero", "lyrics_format": "raw", "normalize": "peak", "target_db": -6}
    job = spec(dataset_json=write_dataset(tmp_path, caption="A song", lyrics=lyrics), preprocess=settings)
    run_task(preprocess, job)
    sample = next(
        sample for sample in map(read_sample, tensors(job).values()) if sample.metadata["filename"] == "a.wav"
    )
    checkpoints = golden / "checkpoints"
    text_encoder = load_text_encoder(checkpoints, "cpu", torch.float32)
    prompt = encode_text(
        text_encoder,
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n# Caption\nA song\n\n"
        "# Metas\n- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 0 seconds\n<|endoftext|>\n",
    )
    embedded = embed_lyrics(text_encoder, lyrics.strip())[:512]
    model = load_model(checkpoints, "base", parts=("condition_encoder",))
    assert torch.equal(sample.encoder_hidden_states, encode_conditions(model, prompt, embedded, "zero"))
    waveform = read_audio(songs / "a.wav", 240)
    waveform = waveform * (10 ** (-6 / 20) / waveform.abs().max())
    latents = encode_audio(load_vae(checkpoints, "cpu", torch.float32), waveform)
    torch.testing.assert_close(sample.target_latents, latents, rtol=1e-4, atol=1e-4)
    assert {key: sample.metadata[key] for key in ("timbre", "lyrics_format", "levels")} == {
        "timbre": "zero",
        "lyrics_format": "raw",
        "levels": {"peak": -6},
    }


def test_a_bad_song_is_found_before_anything_is_made(
    spec: MakeJob, songs: Path, counted: Counted, tmp_path: Path
) -> None:
    (songs / "b.wav").write_bytes(b"no sound at all")
    with pytest.raises(BadDataError, match=r"1 of 2 songs(.|\n)*b\.wav is not"):
        run_task(preprocess, spec())
    assert counted() == {} and not (tmp_path / "tensors").exists()


def test_bad_songs_are_left_out_on_request(spec: MakeJob, songs: Path, counted: Counted) -> None:
    (songs / "b.wav").write_bytes(b"no sound at all")
    job = spec(preprocess={"on_bad_file": "skip"})
    run_task(preprocess, job)
    assert counted()["encode_audio"] == 1 and len(tensors(job)) == 1
    run_task(preprocess, job)
    assert counted() == {}
    write_song(songs / "b.wav", seed=1)
    run_task(preprocess, job)
    assert counted()["encode_audio"] == 1 and len(tensors(job)) == 2


def test_progress_says_how_fast_and_how_long(spec: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sidestep"):
        run_task(preprocess, spec())
    assert re.search(r"Pass 1, songs: done, 2 songs in .* s of sound per second", caplog.text)
    assert re.search(r"Pass 2: done, 2 songs in ", caplog.text)


def test_an_unknown_variant_is_found_before_anything_is_read(spec: MakeJob, counted: Counted) -> None:
    with pytest.raises(MissingInputError, match="no model variant"):
        run_task(preprocess, spec(model_variant="sft"))
    assert counted() == {}


@pytest.mark.parametrize(("lyrics_format", "limit"), [("inference", 2048), ("raw", 512)])
def test_texts_that_are_cut_are_said_with_their_song(
    spec: MakeJob, tmp_path: Path, caplog: pytest.LogCaptureFixture, lyrics_format: str, limit: int
) -> None:
    long = {"lyrics": "la " * 2100, "caption": "blue " * 300}
    job = spec(dataset_json=write_dataset(tmp_path, **long), preprocess={"lyrics_format": lyrics_format})
    run_task(preprocess, job)
    warnings = [record.message for record in caplog.records if "tokens" in record.message]
    assert len(warnings) == 2
    caption, lyrics = warnings
    assert tells(caption, "a.wav", "caption", "256") and tells(lyrics, "a.wav", "lyrics", str(limit))
    caplog.clear()
    run_task(preprocess, spec(dataset_json=write_dataset(tmp_path, lyrics="la", caption="blue")))
    assert not [record for record in caplog.records if "tokens" in record.message]
