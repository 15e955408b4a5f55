"""Tensor files that lie about themselves take no memory, run nothing, and are refused by name."""

import io
import json
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.tensorfiles import (
    HEADER_AT_MOST,
    load_torch,
    parse_tensors,
    read_metadata,
    read_tensors,
)

PLAIN = {"a": torch.ones(3, 64), "texts": {"caption": "x", "bpm": 7, "none": None, "list": [1.5, (True,)]}}


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def rezipped(
    data: bytes, change: Callable[[str, bytes], bytes] = lambda name, data: data, **how: Any
) -> bytes:
    """The archive with other content, packed as `how` says."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def pickled(change: Callable[[bytes], bytes]) -> bytes:
    """A saved tensor [3, 64] with another pickle."""
    return rezipped(saved(PLAIN["a"]), lambda name, data: change(data) if name.endswith("data.pkl") else data)


class Calls:
    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self._call = function, given

    def __reduce__(self) -> Any:
        return self._call


def calling(function: Callable[..., Any], *given: Any) -> bytes:
    return pickled(lambda data: pickle.dumps({"a": Calls(function, *given)}, protocol=2))


def with_directory_of(size: int) -> bytes:
    """An archive whose end says that its directory is that long."""
    data = bytearray(rezipped(saved(PLAIN)))
    data[-10:-6] = struct.pack("<I", size)
    return bytes(data)


def with_two_directories() -> bytes:
    """A second archive behind one: Python's reader looks at the one, torch's at the other."""
    first = rezipped(saved(PLAIN))
    (start,) = struct.unpack("<I", first[-6:-2])
    file = io.BytesIO()
    file.write(first[:-22])
    with zipfile.ZipFile(io.BytesIO(first)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for info in new.filelist:
            info.header_offset -= file.tell() - start
    data = bytearray(file.getvalue())
    data[-6:-2] = struct.pack("<I", start)
    return bytes(data)


def with_shared_records() -> bytes:
    """An archive of which many names have the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(PLAIN))) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for number in range(1, 100):
            new.filelist.append(copy(new.getinfo("archive/data/0")))
            new.filelist[-1].filename = f"archive/data/{number}"
    return file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no archive": lambda: b"x" * 1000,
    "an old format": lambda: saved(PLAIN, _use_new_zipfile_serialization=False),
    "cut short": lambda: saved(PLAIN)[:-30],
    "packed": lambda: rezipped(saved(torch.zeros(10**6)), compression=zipfile.ZIP_DEFLATED),
    "packed, and no larger unpacked": lambda: rezipped(
        saved(torch.randint(256, (10_000,), dtype=torch.uint8)), compression=zipfile.ZIP_DEFLATED
    ),
    "the same bytes under many names": with_shared_records,
    "two directories": with_two_directories,
    "something behind it": lambda: saved(PLAIN) + b"more",
    "a long directory": lambda: with_directory_of(2**31),
    "a directory elsewhere": lambda: with_directory_of(100),
    "a long pickle": lambda: pickled(lambda data: data[:-1] + b"N0" * 2**20 + b"."),
    "a shape beyond its content": lambda: pickled(
        lambda data: data.replace(b"K\x03K\x40\x86", b"J\x00\x00\x00\x40K\x40\x86")  # the shape [3, 64]
    ),
    "one value repeated": lambda: saved({"a": torch.ones(1).expand(10**9)}),
    "one value repeated in each direction": lambda: saved({"a": torch.ones(1).expand(500, 500, 500)}),
    "one row repeated": lambda: saved({"a": torch.ones(1, 64).expand(10**7, 64)}),
    "rows of nothing": lambda: saved({"a": torch.ones(0).expand(10**12, 0)}),
    "no content": lambda: saved({"a": torch.ones(3, device="meta")}),
    "sparse": lambda: saved({"a": torch.ones(3, 64).to_sparse()}),
    "nested": lambda: saved({"a": torch.nested.nested_tensor([torch.ones(3)])}),
    "quantized": lambda: saved({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}),
    "hidden in a list": lambda: saved({"a": [{"b": torch.ones(1).expand(10**9)}]}),
    "code": lambda: calling(print, "taken"),
    "a changed function": lambda: pickled(
        lambda data: b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n}U\6spoiltK\1sb."
    ),
    "an array of any length": lambda: calling(bytearray, 10**11),
    "memory of any length": lambda: calling(torch.UntypedStorage, 10**11),
    "an object": lambda: pickled(lambda data: pickle.dumps(zipfile.ZipInfo("x"), protocol=2)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of torch, on nested and quantized tensors
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_torch_file_that_lies_is_refused_by_name(
    make: Callable[[], bytes], mapped: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "song.pt"
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadDataError, match=r"song\.pt"):
        load_torch(path, str(path), mapped=mapped)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("mapped", [False, True])
def test_a_plain_torch_file_is_read(mapped: bool, tmp_path: Path) -> None:
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.half, torch.int64, torch.bool)
    value = PLAIN | {str(kind): torch.ones(2).to(kind) for kind in kinds}
    value |= {
        "ordered": OrderedDict(a=1),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.ones(()),
    }
    value["itself"] = value["list"] = [value["texts"]] * 3
    (tmp_path / "song.pt").write_bytes(saved(value))
    read = load_torch(tmp_path / "song.pt", "x", mapped=mapped)
    assert read["a"].equal(PLAIN["a"]) and read["texts"] == PLAIN["texts"]
    assert all(read[str(kind)].dtype == kind for kind in kinds)


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone"):
        load_torch(tmp_path / "gone.pt", "gone.pt")


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


LYING = {
    "nothing": b"",
    "a header of 10^18 bytes": (10**18).to_bytes(8, "little") + b"{}",
    "a header too long": safetensors(b'{"__metadata__": {}}'.ljust(HEADER_AT_MOST + 1)),
    "a header that is none": safetensors(b"[" * 100_000),
    "a header of numbers": safetensors({"a": 1}),
    "shared bytes": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "bytes that are not there": safetensors({"a": entry([4], 0, 16)}, bytes(8)),
    "a shape beyond its bytes": safetensors({"a": entry([2**40, 4], 0, 16)}, bytes(16)),
    "a shape that overflows": safetensors({"a": entry([2**62, 2**62], 0, 16)}, bytes(16)),
    "bytes beyond the tensors": safetensors({"a": entry([4], 0, 16)}, bytes(99)),
    "a negative size": safetensors({"a": entry([-4], 0, 16)}, bytes(16)),
    "a kind that is none": safetensors({"a": entry([4], 0, 16, "F99")}, bytes(16)),
}


@pytest.mark.parametrize("data", LYING.values(), ids=LYING)
def test_a_safetensors_file_that_lies_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadDataError, match=r"a\.safetensors"):
        dict(read_tensors(path))
    with pytest.raises(BadDataError, match=r"a\.safetensors"):
        parse_tensors(data, str(path))


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        safetensors({"__metadata__": {"k": "v"}, "a.b": entry([1], 0, 4), "c": entry([1], 4, 8)}, bytes(8))
    )
    assert dict(read_tensors(path)).keys() == {"a.b", "c"}
    assert dict(read_tensors(path, ("a.",))).keys() == {"a.b"}
    assert read_metadata(path) == {"k": "v"}
    tensors, metadata = parse_tensors(path.read_bytes(), "x")
    assert set(tensors) == {"a.b", "c"} and metadata == {"k": "v"}
    with pytest.raises(BadDataError, match="gone"):
        list(read_tensors(tmp_path / "gone"))
    with pytest.raises(BadDataError, match="gone"):
        read_metadata(tmp_path / "gone")
