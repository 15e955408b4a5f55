"""SkyPilot: a managed job on a spot machine of any cloud, with the image run by Docker there.

https://docs.skypilot.co/en/latest/examples/managed-jobs.html
https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

import shlex
from typing import Any

from sidestep.platforms.disk import IMAGE, MACHINE
from sidestep.platforms.docker import docker_run
from sidestep.platforms.job import Job, flattened
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.wishes import Spot
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import ExitCode, Rerun, UsageError, codes
from sidestep.storage.access import Way

GPUS = ("L4", "A10G", "L40S", "A100", "A100-80GB", "H100")
"""Of 24 GB and more, with bf16: the cheapest that is to be had is taken."""

CLOUDS = {"aws": "AWS", "gcp": "Google Cloud", "azure": "Azure"}
"""Those with spot machines that are machines: where SkyPilot rents containers, there is no Docker in them."""

RECOVERED = tuple(sorted({*codes(Rerun.AGAIN), *codes(Rerun.COUNTED), 137, 143} - {ExitCode.STORAGE}))
"""A code in this list is tried again there without any count, so the job's own attempts bound it. Where the
store is out of reach, none can be counted."""

OLDEST, OLDEST_WITH_PRICE = "0.12.0", "0.13.0"
"""The first releases that know recover_on_exit_codes, and max_hourly_cost."""

MOUNTED = "/tmp/sidestep/job.yaml"  # noqa: S108 - on a machine that is nobody else's


RANK = "SKYPILOT_JOB_RANK"
"""Which of several jobs of one file it is. `--num-jobs` sets it, too, which takes a pool of machines."""


OF_A_NODE = ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS")
"""What `sidestep launch` reads."""


def recovered(job: Job) -> list[int]:
    """The codes after which it is started again.

    Of several machines, SkyPilot kills the others once one has failed, and one code in the list is enough:
    their 137 would have a permanent failure tried again. Nor is 74 in it, as machines that cannot meet count
    no attempts; where a machine is gone, SkyPilot sees that itself.
    """
    return [code for code in RECOVERED if not (job.nodes > 1 and code in (137, 143, ExitCode.PEER))]


def task(job: Job) -> dict[str, Any]:
    """SkyPilot's task. The spec's own file is mounted; what was said elsewhere goes in as variables."""
    assert job.config is not None
    elsewhere = {path: value for path, value in job.given.items() if path not in job.from_config}
    run = docker_run(
        job,
        "--network host",  # else the hop limit of AWS's metadata service drops its answers
        '--user "$(id -u):$(id -g)"',  # the file is this user's
        f"--volume {MOUNTED}:/etc/sidestep/job.yaml:ro",
        *(f"--env {shlex.quote(f'{name}={value}')}" for name, value in flattened(elsewhere).items()),
        secrets=[*job.secrets, *([RANK] if job.jobs else []), *(OF_A_NODE if job.nodes > 1 else [])],
        stop_timeout=job.stop_seconds,
    )
    return {
        "name": job.label,
        **({"num_nodes": job.nodes} if job.nodes > 1 else {}),
        "resources": {
            **(
                {"accelerators": dict.fromkeys(GPUS, job.gpus)} if job.wants_gpu else {"cpus": f"{job.cpus}+"}
            ),
            "memory": f"{job.memory_gb}+",
            **({"max_hourly_cost": job.wishes.max_price} if job.wishes.max_price else {}),
            **_where(job, job.wishes.spot or "only"),
            "disk_size": job.workspace_gib + IMAGE + MACHINE,
            "job_recovery": {
                "max_restarts_on_errors": 0,
                "recover_on_exit_codes": list(recovered(job)),
            },
        },
        "file_mounts": {MOUNTED: job.config},
        **({"secrets": _secrets(job)} if job.secrets else {}),
        "run": run + "\n",
    }


def _secrets(job: Job) -> dict[str, str | None]:
    """null: it has to be given. What the job may do without is empty where it is not."""
    return {name: "" if name in job.optional_secrets else None for name in job.secrets}


def _where(job: Job, spot: Spot) -> dict[str, Any]:
    """The clouds, and which of their machines: SkyPilot takes the cheapest of them that is to be had.

    Where the job's places are reached by a machine's own identity alone, it is that cloud.
    """
    clouds = [name for name, cloud in CLOUDS.items() if not job.clouds or cloud in job.clouds]
    if spot == "preferred":
        return {
            "any_of": [{"infra": cloud, "use_spot": is_spot} for is_spot in (True, False) for cloud in clouds]
        }
    return {"use_spot": spot == "only", "any_of": [{"infra": cloud} for cloud in clouds]}


def render(job: Job) -> Rendered:
    """The task, and `sky jobs launch`. Raises UsageError where the spec is in no file."""
    if job.config is None:
        raise UsageError("skypilot takes the spec as a file: write one, and name it with --config")
    secrets = "".join(
        f" ${{{name}:+--secret={name}}}" if name in job.optional_secrets else f" --secret {name}"
        for name in job.secrets
    )
    command = f"sky jobs launch{secrets} {job.file}"
    if job.jobs:
        each = f"sky jobs launch --yes --detach-run --name {job.label}-$k --env {RANK}=$k{secrets} {job.file}"
        command = f"for k in $(seq 0 {job.jobs - 1}); do {each} || break; done"
    oldest = OLDEST_WITH_PRICE if job.wishes.max_price else OLDEST
    comment = (
        f"Side-Step: the job {job.spec.name} as a SkyPilot managed job. Submit it from this folder:\n"
        f"  {command}\n"
        f"SkyPilot must be {oldest} or newer.\n"
        f"It is started again after {', '.join(map(str, recovered(job)))}; "
        "runtime.max_attempts bounds that.\n"
        f"{job.driver}; resources.image_id chooses another machine.\n"
    )
    comment += job.many("a managed job")
    if job.jobs:
        comment += (
            "On a pool of machines the same is:\n"
            f"  sky jobs launch --pool POOL --num-jobs {job.jobs}{secrets} {job.file}\n"
        )
    return Rendered(dump(task(job), comment=comment), command)


PLATFORM = Platform(
    name="skypilot",
    suffix=".sky.yaml",
    reclaim="the cloud says in the machine's metadata that it takes the spot machine, and shuts it down "
    "later: SIGTERM by Docker, or nothing",
    notice="120 s (AWS), 30 s (Google Cloud), 30 s and often less (Azure)",
    grace_seconds=20,
    next_attempt="SkyPilot's controller, wherever there is a machine",
    after={
        Rerun.PERMANENT: "fails the job",
        Rerun.COUNTED: f"after {', '.join(map(str, sorted({*RECOVERED} - {ExitCode.AGAIN})))} starts it "
        "again, until `max_attempts` of the job ends it; after all others fails the job",
        Rerun.AGAIN: "starts it again, without limit",
    },
    brings={
        Way.VARIABLES: "the environment of the shell that submits the job, passed on as SkyPilot secrets",
        Way.IDENTITY: "the machine's: SkyPilot gives it an account of its own",
    },
    render=render,
    starts_many=True,
    grants=frozenset({"max_price", "spot", "disk"}),
    many_gpus=True,
    many_nodes=True,
    cuda=12,  # it cannot ask for a driver, and only its newest machines on two of the clouds have one for 13
)
