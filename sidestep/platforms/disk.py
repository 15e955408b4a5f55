"""How much disk a job is asked to have, from what the spec says of its model and adapter.

Only what a plan would read from the places themselves is assumed: how large the songs are.
"""

import math
from typing import Any

from sidestep.acestep.layout import ALIASES
from sidestep.config.job import JobSpec
from sidestep.config.sweep import members_of

SMALL_MODELS = sorted(
    name for alias, folder in ALIASES.items() if not alias.startswith("xl-") for name in (alias, folder)
)
"""Values of `model_variant` that name a released 2B model, in bf16. Others may be XL, in fp32."""

SMALL_MODEL, LARGE_MODEL = 8, 24
"""Of the model with its encoders, in GiB."""

CHECKPOINTS = 3
"""Of two checkpoints on their way to the output, in GiB, for each 64 of a LoRA's rank. A LoKR's are small."""

SONGS = 13
"""Of songs, tensors and logs, in GiB: a thousand songs of four minutes, as MP3."""


IMAGE = 12
"""Of the image, unpacked, in GiB: where the disk that is asked for holds it too."""

MACHINE = 50
"""Of what is on a cloud's own machine image: the system, the driver, CUDA, Docker; and of the image as it is
pulled, in GiB."""


def workspace_gib(spec: JobSpec) -> int:
    """The workspace's disk in GiB; of a sweep, that of the run that needs the most."""
    if spec.is_sweep:
        return max(workspace_gib(member.spec) for member in members_of(spec))
    model = SMALL_MODEL if spec.model_variant in SMALL_MODELS else LARGE_MODEL
    adapter = spec.train.adapter
    parts = math.ceil(adapter.rank / 64) if adapter.type == "lora" else 1
    return model + CHECKPOINTS * parts + SONGS


def chart_sizes() -> dict[str, Any]:
    """The same numbers for the chart, which does the same sum."""
    return {
        "smallModels": SMALL_MODELS,
        "smallModel": SMALL_MODEL,
        "largeModel": LARGE_MODEL,
        "checkpoints": CHECKPOINTS,
        "songs": SONGS,
    }
