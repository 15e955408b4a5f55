"""Keeps the intermediate results of preprocessing: latents, and the text encoder's states of the prompts.

It lies in two places. This machine's disk keeps it, as a new caption needs the same latents again. The
tensors' own place (a shard's folder there) has it in `unfinished/` until all tensors are made, so that a job
whose machine vanishes goes on elsewhere with the next song.

Either place may lose a file or damage it at any time, and another attempt that ends clears `unfinished/`.
What cannot be read back as it was written is made anew.
"""

import logging
from collections.abc import Mapping, Sequence
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

    def __init__(self, here: Store, beside: Store, others: Sequence[Store] = ()) -> None:
        """`here` is a folder on this machine, `beside` the place where the finished ones go, or a shard's own
        folder there. In `others` it is read alone: what was left when there was another number of shards."""
        self._here, self.beside = here, beside
        self._others = [(other, _listed(other)) for other in others]
        self._names_here = {file.path for file in here.list_files()}
        self._names_there = self._listed_there()

    def has(self, name: str) -> bool:
        known = (self._names_here, self._names_there, *(names for _, names in self._others))
        return any(name in names for names in known)

    def read(self, name: str) -> "dict[str, Tensor]":
        """Raises GoneError where it is gone from both places, or damaged."""
        for store, path, names in (
            (self._here, name, self._names_here),
            (self.beside, f"{FOLDER}/{name}", self._names_there),
            *((other, f"{FOLDER}/{name}", names) for other, names in self._others),
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
        self.beside.write_bytes(f"{FOLDER}/{name}", data)
        self._names_there.add(name)

    def note_digest(self, key: str, digest: str) -> None:
        """Keep the sha256 of finished tensors, before they are written and until the index has it."""
        self.beside.write_bytes(f"{FOLDER}/{_note(key)}", digest.encode())
        self._names_there.add(_note(key))

    def noted_digest(self, key: str) -> str | None:
        """The sha256 of tensors that an attempt wrote which came to no end; None where none is known."""
        try:
            return self.beside.read_bytes(f"{FOLDER}/{_note(key)}").decode("ascii", "replace")
        except MissingInputError:
            return None

    def clear(self) -> None:
        """Delete what lies beside the tensors, as all of them are made; this machine keeps its own copy."""
        for name in sorted(self._names_there | self._listed_there()):
            self.beside.delete(f"{FOLDER}/{name}")
        self._names_there.clear()

    def _listed_there(self) -> set[str]:
        return _listed(self.beside)


def packed(heard: Heard) -> "Tensor":
    """As it is kept beside latents, under the name HEARD."""
    import torch

    return torch.frombuffer(bytearray(heard.model_dump_json().encode()), dtype=torch.uint8)


def has_unfinished(place: Store) -> bool:
    """Whether something lies beside the tensors of a place."""
    return bool(_listed(place))


def clear_unfinished(place: Store) -> None:
    """Delete what lies beside the tensors of a place, as all of them are made."""
    for name in sorted(_listed(place)):
        place.delete(f"{FOLDER}/{name}")


def _listed(place: Store) -> set[str]:
    return {file.path.removeprefix(f"{FOLDER}/") for file in place.list_files(FOLDER)}


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
