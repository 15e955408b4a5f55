"""Stand-ins for trackers' libraries: real modules, in the real process that hosts them.

with_stand_in(monkeypatch, tmp_path, "hangs")   # how it behaves
...
heard(tmp_path)                                  # what it was told, in order
"""

import json
from pathlib import Path
from typing import Any

import pytest

TRACKIO = """
import json, os, pathlib, signal, time

MODE, FILE = os.environ["STAND_IN"], pathlib.Path(os.environ["STAND_IN_FILE"])

def tell(**said):
    with FILE.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **said}) + "\\n")

def once(name):
    there = FILE.with_suffix(name)
    is_first = not there.exists()
    there.touch()
    return is_first

class Run:
    def __init__(self, name):
        self.name = name

    def log(self, metrics, step):
        if MODE == "hangs":
            time.sleep(60)
        if MODE == "hangs once" and once(".hung"):
            time.sleep(60)
        if MODE == "dies once" and once(".died"):
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE == "fails once" and once(".failed"):
            raise OSError("no route to " + os.environ["WANDB_API_KEY"])
        tell(step=step, metrics=metrics)

    def finish(self):
        if MODE == "hangs at the end":
            time.sleep(60)
        tell(end=True)

def init(project, name, config, resume, **more):
    tell(name=name, resume=resume, config=config, environ=dict(os.environ), private=more["private"])
    if MODE == "hangs at the start":
        time.sleep(60)
    return Run(name)
"""

WANDB = """
import os, types

class UsageError(Exception):
    pass

errors = types.SimpleNamespace(UsageError=UsageError, AuthenticationError=UsageError)

def Settings(**settings):
    return settings

def init(**settings):
    with open(os.environ["STAND_IN_FILE"], "a") as file:
        file.write("{}\\n")
    raise UsageError("no account has the key " + os.environ["WANDB_API_KEY"])
"""


def with_stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, mode: str = "works") -> None:
    """From now on there is a trackio that behaves as `mode` says, and a wandb that refuses every key."""
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    (packages / "trackio.py").write_text(TRACKIO)
    (packages / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("STAND_IN", mode)
    monkeypatch.setenv("STAND_IN_FILE", str(folder / "heard.jsonl"))


def heard(folder: Path) -> list[dict[str, Any]]:
    """All that they were told."""
    file = folder / "heard.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of each point of a curve that they were told."""
    return [
        (tag, said["step"], value)
        for said in heard(folder)
        if "step" in said
        for tag, value in said["metrics"].items()
    ]


def is_gone(pid: int) -> bool:
    """Whether this process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
