"""Keeps the intermediate results of preprocessing: latents, and the text encoder's states of the prompts.

It lies in two places. This machine's disk keeps it, as a new caption needs the same latents again. The
tensors' own place has it in `unfinished/` until all tensors are made, so that a job whose machine vanishes
goes on elsewhere with the next song.

Either place may lose a file or damage it at any time, and another attempt that ends clears `unfinished/`.
What cannot be read back as it was written is made anew.
"""

import logging
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from sidestep.data.survey import Heard
from sidestep.runtime.canonical import safetensors_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FOLDER = "unfinished"
HEARD = "heard"
"""Beside a song's latents: what was heard of it, as an attempt that goes on with them does not decode it."""


class GoneError(Exception):
    """An intermediate result was there and is not any more. `Unfinished.has` knows that from now on."""


class Unfinished:
    """Tensors by the keys of what they are made of (see `data.keys`), here and beside the finished ones."""

    def __init__(self, here: Store, tensors: Store) -> None:
        """`here` is a folder on this machine, `tensors` the place where the finished ones go."""
        self._here, self._tensors = here, tensors
        self._names_here = {file.path for file in here.list_files()}
        self._names_there = self._listed_there()

    def has(self, name: str) -> bool:
        return name in self._names_here or name in self._names_there

    def read(self, name: str) -> "dict[str, Tensor]":
        """Raises GoneError where it is gone from both places, or damaged."""
        for store, path, names in (
            (self._here, name, self._names_here),
            (self._tensors, f"{FOLDER}/{name}", self._names_there),
        ):
            if name in names:
                try:
                    return _unpacked(store.read_bytes(path), name)
                except (MissingInputError, BadDataError) as error:
                    log.info("%s/%s is not used: %s", store.place, path, error)
                    names.discard(name)
        raise GoneError(name)

    def heard(self, name: str) -> Heard | None:
        """What was heard of the song of some latents. None where they are gone, or of an older version."""
        try:
            kept = self.read(name).get(HEARD) if self.has(name) else None
        except GoneError:
            return None
        return None if kept is None else Heard.model_validate_json(bytes(kept.tolist()))

    def write(self, name: str, made: "Mapping[str, Tensor]") -> None:
        data = safetensors_bytes(made, {"name": name, "sha256": _digest(made)})
        try:
            self._here.write_bytes(name, data)
            self._names_here.add(name)
        except BadDataError as error:  # a folder or a link in its place
            log.warning("%s/%s is not kept on this machine: %s", self._here.place, name, error)
        self._tensors.write_bytes(f"{FOLDER}/{name}", data)
        self._names_there.add(name)

    def note_digest(self, key: str, digest: str) -> None:
        """Keep the sha256 of finished tensors, before they are written and until the index has it."""
        self._tensors.write_bytes(f"{FOLDER}/{_note(key)}", digest.encode())
        self._names_there.add(_note(key))

    def noted_digest(self, key: str) -> str | None:
        """The sha256 of tensors that an attempt wrote which came to no end; None where none is known."""
        try:
            return self._tensors.read_bytes(f"{FOLDER}/{_note(key)}").decode("ascii", "replace")
        except MissingInputError:
            return None

    def clear(self) -> None:
        """Delete what lies beside the tensors, as all of them are made; this machine keeps its own copy."""
        for name in sorted(self._names_there | self._listed_there()):
            self._tensors.delete(f"{FOLDER}/{name}")
        self._names_there.clear()

    def _listed_there(self) -> set[str]:
        return {file.path.removeprefix(f"{FOLDER}/") for file in self._tensors.list_files(FOLDER)}


def packed(heard: Heard) -> "Tensor":
    """As it is kept beside latents, under the name HEARD."""
    import torch

    return torch.frombuffer(bytearray(heard.model_dump_json().encode()), dtype=torch.uint8)


def _note(key: str) -> str:
    return f"{key}.sha256"


def _digest(tensors: "Mapping[str, Tensor]") -> str:
    return sha256(safetensors_bytes(tensors)).hexdigest()


def _unpacked(data: bytes, name: str) -> "dict[str, Tensor]":
    """Raises BadDataError where it is not what was written under that name."""
    from sidestep.runtime.tensorfiles import parse_tensors

    tensors, metadata = parse_tensors(data, "it")
    if metadata != {"name": name, "sha256": _digest(tensors)}:
        raise BadDataError("it is damaged, of another song, or of an older version")
    return tensors
