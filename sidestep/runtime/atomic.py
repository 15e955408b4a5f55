"""Local files that are either there as a whole or not at all, also after a crash."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".sidestep-tmp-"
"""How the names of unfinished files begin. A store's listing leaves them out."""

TRIES_TO_MAKE_A_FOLDER = 20
NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # as SMB answers: it has no such call


@contextmanager
def replacing(target: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block that file becomes `target`.

    Readers see the old file or the new one, never a part. After a failure the old one stays.

    Args:
        lasting: wait until it is on the disk. A copy of what is elsewhere need not be: where the machine
            goes away, it is compared with its digest and made again.
    """
    with temporary_beside(target) as temporary:
        yield temporary
        if lasting:
            sync(temporary)
        temporary.replace(target)
        if lasting:
            sync_entries(target.parent)


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `target`, deleted at the end of the block if it is still there."""
    # In the same folder: a rename or a link does not cross file systems.
    temporary = target.with_name(TEMPORARY + uuid.uuid4().hex)
    _begin(temporary)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _begin(file: Path) -> None:
    """Make the file, and its folder. Another process may delete an empty folder at any time, so both are
    tried again; once the file is in it, the folder stays. O_EXCL follows no link that somebody put there."""
    for _ in range(TRIES_TO_MAKE_A_FOLDER):
        with suppress(FileNotFoundError):
            _make_folder(file.parent)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            return
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with suppress(FileExistsError):  # by another process; or it is a file, as what is put there says
            folder.mkdir()
        sync_entries(folder.parent)


def sync_entries(folder: Path) -> None:
    """Wait until the names of what is in the folder are on the disk, as far as it has a call for that."""
    try:
        sync(folder)
    except FileNotFoundError:
        pass  # another process deleted it, with all that was in it
    except OSError as error:
        if error.errno not in NO_SYNC_OF_FOLDERS:
            raise


def sync(path: Path) -> None:
    """Wait until the file's content, or the folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
