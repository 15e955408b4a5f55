"""`sidestep render`: the file that runs a job on a platform, and the command that submits it."""

import sys
from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job
from sidestep.commands.parser import Parser
from sidestep.config.presets import write_file
from sidestep.config.sources import IMAGE_VARIABLE
from sidestep.platforms.image import image_reference
from sidestep.platforms.render import PLATFORMS, default_file, rendered_for, spec_file
from sidestep.runtime.console import write
from sidestep.runtime.errors import UsageError
from sidestep.runtime.shown import shown
from sidestep.runtime.words import did_you_mean


def add_arguments(parser: Parser) -> None:
    place = parser.add_argument(
        "place", metavar="PLACE", help=f"where the job is to run: {', '.join(PLATFORMS)}"
    )
    parser.offers[place] = lambda: PLATFORMS
    group = parser.add_argument_group("render")
    group.add_argument(
        "--image",
        metavar="REFERENCE",
        help=f"the image to run (default: {IMAGE_VARIABLE}, or {image_reference(None, {})})",
    )
    group.add_argument("--output", metavar="FILE", help="write to this file, not to the screen")
    add_job_flags(parser, "PLACE [JOB.YAML] [flags]")


def run(call: Call) -> None:
    """Write the file to --output or to standard output, and the command to standard error.

    Raises UsageError for a platform that is not known, or that the spec does not suit; AccessError where the
    file cannot be written.
    """
    options, spec, origins = read_job(call)
    platform = PLATFORMS.get(options.place)
    if platform is None:
        hint = did_you_mean(options.place, PLATFORMS)
        raise UsageError(f"{options.place!r} is not a platform that jobs are rendered for; {hint}")
    config, _ = spec_file(origins)
    if options.output and config and Path(options.output).resolve() == Path(config).resolve():
        raise UsageError(f"--output {options.output} is the spec's own file: name another one")
    rendered = rendered_for(platform, spec, origins, image_reference(options.image), options.output)
    if options.output:
        write_file(Path(options.output), rendered.text, replace=True)
        how = "Submit it with"
    else:
        write(rendered.text, exactly=True)
        how = f"Save this as {default_file(platform, spec)}, and submit it with"
    sys.stderr.write(shown(f"{how}:\n  {rendered.command}\n"))
