"""SkyPilot: a managed spot job on a virtual machine of any cloud, with the image run by Docker there.

https://docs.skypilot.co/en/latest/examples/managed-jobs.html
https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

import shlex
from typing import Any

from sidestep.platforms.docker import docker_run
from sidestep.platforms.job import DISK_GB, Job, flattened
from sidestep.platforms.kubernetes import BACKOFF_LIMIT
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import ExitCode, Rerun, UsageError, codes

GPUS = ("L4", "A10G", "L40S", "A100", "A100-80GB", "H100")
"""Of 24 GB and more, with bf16: the cheapest that is to be had is taken."""

CLOUDS = ("aws", "gcp", "azure")
"""Those with spot machines that are machines: where SkyPilot rents containers, there is no Docker in them."""

MOUNTED = "/tmp/sidestep/job.yaml"  # noqa: S108 - on a machine that is nobody else's


def task(job: Job) -> dict[str, Any]:
    """SkyPilot's task. The spec's own file is mounted; what was said elsewhere goes in as variables."""
    assert job.config is not None
    elsewhere = {path: value for path, value in job.given.items() if path not in job.from_config}
    run = docker_run(
        job,
        '--user "$(id -u):$(id -g)"',  # the file is this user's
        f"--volume {MOUNTED}:/etc/sidestep/job.yaml:ro",
        *(f"--env {shlex.quote(f'{name}={value}')}" for name, value in flattened(elsewhere).items()),
        secrets=job.secrets,
        stop_timeout=job.stop_seconds,
    )
    return {
        "name": job.label,
        "resources": {
            **({"accelerators": dict.fromkeys(GPUS, 1)} if job.wants_gpu else {"cpus": "4+"}),
            "use_spot": True,
            "any_of": [{"infra": cloud} for cloud in CLOUDS],
            "disk_size": 2 * DISK_GB,
            "job_recovery": {
                "max_restarts_on_errors": BACKOFF_LIMIT,
                "recover_on_exit_codes": codes(Rerun.ALWAYS),
            },
        },
        "file_mounts": {MOUNTED: job.config},
        **({"secrets": dict.fromkeys(job.secrets)} if job.secrets else {}),
        "run": run + "\n",
    }


def render(job: Job) -> Rendered:
    """The task, and `sky jobs launch`. Raises UsageError where the spec is in no file."""
    if job.config is None:
        raise UsageError("skypilot takes the spec as a file: write one, and name it with --config")
    secrets = "".join(f" --secret {name}" for name in job.secrets)
    command = f"sky jobs launch{secrets} {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} as a SkyPilot managed spot job. Submit it from this folder:\n"
        f"  {command}\n"
        f"Code {int(ExitCode.AGAIN)} starts it again without limit; every other failure, permanent ones too, "
        f"{BACKOFF_LIMIT} times.\n"
        "The machine's NVIDIA driver must be 580 or newer; resources.image_id chooses another machine.\n"
    )
    return Rendered(dump(task(job), comment=comment), command)


PLATFORM = Platform(
    name="skypilot",
    suffix=".sky.yaml",
    reclaim="the cloud shuts the spot machine down, and Docker stops the container: SIGTERM, later SIGKILL",
    notice="30 s (Google Cloud, Azure) to 120 s (AWS)",
    grace_seconds=20,
    next_attempt="SkyPilot's controller, wherever there is a machine, without limit; after other failures "
    "three times, permanent ones too",
    render=render,
)
