"""Logging: lines on standard error, plain or JSON; everything in sidestep.log and in the run's log.

No secret passes: each line is searched for them as it is written, with its traceback.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from sidestep.runtime.jsonlines import json_line
from sidestep.runtime.ranks import follower, leads_another_machine
from sidestep.runtime.secrets import hide
from sidestep.runtime.shown import indented

LOG_FILE = "sidestep.log"
_FILE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_log = logging.getLogger("sidestep")
_run_log: logging.Handler | None = None


def setup_logging(verbose: bool = False, as_json: bool | None = None) -> None:
    """Set up logging for this process; calling it again changes nothing but `verbose` and `as_json`.

    Standard error shows Side-Step's own lines from INFO on (DEBUG when `verbose`) and other libraries'
    from ERROR on, each as one JSON object where `as_json`; None leaves that as it is. `sidestep.log` in the
    working directory, where that is writable, is appended with Side-Step's lines from DEBUG on, other
    libraries' from WARNING on, and tracebacks. Of several processes that train together, only rank 0 does
    that. The first of another machine shows its warnings, and the others show errors alone.
    """
    root = logging.getLogger()
    console = _console()
    if console is None:
        console = _Console()
        console.as_json = bool(as_json)
        root.addHandler(console)
        root.addHandler(_Early())
        _be_quiet()
        _log.setLevel(logging.DEBUG)
        if not console.rank:
            try:
                root.addHandler(_file_handler(Path(LOG_FILE)))
            except OSError as error:
                _log.info("No %s here (%s): only this screen shows what happens", LOG_FILE, error.strerror)
    console.setLevel(logging.DEBUG if verbose else _level(console.rank))
    if as_json is not None:
        console.as_json = as_json


def _level(rank: int) -> int:
    """Of the lines that a process shows."""
    if not rank:
        return logging.INFO
    return logging.WARNING if leads_another_machine(os.environ) else logging.ERROR


def is_json() -> bool:
    """Whether standard error is for lines of JSON alone."""
    console = _console()
    return console is not None and console.as_json


def _console() -> "_Console | None":
    return next((one for one in logging.getLogger().handlers if isinstance(one, _Console)), None)


def add_log_file(path: str | os.PathLike[str]) -> None:
    """Append everything that sidestep.log gets to the run's own log too, instead of the last run's.

    The process's first begins with what was said before: the command, versions, the spec's digest.

    Raises OSError where it cannot be opened.
    """
    global _run_log
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _file_handler(path)
    root = logging.getLogger()
    if _run_log is not None:
        root.removeHandler(_run_log)
        _run_log.close()
    for early in [one for one in root.handlers if isinstance(one, _Early)]:
        root.removeHandler(early)
        for record in early.records:
            handler.handle(record)
    root.addHandler(handler)
    _run_log = handler


@contextmanager
def guest_logging() -> Iterator[bool]:
    """For a job that a program runs, which has a logging of its own: the run's log is written all the same.

    All that is added goes again. Meanwhile the program's own handlers get what they would get anyway, without
    secrets. Nothing is done where the command has set logging up; yields whether something was.
    """
    global _run_log
    root = logging.getLogger()
    if any(isinstance(handler, _Console | _Early | _LogFile) for handler in root.handlers):
        yield False
        return
    level, early, as_before = _log.level, _Early(), _AsBefore(_log.getEffectiveLevel())
    last_resort = [logging.lastResort] if logging.lastResort and not (root.handlers or _log.handlers) else []
    theirs = [*root.handlers, *_log.handlers, *last_resort]
    for handler in theirs:
        handler.addFilter(as_before)
    for handler in (*last_resort, early):
        root.addHandler(handler)
    _log.setLevel(logging.DEBUG)
    try:
        yield True
    finally:
        _log.setLevel(level)
        for handler in theirs:
            handler.removeFilter(as_before)
        for handler in (*last_resort, early):
            root.removeHandler(handler)
        if _run_log is not None:
            root.removeHandler(_run_log)
            _run_log.close()
            _run_log = None


def log_file() -> Path | None:
    """Where sidestep.log is, or None where it could not be written."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile) and handler is not _run_log:
            return Path(handler.baseFilename)
    return None


class _Early(logging.Handler):
    """Keeps what is said before the run's own log begins, for that log."""

    AT_MOST = 500

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.records) < self.AT_MOST:
            self.records.append(record)


class _AsBefore(logging.Filter):
    """Lets a program's handler have of Side-Step's lines only those from `level` on, secrets hidden."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_ours(record):
            return True
        message = record.getMessage()
        if (hidden := hide(message)) != message:
            record.msg, record.args = hidden, ()
        return record.levelno >= self._level


class _Console(logging.StreamHandler[TextIO]):
    """Lines on whatever standard error is at that moment: a progress bar replaces it for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.as_json = False
        self.rank = follower(os.environ)
        self.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        if self.as_json:
            return json_line(record)
        message = hide(record.getMessage())  # without a traceback: that is for the log file
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        if self.rank:
            message = f"rank {self.rank}: {message}"
        return indented(message)


class _Lines(logging.Formatter):
    """Every entry begins at the left, and nothing else does, whatever a name or a message holds."""

    def format(self, record: logging.LogRecord) -> str:
        return indented(hide(super().format(record)))


class _LogFile(logging.FileHandler):
    """A log file that gives up, saying so once, when it cannot be written: a full disk stops no job.

    A symbolic link in its place is not followed, and a pipe is not waited for: OSError.
    """

    def _open(self) -> TextIOWrapper:
        def plain_file(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

        return open(self.baseFilename, "a", encoding=self.encoding, opener=plain_file)

    def handleError(self, record: logging.LogRecord) -> None:
        reason = sys.exc_info()[1]
        logging.getLogger().removeHandler(self)
        with suppress(OSError):  # closing writes what is left, and fails for the same reason
            self.close()
        _log.warning("%s cannot be written any more: %s", self.baseFilename, reason)


def _file_handler(path: Path) -> logging.Handler:
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Lines(_FILE_FORMAT))
    return handler


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == "sidestep"


def _be_quiet() -> None:
    """Python's warnings go to the log file; libraries that print by themselves are asked not to."""
    logging.captureWarnings(True)
    for variable, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it prints through a handler of its own
