"""Checkpoints on their way to the output, on this machine's disk.

A checkpoint is whole here before the first byte of it is sent. Where the time after notice is too short
for sending, or the process dies, it waits here, and the next attempt on this machine goes on from it.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from sidestep.commitlog.log import CommitLog, FileEntry, FileName, Record, file_digest
from sidestep.runtime.atomic import replacing
from sidestep.runtime.canonical import Parts, json_bytes
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import Count, parse_as, read_small
from sidestep.runtime.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unsent:
    """A whole checkpoint that its writer could not send."""

    folder: Path
    name: str
    step: int


class _Note(BaseModel):
    """What newest.json says of the newest checkpoint, and of the record that its writer knew then."""

    name: FileName
    step: Count
    files: dict[FileName, FileEntry]
    number: Count
    nonce: str


class PendingCheckpoints:
    """Holds the newest checkpoint of one output, besides one that is being sent."""

    def __init__(self, workspace: Workspace, place: str) -> None:
        self._root = workspace.scratch(f"outbox-{hashlib.sha256(place.encode()).hexdigest()[:16]}")
        self._note = self._root / "newest.json"
        self._digests: dict[Path, Mapping[str, FileEntry]] = {}  # as put

    def put(self, name: str, step: int, files: Mapping[str, Parts], writer: tuple[int, str]) -> Path:
        """Keep a checkpoint as the newest one; its folder.

        `writer` is the last record that its writer knew of, and that writer's nonce.
        """
        folder = self._root / name
        self.clear(folder)
        with local_errors(self._root):
            folder.mkdir(parents=True)
            for file, parts in files.items():
                with (folder / file).open("wb") as target:
                    target.writelines(parts)
            digests = {file: file_digest(folder / file) for file in files}
            note = _Note(name=name, step=step, files=digests, number=writer[0], nonce=writer[1])
            if self._note.is_dir():
                shutil.rmtree(self._note)
            with replacing(self._note) as temporary:
                temporary.write_bytes(json_bytes(note.model_dump()))
        self._digests[folder] = digests
        return folder

    def is_whole(self, folder: Path) -> bool:
        """Whether a checkpoint that was put here, or found here, is still as it was: the disk is not safe."""
        expected = self._digests[folder]
        try:
            there = sorted(file.name for file in folder.iterdir() if file.is_file())  # a pipe would never end
            return there == sorted(expected) and all(
                file_digest(folder / file) == digest for file, digest in expected.items()
            )
        except OSError as error:
            log.debug("%s is not whole: %s", folder, error)
            return False

    def digests(self, folder: Path) -> Mapping[str, FileEntry]:
        """The files of a checkpoint as it was put here, for `Writer.commit`."""
        return self._digests[folder]

    def clear(self, folder: Path) -> None:
        """A checkpoint is committed, or not wanted any more."""
        with local_errors(self._root):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink(missing_ok=True)

    def unsent(self, commits: CommitLog, newest: Record | None) -> Unsent | None:
        """The checkpoint that is still to be sent, where it is whole and newer than the newest commit."""
        try:
            if not self._note.is_file():  # nothing, or a pipe, which would never end
                return None
            note = parse_as(_Note, read_small(self._note), str(self._note))
            folder = self._root / note.name
            is_newer = newest is None or newest.number <= note.number
            if newest and newest.nonce == note.nonce:  # its own writer's: it was on its way meanwhile
                is_newer = newest.step < note.step
            if not is_newer or commits.read(note.number).nonce != note.nonce:
                return None  # others have gone on since, or this output was begun anew
            if not folder.is_dir():
                return None  # it was committed
            self._digests[folder] = note.files
            if self.is_whole(folder):
                return Unsent(folder, note.name, note.step)
        except (OSError, BadDataError, MissingInputError) as error:
            log.debug("What the outbox holds is of no use: %s", error)
            return None
        log.warning("The checkpoint %s that waits on this machine is damaged and is not used", note.name)
        return None
