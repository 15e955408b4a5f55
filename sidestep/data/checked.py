"""checked.json: what is known of tensor files that were found sound, so that a start need not read them.

    {
      "version": 1,
      "files": {"<sha256>": {"size": 6163211, "frames": 6000, "width": 2048, "latents": "<sha256>",
                             "context": "silence", "silence": "<sha256>", "asked": ["genre", "trigger"],
                             "alternates": ["trigger"], "filename": "a.mp3", "caption": "…", "trigger": "…",
                             "audio": "<sha256>"}, …}
    }

A file is known by its digest alone: what holds these bytes is sound wherever it lies and whatever it is
called. Preprocessing writes it beside the tensors; a training writes it into its output, for those of which
nothing was known. It only spares work: where it is gone, damaged or of another version, tensors are read at
the start. That they still are what the digest says is seen when they are read to be trained on.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from sidestep.config.training import Alternate
from sidestep.runtime.canonical import json_bytes
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import SONGS_JSON_AT_MOST, Count, parse_as
from sidestep.runtime.words import first_line
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

FILE = "checked.json"
VERSION = 1
"""To be counted up with every change of the code after which `read_sample` refuses more than before."""

Size = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Context = Literal["silence", "answer", "other"]


@dataclass(frozen=True)
class Checked:
    """A tensor file whose shapes fit and whose values are finite, as `data.tensors.read_sample` has found."""

    size: Count  # bytes of the file
    frames: Size  # latents of the song, without pads
    width: Size  # of its conditions
    latents: str  # sha256 of the latents, without pads, as fp32
    context: Context | None = None  # what its context is, where it was compared with silence
    silence: str = ""  # its digest
    asked: tuple[Alternate, ...] = ()  # prompts that were looked for beside the song's own
    alternates: tuple[Alternate, ...] = ()  # those of them that are there
    filename: str = ""  # and so on, as its metadata has them
    caption: str = ""
    trigger: str = ""
    audio: str = ""

    def answers(self, alternates: Collection[Alternate], silence: str | None) -> bool:
        """Whether it says all that a training asks which draws from these prompts, and whose model has this
        silence; None: it asks of none."""
        return set(alternates) <= set(self.asked) and (silence is None or silence == self.silence)


class _Content(BaseModel):
    version: int
    files: dict[str, Checked]


def read_checked(*stores: Store) -> dict[str, Checked]:
    """Digest → what is known of the file, of all these places."""
    found: dict[str, Checked] = {}
    for store in stores:
        try:
            data = store.read_small(FILE, SONGS_JSON_AT_MOST)
            content = parse_as(_Content, data, f"{store.place}/{FILE}", at_most=SONGS_JSON_AT_MOST)
        except MissingInputError:
            continue
        except BadDataError as error:
            _tell_damaged(first_line(error).rstrip(":"))
            continue
        if content.version == VERSION:
            found |= content.files
    return found


@cache
def _tell_damaged(what: str) -> None:
    """Once: it is read as a training begins, and again before it is written."""
    log.warning("%s. It only spares work: tensors are read anew. Delete it, or preprocess again", what)


def write_checked(store: Store, checked: Mapping[str, Checked]) -> None:
    """Add what is known of files, by their digests, to what a place says by now."""
    before = read_checked(store)
    files = {**before, **checked}
    if files != before:
        content = {digest: asdict(file) for digest, file in files.items()}
        store.write_bytes(FILE, json_bytes({"version": VERSION, "files": content}))
