"""The command `sidestep render`: a spec and a place become a file and the command that submits it."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sidestep.config.fields import Path as FieldPath
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.config.sources import IMAGE_VARIABLE, FileLine
from sidestep.platforms import docker, dstack, helm, kubernetes, runpod, skypilot, slurm, vast
from sidestep.platforms.image import image_reference
from sidestep.platforms.job import Job, local_places, places
from sidestep.platforms.platform import Place, Rendered
from sidestep.platforms.release import ON_EXIT
from sidestep.runtime.atomic import replacing
from sidestep.runtime.errors import AccessError, UsageError

PLACES: dict[str, Place] = {
    module.PLACE.name: module.PLACE
    for module in (docker, kubernetes, helm, skypilot, runpod, vast, dstack, slurm)
}
GRACE = ("runtime", "grace_seconds")
OF_THIS_MACHINE = ("runtime", "workspace")  # the image has its own


def add_render_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Give the parser what the command takes beside the flags of the spec; returns its flags."""
    parser.add_argument("place", metavar="PLACE", help=f"where the job is to run: {', '.join(PLACES)}")
    group = parser.add_argument_group("render")
    flags = [
        group.add_argument(
            "--image",
            metavar="REFERENCE",
            help=f"the image to run; else {IMAGE_VARIABLE} names it, else it is {image_reference(None, {})}",
        ),
        group.add_argument("--output", metavar="FILE", help="write the file there instead of showing it"),
    ]
    return [option for flag in flags for option in flag.option_strings]


def render(
    options: argparse.Namespace, spec: JobSpec, origins: Mapping[str, str], write: Callable[[str], None]
) -> None:
    """Write the file for `options.place` to --output or through `write`, and the command to standard error.

    Raises UsageError for a place that is not known, or that the spec does not suit.
    """
    place = _place(options.place)
    config, _ = _spec_file(origins)
    if options.output and config and Path(options.output).resolve() == Path(config).resolve():
        raise UsageError(f"--output {options.output} is the spec's own file: name another one")
    rendered = rendered_for(place, spec, origins, image_reference(options.image), options.output)
    if options.output:
        _save(Path(options.output), rendered.text)
        how = "Submit it with"
    else:
        write(rendered.text)
        how = f"Save this as {default_file(place, spec)}, and submit it with"
    sys.stderr.write(f"{how}:\n  {rendered.command}\n")


def rendered_for(
    place: Place, spec: JobSpec, origins: Mapping[str, str], image: str, file: str | None = None
) -> Rendered:
    """What `place` takes to run `spec`. `file` is the name it will have, by default the spec's own name.

    `origins` are `resolve`'s: what nobody said is left to the image, and so is the workspace. The place adds
    what it has to: not more time to save than it leaves, and that its machine is given back.
    """
    given = {path: value for path, value in said(spec, origins).items() if path != OF_THIS_MACHINE}
    added: dict[FieldPath, Any] = {}
    if place.local_paths:  # a path means the same in the container
        added |= {path: str(folder) for path, folder in local_places(spec).items()}
    if place.grace_seconds is not None:
        added[GRACE] = min(place.grace_seconds, spec.runtime.grace_seconds)
    if place.rented and ON_EXIT not in given:
        added[ON_EXIT] = "terminate"
    config, from_config = _spec_file(origins)
    job = Job(
        _with(spec, added),
        {**given, **added},
        image,
        shlex.quote(file or default_file(place, spec)),
        config,
        from_config - added.keys(),
    )
    _check_suits(place, job)
    return place.render(job)


def said(spec: JobSpec, origins: Mapping[str, str]) -> dict[FieldPath, Any]:
    """What of the spec somebody said, in plain values; the rest are defaults."""
    plain: dict[FieldPath, Any] = {(): spec.model_dump(mode="json")}
    for path in spec_fields():
        for depth in range(1, len(path) + 1):
            plain[path[:depth]] = plain[path[: depth - 1]][path[depth - 1]]
    return {path: plain[path] for path, field in spec_fields().items() if origins[field.name] != "default"}


def default_file(place: Place, spec: JobSpec) -> str:
    """The rendered file's name where nobody names it: my-lora.dstack.yml."""
    return f"{spec.name}{place.suffix}"


def _place(name: str) -> Place:
    if name in PLACES:
        return PLACES[name]
    close = difflib.get_close_matches(name.lower(), PLACES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PLACES)}"
    raise UsageError(f"{name!r} is no place that jobs are rendered for; {hint}")


def _check_suits(place: Place, job: Job) -> None:
    """Raise UsageError with everything of the spec that cannot be had at the place."""
    problems = []
    if not place.local_paths and (local := local_places(job.spec)):
        shown = ", ".join(f"{'.'.join(path)} = {places(job.spec)[path]}" for path in local)
        problems.append(
            f"its machines have none of this machine's folders: {shown}. "
            "Name places that they reach, such as s3://bucket/folder"
        )
    if place.gpu_only and not job.wants_gpu:
        problems.append("it rents GPUs, and runtime.device is cpu")
    if not place.rented and job.spec.runtime.on_exit != "none":
        rented = " and ".join(name for name, other in PLACES.items() if other.rented)
        problems.append(f"runtime.on_exit = {job.spec.runtime.on_exit} is for machines of {rented} alone")
    if problems:
        raise UsageError(
            "\n".join([f"the spec does not suit {place.name}", *(f"  {one}" for one in problems)])
        )


def _with(spec: JobSpec, values: Mapping[FieldPath, Any]) -> JobSpec:
    plain = spec.model_dump(mode="json")
    for (*sections, name), value in values.items():
        section = plain
        for key in sections:
            section = section[key]
        section[name] = value
    return JobSpec.model_validate(plain)


def _spec_file(origins: Mapping[str, str]) -> tuple[str | None, frozenset[FieldPath]]:
    """The spec's own file, if it has one, and what it says."""
    files = {tuple(name.split(".")): at.file for name, at in origins.items() if isinstance(at, FileLine)}
    return next(iter(files.values()), None), frozenset(files)


def _save(file: Path, text: str) -> None:
    try:
        with replacing(file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AccessError(f"{file} cannot be written: {error.strerror}") from None
