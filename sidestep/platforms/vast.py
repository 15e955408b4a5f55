"""Vast.ai: a script that finds the cheapest fitting offer and rents it, interruptible, in args mode.

https://docs.vast.ai/cli/reference/search-offers, https://docs.vast.ai/cli/reference/create-instance
"""

import shlex

from sidestep.platforms.job import DISK_GB, GPU_MEMORY_GB, Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import UsageError

MIN_CUDA = "13.0"
QUERY = (
    f"num_gpus=1 gpu_ram>={GPU_MEMORY_GB} cuda_max_good>={MIN_CUDA} disk_space>={DISK_GB} "
    "reliability>0.98 inet_down>=200"
)


def environment(job: Job) -> str:
    """`-e NAME=value …` for vastai's option --env, which splits at spaces that are not in quotes."""
    for name, value in job.environment.items():
        if set("'\"") & set(value):
            raise UsageError(f"{name} = {value!r}: vastai cannot pass on a value with a quote in it")
    return " ".join(
        f'-e {name}="{value}"' if " " in value else f"-e {name}={value}"
        for name, value in job.environment.items()
    )


def render(job: Job) -> Rendered:
    """The script. Credentials are the Vast account's own environment variables, by name."""
    command = f"bash {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on Vast.ai. Submit it, with the most to pay in $ an hour:\n"
        f"  MAX_PRICE=0.40 {command}\n"
        "Needs vastai (pip install vastai; vastai set api-key …) and python3.\n"
    )
    if job.secrets:
        comment += "The credentials, once: Vast gives the account's variables to every instance.\n" + "".join(
            f'  vastai create env-var {name} "${name}"\n' for name in job.secrets
        )
    return Rendered(f"#!/usr/bin/env bash\n{commented(comment)}{_script(job)}", command)


def _script(job: Job) -> str:
    return f"""\
set -euo pipefail
: "${{MAX_PRICE:=0.40}}"

# The cheapest interruptible offer, and a bid a tenth above the least that it takes.
query={shlex.quote(QUERY)}
pick='
import json, sys
for offer in json.load(sys.stdin)[:1]:
    print(offer["id"], round(offer["min_bid"] * 1.1, 4))
'
found=$(vastai search offers "$query" --type bid --order dph_total --storage {DISK_GB} --limit 1 --raw)
offer=$(python3 -c "$pick" <<<"$found")
if [[ -z "$offer" ]]; then
    echo "Vast.ai has no such machine at the moment: $query" >&2
    exit 1
fi
read -r id bid <<<"$offer"
if ! python3 -c 'import sys; sys.exit(float(sys.argv[1]) > float(sys.argv[2]))' "$bid" "$MAX_PRICE"; then
    echo "The cheapest machine takes a bid of \\$$bid an hour, more than MAX_PRICE=$MAX_PRICE." >&2
    exit 1
fi
echo "Renting offer $id for \\$$bid an hour" >&2
exec vastai create instance "$id" --bid_price "$bid" --disk {DISK_GB} --label {shlex.quote(job.label)} \\
    --image {shlex.quote(job.image)} \\
    --env {shlex.quote(environment(job))} \\
    --args run
"""


PLATFORM = Platform(
    name="vast",
    suffix=".vast.sh",
    reclaim="stops the container when it is outbid",
    notice="none: what was not saved is done again, so `train.checkpoint.every_minutes` says what is lost",
    grace_seconds=4,
    next_attempt="Vast, on the same machine, once the bid wins again; where it does not, **nobody**: destroy "
    "the instance and run the script again, with a higher MAX_PRICE",
    render=render,
    rented=True,
    gpu_only=True,
)
