"""Keeps the intermediate results of preprocessing: latents, and the text encoder's states of the prompts.

It lies in two places. This machine's disk keeps it, as a new caption needs the same latents again. The
tensors' own place has it in `unfinished/` until all tensors are made, so that a job whose machine vanishes
goes on elsewhere with the next song.
"""

from collections.abc import Mapping

from safetensors.torch import load
from torch import Tensor

from sidestep.runtime.canonical import safetensors_bytes
from sidestep.storage.store import Store

FOLDER = "unfinished"


class Unfinished:
    """Tensors by the keys of what they are made of (see `data.keys`), here and beside the finished ones."""

    def __init__(self, here: Store, tensors: Store) -> None:
        """`here` is a folder on this machine, `tensors` the place where the finished ones go."""
        self._here, self._tensors = here, tensors
        self._names_here = {file.path for file in here.list_files()}
        self._names_there = {file.path.removeprefix(f"{FOLDER}/") for file in tensors.list_files(FOLDER)}

    def has(self, name: str) -> bool:
        return name in self._names_here or name in self._names_there

    def read(self, name: str) -> dict[str, Tensor]:
        if name in self._names_here:
            return load(self._here.read_bytes(name))
        return load(self._tensors.read_bytes(f"{FOLDER}/{name}"))

    def write(self, name: str, made: Mapping[str, Tensor]) -> None:
        data = safetensors_bytes(made)
        self._here.write_bytes(name, data)
        self._names_here.add(name)
        self._tensors.write_bytes(f"{FOLDER}/{name}", data)
        self._names_there.add(name)

    def clear(self) -> None:
        """Delete what lies beside the tensors, as all of them are made; this machine keeps its own copy."""
        for name in sorted(self._names_there):
            self._tensors.delete(f"{FOLDER}/{name}")
        self._names_there.clear()
