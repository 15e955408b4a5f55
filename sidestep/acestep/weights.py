"""Reads safetensors checkpoints, whole or in shards, and accounts for every key.

A checkpoint with a key too few, a key too many or a wrong shape is refused with all such keys named:
a model that is half random trains without complaint and produces noise.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sidestep.acestep.layout import choose_weights
from sidestep.acestep.names import original_name
from sidestep.acestep.quantized import Quantizing
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import read_small
from sidestep.runtime.tensorfiles import read_tensors

SHOWN_KEYS = 5


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder that count: see `acestep.layout.choose_weights`."""
    names = [path.name for path in folder.glob("*")]
    return [
        folder / name for name in choose_weights(names, lambda name: read_small(folder / name), str(folder))
    ]


def read_weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, Tensor]]:
    """Yield (key, tensor) for the keys with one of `prefixes`, one tensor in memory at a time.

    Raises BadDataError for a file that is no safetensors, and for a weight that is NaN or infinite: a copy in
    half precision that overflowed is made of such, and all that a model computes with it is NaN.
    """
    for file in weight_files(folder):
        for key, tensor in _read_file(file, prefixes):
            check_finite(tensor, f"{key} in {file}")
            yield key, tensor


def _read_file(file: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    try:
        yield from read_tensors(file, prefixes)
    except BadDataError as error:
        raise BadDataError(f"{error}\n  it may be cut short: download it again") from error


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise BadDataError where a weight called `name` is NaN or infinite."""
    if not tensor.is_floating_point():
        return
    wide = _wide(tensor)
    # A sum takes a fraction of the time; it is finite only where every value is.
    if not wide.sum(dtype=torch.float32).isfinite() and not wide.isfinite().all():
        raise BadDataError(
            f"{name} is NaN or infinite\n"
            "  a copy in another precision may have overflowed, or the file is damaged: download it again"
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.element_size() > 1 else tensor.float()  # of eight bits, few operations are there


def load_exactly(
    module: nn.Module,
    weights: Iterable[tuple[str, Tensor]],
    device: str | torch.device,
    dtype: torch.dtype,
    source: str,
    quantizing: Quantizing | None = None,
    is_elsewhere: Callable[[str], bool] = lambda name: False,
) -> None:
    """Put `weights` into `module` (built on the meta device) as `dtype` on `device`.

    Each is cast, or quantized, as it comes, so that no second copy of the model is ever in memory.
    Floating-point weights only are cast. Those of which `is_elsewhere` is true stay in the CPU's memory.

    Raises BadDataError naming every key that is missing, left over or of another shape, as the checkpoint
    spells it; `source` is what the message calls the checkpoint.
    """
    missing = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    to_round = {f"{layer}.weight" for layer in quantizing.of(module)} if quantizing else set()
    placed: dict[str, Tensor] = {}
    problems = []
    for name, tensor in weights:
        shape = missing.pop(name, None)
        if shape is None:
            problems.append(f"not known: {original_name(name)}")
        elif tuple(tensor.shape) != shape:
            problems.append(
                f"shape of {original_name(name)}: {list(tensor.shape)}, config.json wants {list(shape)}"
            )
        elif quantizing and name in to_round:
            for part, held in quantizing.packed(name, tensor.to(device)):
                placed[part] = held.cpu() if is_elsewhere(name) else held
        else:
            place = "cpu" if is_elsewhere(name) else device
            placed[name] = tensor.to(device=place, dtype=dtype if tensor.is_floating_point() else None)
    problems = [f"missing: {original_name(name)}" for name in sorted(missing)] + sorted(problems)
    if problems:
        more = [f"… and {len(problems) - SHOWN_KEYS} more"] if len(problems) > SHOWN_KEYS else []
        raise BadDataError(
            "\n  ".join([f"{source} does not fit its config.json:", *problems[:SHOWN_KEYS], *more])
            + "\n  the files may be of different models, or a download that was cut short"
        )
    if quantizing:
        quantizing.put_into(module)
    module.load_state_dict(placed, strict=True, assign=True)
