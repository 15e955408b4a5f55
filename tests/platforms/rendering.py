"""How the tests of the platforms render: from example specs, or from values, without a command line."""

from pathlib import Path
from typing import Any

from sidestep.config.job import resolve
from sidestep.platforms.job import Job
from sidestep.platforms.platform import Rendered
from sidestep.platforms.render import PLATFORMS, job_for
from sidestep.platforms.wishes import NO_WISHES, Wishes

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "jobs" / "specs"
IMAGE = "registry.example/side-step:1-cuda13"
ON_S3 = {
    "name": "my-lora",
    "checkpoint_dir": "s3://models/ace-step-1.5",
    "audio_dir": "s3://studio/songs",
    "output_dir": "s3://studio/runs/my-lora",
}


def render(
    platform: str,
    values: dict[str, Any] | None = None,
    config: Path | None = None,
    file: str | None = None,
    wishes: Wishes = NO_WISHES,
) -> Rendered:
    """The file for `platform` of these values, or else of the spec in `config`."""
    spec, origins = resolve(arguments=values or {}, config=config, environ={})
    known = PLATFORMS[platform]
    return known.render(job_for(known, spec, origins, IMAGE, file, wishes))


def job(platform: str, values: dict[str, Any], wishes: Wishes = NO_WISHES) -> Job:
    """What a platform is given to render."""
    spec, origins = resolve(arguments=values, environ={})
    return job_for(PLATFORMS[platform], spec, origins, IMAGE, wishes=wishes)
