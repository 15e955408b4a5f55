"""What is whole is read, whatever its header says; its twin, cut short, is refused."""

import struct
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import pytest
import torch

from sidestep.data import matroska, mpeg, wav
from sidestep.data.audio import read_audio, seconds_by_header
from sidestep.runtime.errors import BadDataError
from tests.data.sounds import KINDS, RATE, make_kind, pcm_wav, riff

ID3V1 = b"TAG" + b"My Title".ljust(125, b"\0")


def reads(path: Path, content: bytes) -> torch.Tensor:
    path.write_bytes(content)
    return read_audio(path, 240)


def refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(
        BadDataError, match=rf"{path.name} (is (truncated|not a sound file|empty)|has no audio)"
    ):
        read_audio(path, 240)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_whole_and_refused_cut(tmp_path: Path, kind: str) -> None:
    path = make_kind(tmp_path / kind, kind)
    whole = path.read_bytes()
    assert reads(path, whole).shape[1] == pytest.approx(2 * RATE, abs=2100)
    assert reads(path, whole + ID3V1).shape[1] == pytest.approx(2 * RATE, abs=2100)
    for share in (0.02, 0.3, 0.6, 0.9, 0.97):
        refuses(path, whole[: int(len(whole) * share)])


def test_a_cut_is_no_matter_behind_what_is_used(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.webm", "a.webm")
    path.write_bytes(path.read_bytes()[:-5000])
    assert read_audio(path, 1).shape == (2, RATE)


def xing(content: bytes, *, frames: int | None, size: int | None) -> bytes:
    """An mp3 whose Xing or Info header says that instead; None takes a field out."""
    start = next(at for at in (content.find(b"Xing"), content.find(b"Info")) if at >= 0)
    fields = b"".join(struct.pack(">I", value) for value in (frames, size) if value is not None)
    flags = (frames is not None) | (size is not None) << 1
    changed = content[start : start + 4] + struct.pack(">I", flags) + fields
    return content[:start] + changed.ljust(16, b"\0") + content[start + 16 :]


@pytest.mark.parametrize(
    ("frames", "size"), [(0, 0), (None, None), (3, 1000), (10**6, None), (10**6, 0), (3, None)]
)
def test_an_mp3_whose_header_is_wrong_is_whole(tmp_path: Path, frames: int | None, size: int | None) -> None:
    path = make_kind(tmp_path / "a.mp3", "a.mp3")
    assert reads(path, xing(path.read_bytes(), frames=frames, size=size)).shape[1] > 1.95 * RATE


def test_a_cut_mp3_shows_by_either_count(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.mp3", "a.mp3")
    whole = path.read_bytes()
    refuses(path, xing(whole, frames=84, size=None)[:-2000])
    refuses(path, xing(whole, frames=None, size=len(whole) - whole.find(b"\xff\xfb"))[:-2000])


def test_an_mp3_that_ends_within_a_frame_and_counts_nothing_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_kind(tmp_path / "a.mp3", "a.mp3")
    whole = xing(path.read_bytes(), frames=None, size=None)
    assert reads(path, whole).shape[1] > 1.95 * RATE and not caplog.text
    assert reads(path, whole[: len(whole) // 2 - 7]).shape[1] < 1.1 * RATE
    assert "a.mp3 ends within a frame" in caplog.text


def vbri(content: bytes, *, frames: int, size: int) -> bytes:
    start = content.find(b"\xff\xfb") + 36
    body = b"VBRI" + struct.pack(">HHHII", 1, 0, 75, size, frames)
    head = content[: start - 32] + bytes(32)  # where Xing's would be
    return head + body + content[start + len(body) :]


def test_a_vbri_header_counts_as_well(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.mp3", "a.mp3")
    whole = path.read_bytes()
    size = len(whole) - whole.find(b"\xff\xfb")
    sound = vbri(whole, frames=84, size=size)
    assert sound.count(b"VBRI") == 1
    assert reads(path, sound).shape[1] > 1.95 * RATE
    refuses(path, sound[:-2000])
    assert reads(path, vbri(whole, frames=0, size=0)).shape[1] > 1.95 * RATE


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\1\0" + bytes(128)])
def test_joined_mp3s_are_whole_and_the_last_of_them_may_be_cut(tmp_path: Path, tag: bytes) -> None:
    parts = [make_kind(tmp_path / f"{n}.mp3", "a.mp3", 1, seed=n).read_bytes() for n in range(3)]
    joined = parts[0] + tag + parts[1] + tag + parts[2]
    assert reads(tmp_path / "joined.mp3", joined).shape[1] == pytest.approx(3 * RATE, abs=6000)
    refuses(tmp_path / "cut.mp3", joined[: int(len(joined) * 0.97)])


def test_an_mp3_of_another_layer_and_one_of_half_the_rate(tmp_path: Path) -> None:
    for codec, rate in (("mp2", 48_000), ("mp2", 22_050), ("libmp3lame", 22_050), ("libmp3lame", 11_025)):
        path = tmp_path / f"{codec}-{rate}.mp3"
        with av.open(str(path), "w", format=codec.removeprefix("libmp3lame") or "mp3") as container:
            stream = cast(av.AudioStream, container.add_stream(codec, rate=rate, layout="mono"))
            resampler = av.AudioResampler(stream.format.name, "mono", rate, stream.codec_context.frame_size)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, rate), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, 0
            for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
                container.mux(stream.encode(piece))
        content = path.read_bytes()
        with path.open("rb") as file:
            assert not mpeg.mp3_is_cut(file)
        frames = sum(1 for _ in av.open(str(path)).demux(audio=0)) - 1
        assert walked(content) in (frames, frames + 1)  # with the header's own


def walked(content: bytes) -> int:
    data = content[10 + content[9] :] if content.startswith(b"ID3") else content
    position = count = 0
    while size := mpeg._mp3_frame(data, position):
        position, count = position + size, count + 1
    assert position == len(data)
    return count


def without_end_flag(content: bytes) -> bytes:
    at = content.rfind(b"OggS")
    page = bytearray(content[at:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFF_FFFF if crc >> 31 else crc << 1
    page[22:26] = struct.pack("<I", crc)
    return content[:at] + bytes(page)


@pytest.mark.parametrize("kind", ["a.opus", "flac.oga"])
def test_an_ogg_without_its_end_flag_is_whole(tmp_path: Path, kind: str) -> None:
    path = make_kind(tmp_path / kind, kind)
    flagged = path.read_bytes()
    whole = without_end_flag(flagged)
    waveform, wanted = reads(path, whole), reads(path, flagged)  # the flag takes the last packet's rest off
    assert 0 <= waveform.shape[1] - wanted.shape[1] < 1000
    assert torch.equal(waveform[:, : 2 * RATE - 1000], wanted[:, : 2 * RATE - 1000])
    last = whole.rfind(b"OggS")
    before = whole.rfind(b"OggS", 0, last)
    for end in (len(whole) - 1, last + 20, last + 3, (before + last) // 2):
        refuses(path, whole[:end])
    page = bytearray(whole[before:last])
    page[27 + page[26] - 1] = 255  # its last packet goes on in a page that is not there
    refuses(path, whole[:before] + bytes(page) + bytes(255))


@pytest.mark.parametrize("riff_size", [0, 36, 0x7FFF_FFFF, 0xFFFF_FFFF, 10**6])
def test_the_size_of_riff_means_nothing(tmp_path: Path, riff_size: int) -> None:
    path = make_kind(tmp_path / "a.wav", "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", riff_size)
    assert reads(path, bytes(content)).shape[1] == 2 * RATE + 7
    refuses(path, bytes(content[:-10]))


@pytest.mark.parametrize("data_size", [0, 0x7FFF_F000, 0xFFFF_FFFF])
def test_a_data_chunk_of_unknown_size_is_whole(tmp_path: Path, data_size: int) -> None:
    path = make_kind(tmp_path / "a.wav", "a.wav")
    content = bytearray(path.read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", data_size)
    assert reads(path, bytes(content)).shape[1] == 2 * RATE + 7


def test_a_flac_that_counts_too_much_is_whole_unless_a_frame_is_bad(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_kind(tmp_path / "a.flac", "a.flac")
    whole = path.read_bytes()
    for count in (0, 10, 10**6):
        declared = whole[:22] + struct.pack(">I", count) + whole[26:]
        caplog.clear()
        assert reads(path, declared).shape[1] == 2 * RATE + 7
        assert (str(count) in caplog.text) == (count == 10**6)
        if count != 10:
            refuses(path, declared[:-3000])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("valid", "bits"), [(12, 16), (16, 32), (20, 24), (20, 32), (24, 32)])
def test_samples_are_as_wide_as_they_are_stored(tmp_path: Path, valid: int, bits: int, channels: int) -> None:
    samples = np.random.default_rng(0).integers(-(2**31), 2**31, (4800, channels), dtype=np.int64)
    samples = (samples >> (32 - valid) << (32 - valid)).astype(np.int32)
    path = tmp_path / "a.wav"
    content = pcm_wav(samples, bits, valid)
    waveform = reads(path, content)
    assert torch.equal(waveform, reads(path, pcm_wav(samples, bits, bits)))
    wanted = torch.tensor(samples.T / 2**31, dtype=torch.float32).expand(2, -1)
    assert torch.allclose(waveform, wanted, atol=1e-7)
    path.write_bytes(content)
    assert seconds_by_header(path) == pytest.approx(0.1)
    refuses(path, content[: int(len(content) * 0.6)])


def test_a_plain_header_with_wider_samples_than_it_says(tmp_path: Path) -> None:
    """24 bits in blocks of 32, without the extension that would allow it."""
    samples = np.random.default_rng(0).integers(-(2**31), 2**31, 9600, dtype=np.int64).astype("<i4")
    layout = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 8, 8, 24)
    waveform = reads(tmp_path / "a.wav", riff(layout, samples.tobytes()))
    wanted = torch.tensor(samples.reshape(-1, 2).T / 2**31, dtype=torch.float32)
    assert torch.allclose(waveform, wanted, atol=1e-7)


def test_big_endian_samples_are_no_noise(tmp_path: Path) -> None:
    layout = struct.pack(">HHIIHH", 1, 1, RATE, RATE * 2, 2, 16)
    (tmp_path / "a.wav").write_bytes(riff(layout, bytes(range(200)) * 40, b"RIFX"))
    with pytest.raises(BadDataError, match=r"a\.wav .*RIFX"):
        read_audio(tmp_path / "a.wav", 240)
    assert seconds_by_header(tmp_path / "a.wav") is None


def test_samples_in_a_wave64_as_well(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.w64", "a.w64")
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        layout = next(chunk for chunk in wav._chunks(cast(BinaryIO, file)) if chunk.name == b"fmt ")
    content[layout.start + 18 : layout.start + 20] = struct.pack("<H", 20)  # valid bits of 24
    assert torch.equal(reads(tmp_path / "20.w64", bytes(content)), read_audio(path, 240))


@pytest.mark.parametrize("lies", [True, False])
def test_a_text_in_a_wav_that_says_it_is_longer_than_the_file(tmp_path: Path, lies: bool) -> None:
    """FFmpeg would set that much memory aside. The sound is whole, and an honest text stays."""
    whole = make_kind(tmp_path / "a.wav", "a.wav").read_bytes()
    title = b"INAM" + struct.pack("<I", 0x7F00_000E if lies else 14) + b"a title of 14\0"
    chunk = b"INFO" + title
    at = whole.index(b"data")
    content = whole[:at] + b"LIST" + struct.pack("<I", len(chunk)) + chunk + whole[at:]
    path = tmp_path / "b.wav"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert wav.lying_texts(file) == ({at: b"JUNK"} if lies else {})
    assert torch.equal(reads(path, content), reads(tmp_path / "a.wav", whole))


def test_files_that_end_anywhere_are_looked_through(tmp_path: Path) -> None:
    """No reader of headers stumbles over what a header does not have."""
    for kind, look in (("a.wav", wav.is_cut), ("a.mp3", mpeg.mp3_is_cut), ("a.aac", mpeg.adts_is_cut)):
        whole = make_kind(tmp_path / kind, kind, 0.1).read_bytes()
        for length in range(200):
            (tmp_path / "cut").write_bytes(whole[:length])
            with (tmp_path / "cut").open("rb") as file:
                look(file)
                wav.bits_by_container(file)
                wav.lying_texts(file)
                matroska.is_cut(file)


def test_an_mp4_whose_sound_goes_on_to_the_end(tmp_path: Path) -> None:
    """Its box says no size, so the index before it decides."""
    path = make_kind(tmp_path / "a.m4a", "index-first.m4b")
    whole = bytearray(path.read_bytes())
    at = whole.find(b"mdat") - 4
    whole[at : at + 4] = bytes(4)
    assert reads(path, bytes(whole)).shape[1] == pytest.approx(2 * RATE, abs=2100)
    refuses(path, bytes(whole[:-1000]))


def box(content: bytes, name: bytes) -> tuple[int, int]:
    """Where a box's content begins and ends."""
    at = content.index(name)
    return at + 4, at - 4 + int.from_bytes(content[at - 4 : at], "big")


def test_an_mp4_that_plays_a_part_of_its_sound_is_whole(tmp_path: Path) -> None:
    """An editor has cut the song by its edit list; all packets are there."""
    path = make_kind(tmp_path / "a.m4a", "index-first.m4b")
    whole = bytearray(path.read_bytes())
    start, _ = box(bytes(whole), b"elst")
    played = int.from_bytes(whole[start + 8 : start + 12], "big") // 2
    whole[start + 8 : start + 12] = played.to_bytes(4, "big")
    assert reads(path, bytes(whole)).shape[1] == pytest.approx(RATE, abs=2100)
    tag = whole.index(b"Lavf")
    whole[tag] = 0xE4  # of an editor that writes Latin-1
    assert reads(path, bytes(whole)).shape[1] == pytest.approx(RATE, abs=2100)
    refuses(path, bytes(whole[:-1000]))


def quicktime(path: Path, codec: str) -> bytes:
    """A MOV file whose sound is not packed, its index before it."""
    noise = (0.3 * np.random.default_rng(0).standard_normal((1, 2 * RATE))).clip(-1, 1).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(noise.repeat(2, 0), "fltp", "stereo")
    frame.sample_rate, frame.pts = RATE, 0
    with av.open(str(path), "w", format="mov", options={"movflags": "faststart"}) as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate=RATE, layout="stereo"))
        resampler = av.AudioResampler(stream.format.name, "stereo", RATE, 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return path.read_bytes()


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24be", "pcm_f32le", "pcm_alaw"])
def test_an_mp4_counts_samples_where_they_are_not_packed(tmp_path: Path, codec: str) -> None:
    """FFmpeg puts a thousand of them into a packet."""
    path = tmp_path / "a.m4a"
    whole = quicktime(path, codec)
    assert reads(path, whole).shape[1] == 2 * RATE
    refuses(path, whole[: int(len(whole) * 0.6)])
    start = box(whole, b"mdat")[0]
    cut = bytearray(whole[: start + (len(whole) - start) // 2 // 8 * 8])  # of whole samples
    cut[start - 8 : start - 4] = (len(cut) - start + 8).to_bytes(4, "big")
    refuses(path, bytes(cut))


def starts(path: Path) -> list[int]:
    """Where in a file its packets begin."""
    with av.open(str(path)) as container:
        return sorted(packet.pos for packet in container.demux(audio=0) if packet.pos is not None)


def test_an_mp4_whose_box_was_made_to_fit_what_is_left(tmp_path: Path) -> None:
    """It ends with a packet, so that the index alone tells."""
    path = make_kind(tmp_path / "a.m4a", "index-first.m4b")
    whole, start = path.read_bytes(), box(path.read_bytes(), b"mdat")[0]
    cut = bytearray(whole[: starts(path)[40]])
    cut[start - 8 : start - 4] = (len(cut) - start + 8).to_bytes(4, "big")
    refuses(path, bytes(cut))


def test_an_mp4_in_fragments_that_ends_with_a_packet(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.mp4", "fragments.mp4")
    refuses(path, path.read_bytes()[: starts(path)[-2]])


def test_an_aiff_that_counts_no_frames(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.aiff", "a.aiff")
    whole = bytearray(path.read_bytes())
    comm = box(bytes(whole), b"COMM")[0]
    whole[comm + 6 : comm + 10] = bytes(4)
    assert reads(path, bytes(whole)).shape[1] == pytest.approx(2 * RATE, abs=10)
    refuses(path, bytes(whole[:-1000]))


def test_an_aiff_written_into_a_pipe_is_whole(tmp_path: Path) -> None:
    path = make_kind(tmp_path / "a.aiff", "a.aiff")
    whole = bytearray(path.read_bytes())
    comm, ssnd = box(bytes(whole), b"COMM")[0], whole.index(b"SSND") + 4
    whole[comm + 6 : comm + 10] = (0x7F00_0000 // 4).to_bytes(4, "big")
    whole[ssnd : ssnd + 4] = (0x7F00_0008).to_bytes(4, "big")
    assert reads(path, bytes(whole)).shape[1] == pytest.approx(2 * RATE, abs=10)


def test_a_film_may_be_longer_than_its_sound(tmp_path: Path) -> None:
    for name, codec in (("film.webm", "libopus"), ("film.mp4", "aac")):
        with av.open(str(tmp_path / name), "w") as container:
            picture = container.add_stream("mpeg4" if codec == "aac" else "libvpx", rate=1)
            picture.width = picture.height = 16
            picture.pix_fmt = "yuv420p"
            sound = cast(av.AudioStream, container.add_stream(codec, rate=RATE, layout="stereo"))
            for _ in range(5):
                container.mux(picture.encode(av.VideoFrame(16, 16, "yuv420p")))
            container.mux(picture.encode(None))
            frame = av.AudioFrame.from_ndarray(np.zeros((2, RATE), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, 0
            resampler = av.AudioResampler(
                sound.format.name, "stereo", RATE, sound.codec_context.frame_size or 960
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
                container.mux(sound.encode(piece))
        whole = (tmp_path / name).read_bytes()
        assert reads(tmp_path / name, whole).shape[1] == pytest.approx(RATE, abs=2100)
        refuses(tmp_path / name, whole[: int(len(whole) * 0.9)])


def test_the_first_of_several_sounds_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="mono") for _ in "ab"]
        for level, stream in zip((0.25, 0.5), streams, strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), int(level * 2**15), "<i2"), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with caplog.at_level("INFO", logger="sidestep"):
        waveform = read_audio(tmp_path / "a.mka", 240)
    assert waveform.unique().tolist() == [0.25]
    assert "a.mka" in caplog.text and "2" in caplog.text


def test_no_format_is_opened_but_those_of_sound(tmp_path: Path) -> None:
    for name, text in (
        ("a.mp3", "ffconcat version 1.0\nfile secret.wav\n"),
        ("a.mka", "#EXTM3U\n#EXTINF:10,\nsecret.wav\n"),
        ("a.mp4", "[playlist]\nFile1=secret.wav\n"),
    ):
        make_kind(tmp_path / "secret.wav", "a.wav")
        refuses(tmp_path / name, text.encode())
