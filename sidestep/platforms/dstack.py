"""dstack: a task that is tried again, on spot machines of any backend.

https://dstack.ai/docs/reference/dstack.yml/task/
"""

from collections.abc import Mapping
from typing import Any

from sidestep.platforms.disk import IMAGE, MACHINE
from sidestep.platforms.job import COMPUTE_CAPABILITY, GPU_MEMORY_GB, SHARED_MEMORY_GB, Job
from sidestep.platforms.parent import below_a_parent
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.wishes import Spot
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import Rerun, codes
from sidestep.storage.access import Way

RETRY_DURATION = "24h"  # counted from the last attempt that had a machine: it begins anew with each
BACKENDS = {"Google Cloud": "gcp"}  # of `storage.access`, those that no variable can stand in for
POLICIES: Mapping[Spot, str] = {"only": "spot", "preferred": "auto", "never": "on-demand"}


def task(job: Job) -> dict[str, Any]:
    """dstack's task configuration. Credentials are dstack secrets by name.

    It is an `entrypoint`, not `commands`: those run below a shell of dstack's, which the interrupt at a stop
    would end in place of the job.
    """
    secrets = {name: f"${{{{ secrets.{name} }}}}" for name in job.secrets}
    gpu = {
        "vendor": "nvidia",
        "memory": f"{GPU_MEMORY_GB}GB..",
        "compute_capability": COMPUTE_CAPABILITY,
        "count": job.gpus,
    }
    command = " ".join(["sidestep", *job.words])
    return {
        "type": "task",
        "name": f"sidestep-{job.label}",
        **({"nodes": job.nodes} if job.nodes > 1 else {}),
        "image": job.image,
        "entrypoint": command if job.wishes.keep_codes else below_a_parent(command, "dstack", job.nodes > 1),
        "env": {**job.environment, **secrets},
        **({"backends": [BACKENDS[cloud] for cloud in job.clouds]} if job.clouds else {}),
        "resources": {
            "cpu": f"{job.cpus}..",
            "memory": f"{job.memory_gb}GB..",
            **({"shm_size": f"{SHARED_MEMORY_GB}GB"} if job.gpus > 1 else {}),
            **({"gpu": gpu} if job.wants_gpu else {}),
            "disk": f"{job.workspace_gib + IMAGE + MACHINE}GB..",
        },
        "spot_policy": POLICIES[job.wishes.spot or "preferred"],
        **({"max_price": job.wishes.max_price} if job.wishes.max_price else {}),
        "retry": {"on_events": ["no-capacity", "interruption", "error"], "duration": RETRY_DURATION},
    }


def render(job: Job) -> Rendered:
    """The configuration, and `dstack apply`."""
    command = f"dstack apply --detach -f {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on dstack. Submit it:\n  {command}\n"
        f"{_codes_told(job)}\n"
        f"{job.driver}.\n"
    )
    if job.secrets:
        comment += "The credentials, once per project:\n" + "".join(
            f'  dstack secret set {name} "${name}"\n' for name in job.secrets
        )
    if job.optional_secrets:
        comment += (
            f"Where all is public, {', '.join(job.optional_secrets)} may be empty, but must be there.\n"
        )
    if job.clouds:
        comment += (
            f"{' and '.join(job.clouds)}: the machine's own account has the access (vm_service_account\n"
            "of the backend in the server's config.yml).\n"
        )
    return Rendered(dump(task(job), comment=comment), command)


def _codes_told(job: Job) -> str:
    """What becomes of exit codes, for the comment."""
    if job.wishes.keep_codes:
        return "dstack tries again after every code but 0, without end: stop the run yourself."
    permanent = ", ".join(map(str, codes(Rerun.PERMANENT)))
    return f"""\
dstack tries again after every code but 0. So it is told 0 after {permanent}: then the log,
`sidestep status` and status.json say that the job has failed."""


PLATFORM = Platform(
    name="dstack",
    suffix=".dstack.yml",
    reclaim="a spot machine is gone; a run that is stopped: SIGINT, later SIGKILL",
    notice="10 s at a stop; at an interruption what the cloud leaves",
    grace_seconds=8,
    next_attempt=f"dstack, wherever there is a machine, until none is to be had for {RETRY_DURATION}",
    after={
        Rerun.PERMANENT: "is told 0 by the command's parent, and ends: its own status is `done`, the job's "
        "`failed`; with `--keep-codes` starts it again, without limit",
        Rerun.COUNTED: "starts it again, until `max_attempts` of the job ends it; after 69, where "
        "nothing can be counted, as long as the store is out of reach",
        Rerun.AGAIN: "starts it again, without limit",
    },
    brings={
        Way.VARIABLES: "dstack secrets with the same names",
        Way.IDENTITY: "the machine's, where its backend gives it one (gcp: `vm_service_account`)",
    },
    render=render,
    grants=frozenset({"max_price", "spot", "keep_codes", "disk"}),
    many_gpus=True,
    many_nodes=True,
    cuda=12,  # it cannot ask for a driver, and some of its backends have older ones than 13 needs
)
