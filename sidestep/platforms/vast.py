"""Vast.ai: a script that finds the cheapest fitting machine and rents it, interruptible, in args mode.

What the script does stands in `rent_vast`.
"""

import inspect

from sidestep.platforms import rent_vast
from sidestep.platforms.disk import IMAGE
from sidestep.platforms.job import COMPUTE_CAPABILITY, GPU_MEMORY_GB, MEMORY_GB, Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import BadSpecError, Rerun
from sidestep.storage.access import Way

MAX_PRICE = 0.4  # $ an hour
HOURS = 24  # that the machine is to be had for, where the job has no max_hours
LEAST_DOWN, LEAST_UP = 200, 50  # Mb/s: models and songs come, checkpoints go
MOST_PER_GB = 0.02  # $ for traffic: a model is 6 to 20 GB, and each attempt on a new machine pulls it


def query(job: Job) -> str:
    """What the machine must have. https://docs.vast.ai/cli/reference/search-offers has the fields.

    vastai takes the memories in GB and the duration in days; a compute capability of 8.0 is 800. The driver
    has to run the image's CUDA: any release of its major version.
    """
    hours = job.spec.runtime.max_hours or HOURS
    return (
        f"num_gpus=1 gpu_arch=nvidia compute_cap>={COMPUTE_CAPABILITY * 100:.0f} gpu_ram>={GPU_MEMORY_GB} "
        f"cuda_max_good>={job.cuda}.0 cpu_arch=amd64 cpu_ram>={MEMORY_GB} disk_space>={disk(job)} "
        f"duration>={hours / 24:.4g} reliability>0.98 inet_down>={LEAST_DOWN} inet_up>={LEAST_UP} "
        f"inet_down_cost<={MOST_PER_GB} inet_up_cost<={MOST_PER_GB}"
    )


def disk(job: Job) -> int:
    """In GB. The image is on it too."""
    return job.workspace_gib + IMAGE


def environment(job: Job) -> str:
    """`-e NAME=value …` for vastai's option --env, which splits at spaces that are not in quotes."""
    for name, value in job.environment.items():
        if set("'\"") & set(value):
            raise BadSpecError(f"{name} = {value!r}: vastai cannot pass on a value with a quote in it")
    return " ".join(
        f'-e {name}="{value}"' if " " in value else f"-e {name}={value}"
        for name, value in job.environment.items()
    )


def render(job: Job) -> Rendered:
    """The script. Credentials are the Vast account's own environment variables, by name."""
    command = f"python3 {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on Vast.ai. Submit it:\n  {command}\n"
        "MAX_PRICE=0.5 is the most to pay in $ an hour, for GPU and disk. It ends with 0 where the machine\n"
        "is rented, or was; with 75 where there is none at the moment.\n"
    )
    if job.secrets:
        comment += "The credentials, once: Vast gives the account's variables to every instance.\n" + "".join(
            f'  vastai create env-var {name} "${name}"\n' for name in job.secrets
        )
    if job.optional_secrets:
        comment += f"Where all is public, {', '.join(job.optional_secrets)} need not be there.\n"
    return Rendered(f"#!/usr/bin/env python3\n{commented(comment)}{_script(job)}", command)


def _script(job: Job) -> str:
    return f"""\
{inspect.getsource(rent_vast)}

if __name__ == "__main__":
    sys.exit(
        main(
            label={job.machine!r},
            query={query(job)!r},
            disk={disk(job)},
            memory={MEMORY_GB * 1000},
            image={job.image!r},
            env={environment(job)!r},
            price={job.wishes.max_price or MAX_PRICE},
        )
    )
"""


PLATFORM = Platform(
    name="vast",
    suffix=".vast.py",
    reclaim="stops the container when it is outbid",
    notice="none: what was not saved is done again, so `train.checkpoint.every_minutes` says what is lost",
    grace_seconds=4,
    next_attempt="Vast, on the same machine, once the bid wins again; where it does not, **nobody**: raise "
    "the bid, or destroy the instance and run the script again",
    after={
        Rerun.PERMANENT: "the job has given the machine back",
        Rerun.COUNTED: "the same, also where it was killed or hung",
        Rerun.AGAIN: "starts the container again, once the bid wins",
    },
    brings={Way.VARIABLES: "the account's environment variables, which every instance gets"},
    render=render,
    grants=frozenset({"max_price", "disk"}),
    rented=True,
    gpu_only=True,
)
