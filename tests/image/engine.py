"""The container engine that the image's tests use: `docker`, `podman`, or what the variable ENGINE says."""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGE = os.environ.get("IMAGE", "side-step:cpu")
SHELL_IMAGE = os.environ.get("SHELL_IMAGE", "side-step:shell")
# What the image is promised to run under: nothing may be written but what is mounted, nothing is allowed.
LOCKED = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]


def engine() -> list[str]:
    """The command that the others begin with."""
    named = os.environ.get("ENGINE")
    found = shlex.split(named) if named else [name for name in ("podman", "docker") if shutil.which(name)][:1]
    assert found, "the image's tests need docker or podman on PATH, or the variable ENGINE"
    return found


def call(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*engine(), *arguments], capture_output=True, text=True, check=check)


def inspect(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(kind, "inspect", name).stdout)[0]
    return found


def health_check() -> list[str]:
    """The image's health check, as a command."""
    image = inspect("image", IMAGE)
    check = image.get("Healthcheck") or image["Config"]["Healthcheck"]  # podman's place for it, and docker's
    assert check["Test"][0] == "CMD"
    return [*check["Test"][1:]]


class Container:
    """A container that was started and is, or is not, still running."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def state(self) -> Any:
        state: dict[str, Any] = inspect("container", self.name)["State"]
        return state

    @property
    def log(self) -> str:
        said = call("logs", self.name)
        return said.stdout + said.stderr

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return int(call("wait", self.name).stdout)

    def wait_for(self, happened: Callable[[], bool], what: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert self.state["Running"], f"ended before {what}:\n{self.log}"
            assert time.monotonic() < end, f"no {what} after {seconds:g} s:\n{self.log}"
            time.sleep(0.1)


@contextmanager
def started(
    *command: str,
    user: int = 10001,
    volumes: Mapping[Path, str] | None = None,
    environ: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    image: str = IMAGE,
    network: str = "host",
    locked: bool = True,
) -> Iterator[Container]:
    """The image with `command`, as a cluster would run it; it is removed when the block ends.

    `volumes` are folder → place in the container, with `:ro` where it is to read alone. The network is the
    machine's own, so that a server on its loopback interface can be reached.
    """
    arguments = ["run", "--detach", "--network", network, "--user", str(user), *(LOCKED if locked else ())]
    arguments += options
    for folder, place in (volumes or {}).items():
        arguments += ["--volume", f"{folder}:{place}"]
    # One thread, and no waiting by spinning: with it a small model is many times slower on a busy machine.
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **(environ or {})}.items():
        arguments += ["--env", f"{name}={value}"]
    container = Container(call(*arguments, image, *command).stdout.strip())
    try:
        yield container
    finally:
        call("rm", "--force", container.name)
