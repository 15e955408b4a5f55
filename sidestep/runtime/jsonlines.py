"""The console's lines as JSON, one object a line, for what collects logs: `runtime.log_format: json`.

Every line has the same keys. Those of a job are null until there is one, or where they are not known.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidestep.runtime.environment import CONFIG_VARIABLE, DEFAULT_CONFIG
from sidestep.runtime.secrets import hide

OF_A_JOB = ("job", "attempt", "phase", "step", "loss")

_VARIABLE = "SIDESTEP_RUNTIME__LOG_FORMAT"
_IN_A_FILE = re.compile(r"""^(?:[^#]*[\s{,])?["']?log_format["']?\s*:\s*["']?(\w+)""", re.MULTILINE)
_LARGEST_SPEC = 1_000_000  # characters

_read: Callable[[], Mapping[str, Any]] = dict


def about(read: Callable[[], Mapping[str, Any]]) -> None:
    """From now on each line says what `read` returns of `OF_A_JOB`; it is called with every line."""
    global _read
    _read = read


def json_line(record: logging.LogRecord) -> str:
    """A record as an object on one line, whatever a message holds: all but ASCII is escaped."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    said = _read()
    line = {
        "time": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": hide(record.getMessage()),
        **{key: hide(value) if isinstance(value := said.get(key), str) else value for key in OF_A_JOB},
    }
    if record.exc_info and record.exc_info[1] is not None and not _is_told(record.exc_info[1]):
        line["exception"] = hide(logging.Formatter().formatException(record.exc_info))
    return json.dumps(line)


def _is_told(error: BaseException) -> bool:
    """Whether its message says it all, as that of a SideStepError does, which has a code."""
    return hasattr(error, "exit_code")


def is_wanted(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether lines are to be JSON, as far as that is seen before the spec is read: what is wrong with the
    spec is said in a line, too. The flag says it, else the variable, else a line of the spec's file."""
    flag = _value_of("--log-format", words) or environ.get(_VARIABLE, "").strip()
    if flag:
        return flag == "json"
    bare = words[0] if words and not words[0].startswith("-") else None
    file = _value_of("--config", words) or bare or environ.get(CONFIG_VARIABLE)
    try:
        with Path(file or DEFAULT_CONFIG).open(encoding="utf-8", errors="replace") as text:
            found = _IN_A_FILE.search(text.read(_LARGEST_SPEC))
    except (OSError, ValueError):  # reading the spec will say what is wrong with the file
        return False
    return found is not None and found[1] == "json"


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    """What stands behind a flag, as in `--flag value` and `--flag=value`; the last one counts."""
    for at in range(len(words) - 1, -1, -1):
        if words[at].startswith(f"{flag}="):
            return words[at].partition("=")[2]
        if words[at] == flag and at + 1 < len(words):
            return words[at + 1]
    return None
