"""The files of jobs/ that are rendered from jobs/specs/. As a command, `make jobs`, it writes them."""

from collections.abc import Iterator
from pathlib import Path

from sidestep.config.job import resolve
from sidestep.config.sources import FileLine
from sidestep.platforms.image import image_reference
from sidestep.platforms.render import PLATFORMS, job_for
from tests.platforms.rendering import ROOT


def rendered_files() -> Iterator[tuple[Path, str]]:
    """Path from the repository's root, and content, of each: the pipeline on every platform."""
    for platform in PLATFORMS.values():
        for where in ("s3", "local") if platform.local_paths else ("s3",):
            suffix = "" if where == "s3" else "-local"
            file = Path("jobs", platform.name, f"pipeline{suffix}{platform.suffix}")
            config = Path("jobs", "specs", where, "pipeline.yaml")
            spec, origins = resolve(config=ROOT / config, environ={})
            origins = {
                name: FileLine(str(config), line=1) if isinstance(origin, FileLine) else origin
                for name, origin in origins.items()
            }
            image = image_reference(None, platform.cuda, {})
            yield file, platform.render(job_for(platform, spec, origins, image, str(file))).text


if __name__ == "__main__":
    for file, text in rendered_files():
        (ROOT / file).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / file).write_text(text, encoding="utf-8")
