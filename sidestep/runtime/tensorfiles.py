"""Tensor files of others' making, safetensors and torch's own, checked by their headers before all else.

What a file claims is bounded by what it holds: a few bytes that are repeated, or a directory that speaks of
gigabytes, never take more memory than the file has bytes. Nothing of a file is run.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.liveness import sign_of_life
from sidestep.runtime.parsing import parse_json

if TYPE_CHECKING:
    from torch import Tensor

HEADER_AT_MOST = 16 * 2**20
"""Bytes of a safetensors header: that of the largest model has some 200,000."""

_LIST_AT_MOST = 2**20  # bytes of what a torch file holds beside its numbers: its directory, its pickle

# All that torch.save writes for tensors, text and numbers. torch itself would also take what builds tensors
# without content, nested and sparse ones, and arrays of any length.
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    *("collections OrderedDict", "torch Size"),
    *(f"torch {kind}Storage" for kind in _KINDS),
}


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, "Tensor"]]:
    """Yield (name, tensor) of a safetensors file for names with one of `prefixes`, one in memory at a time.

    Raises BadDataError where it is no such file.
    """
    from safetensors import safe_open

    try:
        with path.open("rb") as start:
            _check_header(start.read(8))
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                if name.startswith(prefixes):
                    yield name, file.get_tensor(name)
                sign_of_life()
    except Exception as error:  # the library raises many kinds for what it does not know
        raise BadDataError(f"{path} is not a readable safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header. Raises BadDataError where it is no such file."""
    from safetensors import safe_open

    try:
        with path.open("rb") as start:
            _check_header(start.read(8))
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:
        raise BadDataError(f"{path} is not a readable safetensors file: {error}") from error


def parse_tensors(data: bytes, where: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors of a safetensors file, and the texts in its header. Raises BadDataError as above."""
    from safetensors.torch import load

    try:
        _check_header(data[:8])
        tensors = load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], "its header")
    except Exception as error:
        raise BadDataError(f"{where} is not a readable safetensors file: {error}") from error
    return tensors, header.get("__metadata__", {})


def load_torch(source: Path | bytes, where: str, *, mapped: bool = False) -> Any:
    """What torch.save wrote: tensors, each dense and no larger than the file, text, numbers, lists and dicts.

    Args:
        mapped: leave the tensors on the disk, and read what is used.

    Raises MissingInputError where there is no such file, BadDataError where it holds anything else.
    """
    import torch

    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            size = _check_archive(file)
            file.seek(0)
            value = torch.load(
                source if mapped and isinstance(source, Path) else file,
                map_location="cpu",
                weights_only=True,
                mmap=mapped,
            )
        _check_tensors(value, size)
    except FileNotFoundError as error:
        raise MissingInputError(f"{where} is not there") from error
    except Exception as error:  # torch raises many kinds for what is not a plain tensor file
        reason = str(error) if isinstance(error, BadDataError) else type(error).__name__
        raise BadDataError(
            f"{where} cannot be read as plain tensors ({reason}): it is damaged, or holds more than tensors, "
            "text and numbers, and loading such a file could run code"
        ) from error
    return value


def _check_header(start: bytes) -> None:
    size = int.from_bytes(start, "little")
    if size > HEADER_AT_MOST:
        raise BadDataError(f"its header claims {size:,} bytes (at most {HEADER_AT_MOST:,})")


def _check_archive(file: BinaryIO) -> int:
    """The file's size, where it is an archive as torch.save writes them: nothing packed, nothing twice."""
    size = file.seek(0, io.SEEK_END)
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        stored = sum(entry.file_size for entry in entries)
        if len(names) < len(entries) or len({name.partition("/")[0] for name in names}) != 1:
            raise BadDataError("it is not one archive")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or stored > size:
            raise BadDataError("it claims more than it holds")
        (pickle,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
        if pickle.file_size > _LIST_AT_MOST:
            raise BadDataError(f"it has {pickle.file_size:,} bytes beside its tensors")
        for operation, argument, _ in pickletools.genops(archive.read(pickle)):
            if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST") and argument not in _NAMES:
                raise BadDataError(f"it holds {argument or 'what it does not name'}")
    return size


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise BadDataError unless the archive's directory is small, and where all readers look for it."""
    file.seek(max(size - 98, 0))
    tail = file.read().rjust(98, b"\0")
    end = size - 22
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise BadDataError("it is not an archive of torch's")
    length, start = struct.unpack("<II", tail[-10:-2])
    if tail[-42:-38] == b"PK\6\7":  # sizes of 64 bits stand before
        end = size - 98
        length, start = struct.unpack("<QQ", tail[40:56])
        if tail[:4] != b"PK\6\6" or struct.unpack("<Q", tail[-34:-26])[0] != end:
            raise BadDataError("its directory is not where it should be")
    if length > _LIST_AT_MOST or start + length != end:
        raise BadDataError("its directory is not what it should be")


def _check_tensors(value: Any, size: int) -> None:
    """Raise BadDataError unless each tensor in `value` is dense and claims `size` bytes at most."""
    from torch import Tensor, strided

    found, seen = [value], set()
    while found:
        item = found.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            found += [*item, *item.values()]
        elif isinstance(item, list | tuple | set):
            found += item
        elif isinstance(item, Tensor) and (
            item.layout != strided
            or item.device.type != "cpu"
            or item.numel() * item.element_size() > size
            or any(length > size for length in item.shape)
        ):
            raise BadDataError(f"it has a tensor {list(item.shape)}, and {size:,} bytes in all")
