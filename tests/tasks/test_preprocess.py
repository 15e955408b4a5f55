"""The whole of preprocessing on the golden checkpoints, with songs of a fraction of a second."""

import json
import os
import re
import shutil
import wave
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidestep.acestep.conditioning import embed_lyrics, encode_conditions, encode_text
from sidestep.acestep.loading import load_model, load_text_encoder, load_vae
from sidestep.acestep.vae import encode_audio
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.data import encode
from sidestep.data.audio import read_audio
from sidestep.data.index import list_samples
from sidestep.data.tensors import read_sample
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.open import open_store
from sidestep.tasks.preprocess import preprocess
from tests.tasks.attempts import run_task

SECONDS = 0.1
MakeJob = Callable[..., JobSpec]
Counted = Callable[[], dict[str, int]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are done before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Two songs: a.wav and b.wav."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.wav")):
        write_song(folder / name, number)
    return folder


def write_song(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-9000, 9000, (round(SECONDS * 48_000), 2))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(noise.astype("<i2").tobytes())


@pytest.fixture
def spec(tmp_path: Path, golden: Path, songs: Path) -> MakeJob:
    """A job on those songs; fields may be changed."""

    def spec(**fields: Any) -> JobSpec:
        settings = {
            "task": "preprocess",
            "checkpoint_dir": str(golden / "checkpoints"),
            "audio_dir": str(songs),
            "dataset_dir": str(tmp_path / "tensors"),
            "runtime": {"device": "cpu", "workspace": str(tmp_path / "workspace")},
        }
        return JobSpec.model_validate(settings | fields)

    return spec


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How often each costly thing was done."""
    counts = dict.fromkeys(
        (
            "load_vae",
            "load_text_encoder",
            "load_model",
            "read_audio",
            "encode_audio",
            "encode_text",
            "encode_conditions",
        ),
        0,
    )

    def watch(name: str) -> None:
        original = getattr(encode, name)

        def counting(*given: Any, **named: Any) -> Any:
            counts[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(encode, name, counting)

    for name in counts:
        watch(name)

    def take() -> dict[str, int]:
        done = {name: count for name, count in counts.items() if count}
        counts.update(dict.fromkeys(counts, 0))
        return done

    return take


def tensors(spec: JobSpec) -> dict[str, bytes]:
    store = open_store(spec.tensors_place, spec.storage)
    return {file.path: store.read_bytes(file.path) for file in list_samples(store)}


def write_dataset(tmp_path: Path, **fields: Any) -> str:
    """A JSON beside the folder of songs, in which a.wav has these fields."""
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([{"audio_path": "songs/a.wav", **fields}, {"audio_path": "songs/b.wav"}]))
    return str(path)


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


def test_a_second_run_makes_nothing_loads_nothing_and_reads_no_song(
    spec: MakeJob, songs: Path, counted: Counted
) -> None:
    run_task(preprocess, spec())
    assert counted() == {
        "load_vae": 1,
        "load_text_encoder": 1,
        "load_model": 1,
        "read_audio": 2,
        "encode_audio": 2,
        "encode_text": 2,
        "encode_conditions": 2,
    }
    before = tensors(spec())
    times = (songs / "a.wav").stat()
    write_song(songs / "a.wav", seed=99)  # who reads it now, sees another song
    os.utime(songs / "a.wav", ns=(times.st_atime_ns, times.st_mtime_ns))
    run_task(preprocess, spec())
    assert counted() == {} and tensors(spec()) == before


def test_the_same_songs_on_another_machine_give_the_same_files(
    spec: MakeJob, tmp_path: Path, songs: Path, counted: Counted
) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    moved = songs.rename(tmp_path / "moved")
    elsewhere = {
        "audio_dir": str(moved),
        "dataset_dir": str(tmp_path / "other"),
        "runtime": {"device": "cpu", "workspace": str(tmp_path / "other-workspace")},
    }
    run_task(preprocess, spec(**elsewhere))
    assert tensors(spec(**elsewhere)) == before
    counted()
    # known by content, though index.json names other places
    run_task(preprocess, spec(audio_dir=str(moved)))
    assert counted() == {}


def test_a_changed_caption_remakes_one_file_from_known_latents(
    spec: MakeJob, tmp_path: Path, counted: Counted
) -> None:
    run_task(preprocess, spec(dataset_json=write_dataset(tmp_path, caption="One")))
    before = tensors(spec())
    counted()
    run_task(preprocess, spec(dataset_json=write_dataset(tmp_path, caption="Two")))
    assert counted() == {"load_text_encoder": 1, "load_model": 1, "encode_text": 1, "encode_conditions": 1}
    after = tensors(spec())
    assert len(after) == 2 and len(after.keys() & before.keys()) == 1
    captions = {read_sample(content).metadata["caption"] for content in after.values()}
    assert captions == {"Two", "b"}


def test_a_changed_song_remakes_one_file(spec: MakeJob, songs: Path, counted: Counted) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    counted()
    write_song(songs / "b.wav", seed=99)
    run_task(preprocess, spec())
    assert counted()["encode_audio"] == 1
    assert len(tensors(spec()).keys() & before.keys()) == 1


def test_a_changed_setting_or_checkpoint_remakes_everything(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    before = tensors(spec())
    counted()
    for changed, sounds_other in (
        ({"preprocess": {"max_duration": 0.05}}, True),
        ({"preprocess": {"timbre": "zero"}}, False),
        ({"preprocess": {"lyrics_format": "raw"}}, False),
        ({"preprocess": {"normalize": "peak"}}, True),
        ({"preprocess": {"normalize": "peak", "target_db": -2}}, True),
        ({"model_variant": "turbo"}, False),
    ):
        run_task(preprocess, spec(**changed))
        done = counted()
        assert done.get("encode_conditions", 0) == 2 and done.get("encode_audio", 0) == 2 * sounds_other
        assert not tensors(spec()).keys() & before.keys()
    run_task(preprocess, spec())  # what was made before is still there
    assert counted() == {} and tensors(spec()) == before


def test_max_duration_is_what_is_used(spec: MakeJob) -> None:
    job = spec(preprocess={"max_duration": 0.05})
    run_task(preprocess, job)
    for content in tensors(job).values():
        sample = read_sample(content)
        assert len(sample.target_latents) == 2 and sample.metadata["duration"] == 0.05


@pytest.mark.parametrize("has_workspace", [True, False])
@pytest.mark.parametrize(
    ("where", "left"), [("encode_audio", 1), ("encode_text", 0), ("encode_conditions", 0)]
)
def test_an_interrupted_run_goes_on_where_it_was(
    spec: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Counted,
    where: str,
    left: int,
    has_workspace: bool,
) -> None:
    """Also on another machine, whose disk is empty: no song is encoded twice."""
    original = getattr(encode, where)
    calls = []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(encode, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_task(preprocess, spec())
    store = open_store(spec().tensors_place, StorageSpec())
    with pytest.raises(MissingInputError, match="is not complete"):
        list_samples(store)
    if not has_workspace:
        shutil.rmtree(tmp_path / "workspace")
    counted()
    run_task(preprocess, spec())
    done = counted()
    assert done.get("encode_audio", 0) == left
    assert done.get("encode_text", 0) == {"encode_audio": 2, "encode_text": 1, "encode_conditions": 0}[where]
    assert done["encode_conditions"] == (1 if where == "encode_conditions" else 2)
    assert len(tensors(spec())) == 2
    assert not store.list_files("unfinished")


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


def test_only_keys_the_index_and_a_preview_are_written(spec: MakeJob, tmp_path: Path) -> None:
    run_task(preprocess, spec(output_dir=str(tmp_path / "output")))
    files = {path.name for path in (tmp_path / "tensors").iterdir()}
    assert len(files) == 4 and "index.json" in files
    assert all(re.fullmatch(r"[0-9a-f]{64}\.pt|index\.json|preview", name) for name in files)
    assert {path.name for path in (tmp_path / "tensors" / "preview").iterdir()} == {
        *("clip.wav", "reconstruction.wav")
    }


def test_copies_of_a_song_count_once(spec: MakeJob, songs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (songs / "c.wav").write_bytes((songs / "a.wav").read_bytes())
    dataset = songs / "dataset.json"
    dataset.write_text(
        json.dumps([{"audio_path": name, "caption": "x"} for name in ("a.wav", "b.wav", "c.wav")])
    )
    run_task(preprocess, spec(dataset_json=str(dataset)))
    assert len(tensors(spec())) == 2
    assert "1 songs have the same sound and texts" in caplog.text


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


def test_levels_that_are_not_used_change_nothing(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    counted()
    run_task(preprocess, spec(preprocess={"target_db": -6, "target_lufs": -20}))
    assert counted() == {}


def test_other_texts_and_timbre_are_made_from_known_latents(spec: MakeJob, counted: Counted) -> None:
    run_task(preprocess, spec())
    counted()
    run_task(preprocess, spec(preprocess={"timbre": "zero", "lyrics_format": "raw"}))
    assert "encode_audio" not in counted()


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


def test_a_preview_is_made_where_the_latents_are_known_but_it_is_not(spec: MakeJob, tmp_path: Path) -> None:
    run_task(preprocess, spec())
    run_task(preprocess, spec(dataset_dir=str(tmp_path / "elsewhere")))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "preview").iterdir()}
        for name in ("tensors", "elsewhere")
    )
    assert first == second
