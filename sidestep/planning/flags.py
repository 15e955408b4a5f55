"""What `sidestep plan` takes beside the flags of the spec."""

import argparse
from math import isfinite


def add_plan_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Give the parser these flags, as a group of their own; returns them."""
    group = parser.add_argument_group("plan")
    flags = [
        group.add_argument("--check-only", action="store_true", help="check, and stop there"),
        group.add_argument(
            "--elsewhere",
            action="store_true",
            help="the job is to run on another machine: leave this one's GPU, driver and disk out",
        ),
        group.add_argument(
            "--offline",
            action="store_true",
            help="look at nothing: the released models' configurations are built in, the songs are assumed",
        ),
        group.add_argument(
            "--songs", type=_count, default=20, metavar="N", help="with --offline: songs (default: 20)"
        ),
        group.add_argument(
            "--song-seconds",
            type=_positive,
            default=180.0,
            metavar="X",
            help="with --offline: seconds of each song (default: 180)",
        ),
        group.add_argument(
            "--fit", metavar="SIZE", help="the cheapest changes with which it fits a GPU: 12GB, 11.5GiB"
        ),
        group.add_argument(
            "--hours-between-preemptions",
            type=_positive,
            metavar="X",
            help="how long a machine is kept on the average, where it may be taken away",
        ),
        group.add_argument("--json", action="store_true", help="print JSON, for scripts"),
    ]
    return [option for flag in flags for option in flag.option_strings]


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise ValueError
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not (isfinite(number) and 0 < number <= 100_000):
        raise ValueError
    return number
