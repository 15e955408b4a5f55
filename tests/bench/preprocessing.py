"""Songs to latents on disk: ours beside the plain way, one song after the other.    make bench

The plain way is what other trainers do: decode with PyAV, encode with diffusers' autoencoder, write, next
song. Both have the same songs, tiles and weights, and give the same latents, which is checked. An autoencoder
of random weights with the released one's shape at a quarter of its width; rounds are made in turn.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from rich.console import Console
from safetensors.torch import load_file, save_file

from sidestep.acestep.vae import build_vae, encode_audio
from sidestep.data.audio import read_audio
from sidestep.runtime.beside import Behind, made_ahead
from sidestep.tasks.demo import write_songs
from tests.bench.rows import Row, table_of

ROUNDS, SECONDS = 3, 2.0
VAE = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 1, 1, 1, 1],
    "decoder_channels": 16,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48_000,
}


def rows() -> list[Row]:
    """Two seconds of four songs each. Raises AssertionError where the two ways give other latents."""
    torch.manual_seed(0)
    ours, plain = build_vae(VAE).eval(), AutoencoderOobleck.from_config(VAE).eval()
    plain.load_state_dict(ours.state_dict())
    assert any(type(module) is Snake1d for module in plain.modules())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_songs(folder)
        songs = sorted(path for path in folder.iterdir() if path.suffix != ".json")
        pairs = [
            (seconds(beside, ours, songs), seconds(one_by_one, plain, songs)) for _ in range(ROUNDS + 1)
        ][1:]  # the first round warms up
        for song in songs:
            kept = [load_file(kept_in(song, way))["latents"] for way in (beside, one_by_one)]
            assert torch.equal(*kept), song.name
    own, theirs = zip(*pairs, strict=True)
    return [Row.of("2 s of four songs to latents", own, theirs)]


Way = Callable[[AutoencoderOobleck, list[Path]], None]


def seconds(way: Way, vae: AutoencoderOobleck, songs: list[Path]) -> float:
    start = time.perf_counter()
    way(vae, songs)
    return time.perf_counter() - start


def one_by_one(vae: AutoencoderOobleck, songs: list[Path]) -> None:
    for song in songs:
        save_file({"latents": encode_audio(vae, read_audio(song, SECONDS))}, kept_in(song, one_by_one))


def beside(vae: AutoencoderOobleck, songs: list[Path]) -> None:
    """As `data.encode` does it on a CPU."""
    with (
        Behind(threads=4, most=8) as behind,
        closing(made_ahead(lambda song: read_audio(song, SECONDS), songs, threads=1, most=2)) as decoded,
    ):
        for song in songs:
            behind.call(save_file, {"latents": encode_audio(vae, next(decoded))}, kept_in(song, beside))


def kept_in(song: Path, way: Way) -> Path:
    return song.with_name(f"{song.name}-{way.__name__}.safetensors")


if __name__ == "__main__":
    Console().print(table_of("Preprocessing", "one after the other", rows()))
