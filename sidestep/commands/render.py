"""`sidestep render`: the file that runs a job on a platform, and the command that submits it."""

import argparse
import logging
import re
import sys
from pathlib import Path

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job
from sidestep.commands.parser import Parser, whole
from sidestep.config.presets import write_file
from sidestep.config.processes import said_of_idle
from sidestep.config.sources import IMAGE_VARIABLE
from sidestep.platforms.image import image_reference
from sidestep.platforms.platform import Platform
from sidestep.platforms.render import PLATFORMS, default_file, job_for, spec_file
from sidestep.platforms.wishes import SPOT, Wishes
from sidestep.runtime.console import write
from sidestep.runtime.driver import OLDEST_DRIVER
from sidestep.runtime.errors import UsageError
from sidestep.runtime.shown import shown
from sidestep.runtime.words import did_you_mean

log = logging.getLogger(__name__)

LEAST_DISK, MOST_DISK = 10, 16_000  # GiB


def add_arguments(parser: Parser) -> None:
    place = parser.add_argument(
        "place", metavar="PLACE", help=f"where the job is to run: {', '.join(PLATFORMS)}"
    )
    parser.offers[place] = lambda: PLATFORMS
    group = parser.add_argument_group("render")
    group.add_argument(
        "--image",
        metavar="REFERENCE",
        help=f"the image to run (default: {IMAGE_VARIABLE}, or {image_reference(None, 13, {})})",
    )
    drivers = ", ".join(
        f"{cuda} for NVIDIA drivers from {driver} on" for cuda, driver in OLDEST_DRIVER.items()
    )
    group.add_argument(
        "--cuda",
        type=int,
        choices=sorted(OLDEST_DRIVER),
        help=f"the CUDA of the image: {drivers} (default: as the image's tag says, else 13; 12 for "
        f"{', '.join(name for name, platform in PLATFORMS.items() if platform.cuda == 12)})",
    )
    group.add_argument(
        "--max-price",
        metavar="X",
        type=_price,
        help=f"the most that a machine may cost, in $ an hour ({_granting('max_price')})",
    )
    group.add_argument(
        "--spot",
        choices=SPOT,
        help="spot machines only; preferred, with machines on demand where there are none; or never "
        f"({_granting('spot')})",
    )
    group.add_argument(
        "--keep-codes",
        action="store_true",
        default=None,
        help="do not turn permanent exit codes into 0 for a platform that would try them again "
        f"({_granting('keep_codes')})",
    )
    group.add_argument(
        "--disk",
        metavar="GIB",
        type=whole(LEAST_DISK, MOST_DISK),
        help="the workspace's disk, in place of what model, adapter and a thousand songs take "
        f"({_granting('disk')})",
    )
    group.add_argument("--output", metavar="FILE", help="write to this file, not to the screen")
    add_job_flags(parser, "PLACE [JOB.YAML] [flags]")


def run(call: Call) -> None:
    """Write the file to --output or to standard output, and the command to standard error.

    Raises UsageError for a platform that is not known, or that cannot be asked for what flags want of it;
    BadSpecError where the spec does not suit it; AccessError where the file cannot be written.
    """
    platform = _platform(call)
    options, spec, origins = read_job(call)
    config, _ = spec_file(origins)
    if options.output and config and Path(options.output).resolve() == Path(config).resolve():
        raise UsageError(f"--output {options.output} is the spec's own file: name another one")
    wishes = Wishes(options.max_price, options.spot, options.keep_codes, options.disk)
    image = image_reference(options.image, options.cuda or platform.cuda)
    job = job_for(platform, spec, origins, image, options.output, wishes, options.cuda)
    rendered = platform.render(job)
    if options.output:
        write_file(Path(options.output), rendered.text, replace=True)
        how = "Submit it with"
    else:
        write(rendered.text, exactly=True)
        how = f"Save this as {default_file(platform, spec)}, and submit it with"
    sys.stderr.write(shown(f"{how}:\n  {rendered.command}\n"))
    if idle := said_of_idle(job.spec.train, job.nodes * job.gpus):
        log.warning("%s", idle)


def _platform(call: Call) -> Platform:
    """That of the command line, which is looked at before the spec is."""
    place = call.parser.parse_known_args(call.words)[0].place
    if place not in PLATFORMS:
        hint = did_you_mean(place, PLATFORMS)
        raise UsageError(f"{place!r} is not a platform that jobs are rendered for; {hint}")
    return PLATFORMS[place]


def _granting(wish: str) -> str:
    return ", ".join(name for name, platform in PLATFORMS.items() if wish in platform.grants)


def _price(text: str) -> float:
    """Raises ArgumentTypeError for what is no price."""
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no price in $ an hour, such as 0.8")
    return float(text)
