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


def json_bytes(value: Any) -> bytes:
    """`value` as UTF-8 JSON for people and programs: sorted keys, indented, a newline at the end.

    NaN and infinity are not JSON and raise ValueError.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def safetensors_bytes(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> bytes:
    """`tensors` as a safetensors file with `metadata` in its header.

    The library lays the data out in a fixed order (by dtype, then by name) but writes the header's
    metadata in a random one, so its header is written again, sorted and padded to 8 bytes.
    """
    from safetensors.torch import save

    raw = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata else None,
    )
    data_start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:data_start])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(raw)[data_start:]))


def torch_bytes(value: Any) -> bytes:
    """`value` as torch.save writes it, for torch.load(weights_only=True).

    Takes dicts with str keys, lists, tuples, tensors, str, int, float, bool and None, nested at will;
    anything else raises TypeError. Pickle tells equal objects from identical ones and a view drags its
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
    """A matplotlib figure as PNG, without the program's version in its metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
