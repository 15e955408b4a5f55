"""RunPod: a script that looks which GPU is to be had at what price, and makes a pod on the first that fits.

What the script does stands in `rent_runpod`. The API is v2; v1 is being retired, and with it went
`interruptible`: v2 creates on-demand pods alone.
https://docs.runpod.io/api-reference-v2/pods/create-a-pod
"""

import inspect
import json
from typing import Any

from sidestep.platforms import rent_runpod
from sidestep.platforms.disk import IMAGE
from sidestep.platforms.job import Job
from sidestep.platforms.platform import Platform, Rendered
from sidestep.platforms.yaml11 import commented
from sidestep.runtime.errors import Rerun
from sidestep.storage.access import Way

GPUS = (
    "NVIDIA L4",
    "NVIDIA RTX A5000",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA A30",
    "NVIDIA A40",
    "NVIDIA RTX A6000",
    "NVIDIA L40",
    "NVIDIA L40S",
    "NVIDIA RTX 5000 Ada Generation",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA GeForce RTX 5090",
    "NVIDIA RTX PRO 4500 Blackwell",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA A100 80GB PCIe",
    "NVIDIA A100-SXM4-80GB",
    "NVIDIA H100 PCIe",
    "NVIDIA H100 NVL",
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H200",
)
"""Of 24 GB and more, with bf16. https://docs.runpod.io/references/gpu-types"""

MAX_PRICE = 0.8  # $ an hour


def body(job: Job) -> dict[str, Any]:
    """CreatePodRequest, but for the GPU. Credentials are RunPod secrets by name, put in when it starts."""
    secrets = {name: f"{{{{ RUNPOD_SECRET_{name} }}}}" for name in job.secrets}
    return {
        "name": job.machine,
        "image": job.image,
        "args": "run",
        "gpu": {"count": 1, "minCudaVersion": f"{job.cuda}.0"},
        "disk": job.workspace_gib + IMAGE,
        "env": {**job.environment, **secrets},
    }


def render(job: Job) -> Rendered:
    """The script."""
    command = f"python3 {job.file}"
    comment = (
        f"Side-Step: the job {job.spec.name} on RunPod. Submit it, with RUNPOD_API_KEY in the environment:\n"
        f"  {command}\n"
        "MAX_PRICE=0.5 is the most to pay in $ an hour. It takes the cheapest of the GPUs below;\n"
        "GPUS='NVIDIA L4, NVIDIA L40S' takes these in this order, CLOUD=COMMUNITY looks there. It ends\n"
        "with 0 where the pod is made, or was there; with 75 where no GPU is to be had at the moment.\n"
    )
    if job.secrets:
        comment += f"RunPod's secrets {', '.join(job.secrets)} hold the credentials.\n"
    if job.optional_secrets:
        comment += f"Where all is public, {', '.join(job.optional_secrets)} need not be there.\n"
    return Rendered(f"#!/usr/bin/env python3\n{commented(comment)}{_script(job)}", command)


def _script(job: Job) -> str:
    pod = json.dumps(body(job), indent=4, ensure_ascii=False)  # texts, whole numbers: Python reads the same
    gpus = "".join(f"    {json.dumps(gpu)},\n" for gpu in GPUS)
    return f"""\
{inspect.getsource(rent_runpod)}

POD: dict[str, Any] = {pod}
GPUS = [
{gpus}]

if __name__ == "__main__":
    sys.exit(main(POD, GPUS, {job.wishes.max_price or MAX_PRICE}))
"""


PLATFORM = Platform(
    name="runpod",
    suffix=".runpod.py",
    reclaim="an on-demand pod is not reclaimed; a pod that is stopped, and a spot pod (which this API cannot "
    "create) that is outbid: SIGTERM, then SIGKILL",
    notice="5 s",
    grace_seconds=4,
    next_attempt="RunPod, where the container ended in a pod that lives; after a stop **nobody**: start the "
    "pod, or terminate it and run the script again; or rent RunPod through dstack, which does that",
    after={
        Rerun.PERMANENT: "the job has given the machine back",
        Rerun.COUNTED: "the same, also where it was killed or hung",
        Rerun.AGAIN: "starts the container again, without limit",
    },
    brings={Way.VARIABLES: "RunPod secrets with the same names"},
    render=render,
    grants=frozenset({"max_price", "disk"}),
    rented=True,
    gpu_only=True,
)
