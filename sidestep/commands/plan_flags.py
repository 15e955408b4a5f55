"""What `sidestep plan` takes beside the flags of the spec."""

import argparse
import re


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
            "--fit",
            type=size_in_bytes,
            metavar="SIZE",
            help="say the cheapest changes with which the job fits a GPU: 12GB, 11.5GiB",
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


def size_in_bytes(text: str) -> float:
    """12GB, 12 G or 11.5GiB as bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G)", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 12GB or 11.5GiB")
    return float(found[1]) * (2**30 if found[2].lower() == "gib" else 1e9)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 999999")
    return int(text)


def _positive(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, such as 2.5")
    return float(text)
