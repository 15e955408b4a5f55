"""Canonical files: the same content is the same bytes, in every process and on every machine.

Results are compared, verified and shared by their digests, so nothing may depend on hash seeds, on the
order in which something was built, on the time or on the host. The formats stay the common ones; each
function names what its library leaves to chance.
"""

import io
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Parts = tuple[bytes | memoryview, ...]
"""A file's content, without a copy of it as one piece."""

# torch's names of kinds and the format's, in the order in which the library lays them out.
SAFETENSORS_KINDS = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def json_bytes(value: Any) -> bytes:
    """Return `value` as UTF-8 JSON for people and programs: sorted keys, indented, a newline at the end.

    Raises ValueError for NaN and infinity, which are not JSON.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def safetensors_bytes(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `tensors` as a safetensors file with `metadata` in its header."""
    return b"".join(safetensors_parts(tensors, metadata))


def safetensors_parts(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> Parts:
    """Return the same file in parts, one after the other; those of CPU tensors are their own memory.

    Written here and not by the library, as that orders metadata at random, and makes the file as one piece
    while it holds Python's lock: a training beside it would stand still for seconds.
    """
    import torch

    kinds = {getattr(torch, name): kind for name, kind in SAFETENSORS_KINDS.items()}
    # Wide kinds come first, so that every tensor begins at a multiple of its own size.
    order = {kind: place for place, kind in enumerate(kinds)}
    names = sorted(tensors, key=lambda name: (order[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[memoryview] = []
    end = 0
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": kinds[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return (*_header(header), *parts)


def with_metadata(file: Parts, metadata: Mapping[str, str]) -> Parts:
    """A safetensors file that this module has made, with more texts in its header."""
    _, text, *tensors = file
    header = json.loads(bytes(text))
    header["__metadata__"] = {**header.get("__metadata__", {}), **metadata}
    return (*_header(header), *tensors)


def _header(content: Mapping[str, Any]) -> tuple[bytes, bytes]:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text


def torch_bytes(value: Any) -> bytes:
    """Return `value` as torch.save writes it, for torch.load(weights_only=True).

    Takes dicts with str keys, lists, tuples, tensors, str, int, float, bool and None, nested at will, and
    raises TypeError for anything else. Pickle tells equal objects from identical ones and a view drags its
    whole storage along, so what is saved is a copy without either: keys sorted, one object for equal
    strings, each tensor alone.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(_without_identity(value), buffer)
    return buffer.getvalue()


def _without_identity(value: Any) -> Any:
    from torch import Tensor

    match value:
        case Tensor():
            return value.detach().cpu().clone().contiguous()
        case dict():
            return {_without_identity(key): _without_identity(value[key]) for key in sorted(value)}
        case list() | tuple():
            return type(value)([_without_identity(item) for item in value])
        case str():
            return sys.intern(value)
        case None | bool() | int() | float():
            return value
    raise TypeError(f"no canonical form for a {type(value).__name__}")


def png_bytes(figure: "Figure") -> bytes:
    """Return a matplotlib figure as PNG, without the program's version in its metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
