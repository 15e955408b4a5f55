"""RunPod: the body of the REST call that creates a pod, and the curl line that sends it.

The API is v2; v1 is being retired, and with it went `interruptible`: v2 creates on-demand pods alone.
https://docs.runpod.io/api-reference-v2/pods/create-a-pod
"""

import json
from typing import Any

from sidestep.platforms.job import DISK_GB, Job
from sidestep.platforms.platform import Platform, Rendered

API = "https://api.runpod.io/v2"
GPU = "NVIDIA GeForce RTX 4090"  # 24 GB; GET /v2/catalog/gpus lists the others
MIN_CUDA = "13.0"


def body(job: Job) -> dict[str, Any]:
    """CreatePodRequest. Credentials are RunPod secrets by name, put in when the pod starts."""
    secrets = {name: f"{{{{ RUNPOD_SECRET_{name} }}}}" for name in job.secrets}
    return {
        "name": f"sidestep-{job.label}",
        "image": job.image,
        "args": "run",
        "cloud": "SECURE",
        "gpu": {"id": GPU, "count": 1, "minCudaVersion": MIN_CUDA},
        "disk": DISK_GB,
        "env": {**job.environment, **secrets},
    }


def render(job: Job) -> Rendered:
    """The body as JSON, and curl."""
    command = (
        f"curl --fail-with-body -X POST {API}/pods "
        f'-H "Authorization: Bearer $RUNPOD_API_KEY" -H "Content-Type: application/json" -d @{job.file}'
    )
    return Rendered(json.dumps(body(job), indent=2, ensure_ascii=False) + "\n", command)


PLATFORM = Platform(
    name="runpod",
    suffix=".json",
    reclaim="an on-demand pod is not reclaimed; a pod that is stopped, and a spot pod (which this API cannot "
    "create) that is outbid: SIGTERM, then SIGKILL",
    notice="5 s",
    grace_seconds=4,
    next_attempt="RunPod, where the container ended in a pod that lives; after a stop **nobody**: send the "
    "call again, or rent RunPod through dstack, which does that",
    render=render,
    rented=True,
    gpu_only=True,
)
