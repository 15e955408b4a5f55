"""Docker on a machine of one's own: a script with one `docker run`. Folders are mounted where they are."""

import shlex
from collections.abc import Iterable

from sidestep.platforms.job import (
    METRICS_FILE,
    SHARED_MEMORY_GB,
    WORKSPACE,
    Job,
    local_places,
    metrics_file,
)
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import BadSpecError, Rerun, codes
from sidestep.storage.access import Way


def docker_run(job: Job, *options: str, secrets: Iterable[str], stop_timeout: int) -> str:
    """A `docker run` of the job's image, one option a line; `options` come before those of every platform.

    `secrets` are names of variables that it passes on, where they are set.
    """
    lines = [
        "docker run --rm --init",  # Docker's init passes signals on from the first moment
        *(["--gpus all"] if job.wants_gpu else []),
        *([f"--shm-size {SHARED_MEMORY_GB}g"] if job.gpus > 1 else []),
        f"--stop-timeout {stop_timeout}",
        "--cap-drop all --security-opt no-new-privileges",
        *options,
        *(f"--env {name}" for name in secrets),
        f"{shlex.quote(job.image)} {' '.join(job.words)}",
    ]
    return " \\\n    ".join(lines)


def mounts(job: Job) -> dict[str, bool]:
    """The folders and files to mount, each at its own path, and whether they are written to.

    Raises BadSpecError for a path that the engines' `source:target` notation cannot say.
    """
    found: dict[str, bool] = {}
    local = local_places(job.spec)
    if file := metrics_file(job.spec):
        local[METRICS_FILE] = file.parent
    for path, place in local.items():
        if set(":,") & set(str(place)):
            name = ".".join(path)
            raise BadSpecError(
                f"{name} = {place}: a container engine cannot mount a path with a ':' or a ','"
            )
        found[str(place)] = found.get(str(place), False) or path in (*job.written, METRICS_FILE)
    return found


def render(job: Job) -> Rendered:
    """The script. The variables of the spec are in it; those with credentials are the shell's own."""
    name = f"sidestep-{job.label}"
    folders = mounts(job)
    written = [shlex.quote(folder) for folder, is_written in folders.items() if is_written]
    command = docker_run(
        job,
        f"--name {name}",
        '--user "$(id -u):$(id -g)"',
        f"--volume {name}:{WORKSPACE}",  # what was pulled is there when the script is run again
        *(
            f"--volume {shlex.quote(f'{folder}:{folder}' + ('' if is_written else ':ro'))}"
            for folder, is_written in folders.items()
        ),
        *(
            f'${{{name}:+--mount "type=bind,source=${name},target=${name},readonly"}}'
            for name in job.key_files
        ),
        *(f"--env {shlex.quote(f'{variable}={value}')}" for variable, value in job.environment.items()),
        secrets=job.secrets_of_a_shell,
        stop_timeout=job.stop_seconds,
    )
    submit = f"sh {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} in Docker, on this machine. Start it, or go on with it:\n"
        f"  {submit}\n"
        f"To stop it with its progress saved (exit code 75):\n  docker stop {name}\n"
    )
    makes = f"mkdir -p {' '.join(written)}\n" if written else ""
    return Rendered(f"#!/bin/sh\n{commented(comment)}set -eu\n{makes}exec {command}\n", submit)


PLATFORM = Platform(
    name="docker",
    suffix=".sh",
    reclaim="nothing by itself; `docker stop` and a shutdown: SIGTERM, later SIGKILL",
    notice="--stop-timeout, made from `grace_seconds`",
    next_attempt="nobody: run the script again, or have systemd do it (`Restart=on-failure`, "
    f"`RestartPreventExitStatus={' '.join(map(str, codes(Rerun.PERMANENT)))}`)",
    after={
        Rerun.PERMANENT: "ends",
        Rerun.COUNTED: "ends; below systemd, starts the script again",
        Rerun.AGAIN: "ends; below systemd, starts the script again",
    },
    brings={
        Way.VARIABLES: "the environment of the shell that submits the job",
        Way.FILE: "the one that the shell's variable names, mounted",
        Way.IDENTITY: "this machine's",
    },
    render=render,
    local_paths=True,
    many_gpus=True,
)
