"""What `sidestep plan` takes beside the flags of the spec."""

import argparse


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
        group.add_argument("--json", action="store_true", help="print JSON, for scripts"),
    ]
    return [option for flag in flags for option in flag.option_strings]
