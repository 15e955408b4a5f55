"""dstack: a task that is tried again, on spot machines of any backend.

https://dstack.ai/docs/reference/dstack.yml/task/
"""

from typing import Any

from sidestep.platforms.job import DISK_GB, GPU_MEMORY_GB, Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import dump

RETRY_DURATION = "24h"


def task(job: Job) -> dict[str, Any]:
    """dstack's task configuration. Credentials are dstack secrets by name.

    It is an `entrypoint`, not `commands`: those run below a shell, which the interrupt at a stop would end
    in place of the job.
    """
    secrets = {name: f"${{{{ secrets.{name} }}}}" for name in job.secrets}
    gpu = {"gpu": {"vendor": "nvidia", "memory": f"{GPU_MEMORY_GB}GB..", "count": 1}} if job.wants_gpu else {}
    return {
        "type": "task",
        "name": f"sidestep-{job.label}",
        "image": job.image,
        "entrypoint": "sidestep run",
        "env": {**job.environment, **secrets},
        "resources": {**gpu, "disk": f"{DISK_GB}GB.."},
        "spot_policy": "auto",
        "retry": {"on_events": ["no-capacity", "interruption", "error"], "duration": RETRY_DURATION},
    }


def render(job: Job) -> Rendered:
    """The configuration, and `dstack apply`."""
    command = f"dstack apply --detach -f {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on dstack. Submit it:\n  {command}\n"
        f"dstack knows no exit codes: after code 75 and permanent errors alike it tries {RETRY_DURATION}.\n"
        "The machine's NVIDIA driver must be 580 or newer.\n"
    )
    if job.secrets:
        comment += "The credentials, once per project:\n" + "".join(
            f'  dstack secret set {name} "${name}"\n' for name in job.secrets
        )
    return Rendered(dump(task(job), comment=comment), command)


PLATFORM = Platform(
    name="dstack",
    suffix=".dstack.yml",
    reclaim="a spot machine is gone; a run that is stopped: SIGINT, later SIGKILL",
    notice="10 s at a stop; at an interruption what the cloud leaves",
    grace_seconds=8,
    next_attempt="dstack, for a day, after every failure: it knows no exit codes, so permanent errors are "
    "tried again too",
    render=render,
)
