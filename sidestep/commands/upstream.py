"""Flags of the original Side-Step that are no settings here: what is typed from habit works, or says why not.

Its other spellings of settings are aliases in the schema.
"""

import argparse
import logging
from collections.abc import Iterable

from sidestep.commands.parser import Parser
from sidestep.config.adapter import ATTENTION_MODULES, MLP_MODULES
from sidestep.config.problems import Problem
from sidestep.config.section import split_words
from sidestep.config.sources import Given

log = logging.getLogger(__name__)

TARGETS = ("train", "adapter", "target_modules")

IN_VAIN = {
    "num_workers": ("--num-workers", "tensors are read by the training itself"),
    "prefetch_factor": ("--prefetch-factor", "tensors are read by the training itself"),
    "pin_memory": ("--pin-memory", "tensors are read by the training itself"),
    "persistent_workers": ("--persistent-workers", "tensors are read by the training itself"),
    "yes": ("--yes", "no command asks before it begins"),
}
"""By argparse's names: the flag, and why it changes nothing."""


def add_upstream_flags(parser: Parser) -> None:
    """Give the parser these flags. Help does not show them."""

    def add(*flags: str, **options: object) -> None:
        parser.add_argument(*flags, help=argparse.SUPPRESS, default=None, **options)  # type: ignore[arg-type]

    for flag in ("--num-workers", "--prefetch-factor"):
        add(flag)
    for flag in ("--pin-memory", "--persistent-workers", "--target-mlp"):
        add(flag, action=argparse.BooleanOptionalAction)
    add("--yes", "-y", action="store_true")
    add("--log-dir")


def upstream_flags(options: argparse.Namespace, given: Iterable[Given]) -> tuple[list[Given], list[Problem]]:
    """What these flags say of the spec beside the flags `given`, and what is wrong with them."""
    found = vars(options)
    for name, (flag, why) in IN_VAIN.items():
        if found[name] is not None:
            log.info("%s changes nothing: %s", flag, why)
    problems = []
    if options.log_dir is not None:
        where = "is no setting: TensorBoard's files are in <output_dir>/runs"
        problems.append(Problem("--log-dir", where, "command line"))
    if not options.target_mlp:
        return [], problems
    chosen = next((item.value for item in given if item.path == TARGETS), ATTENTION_MODULES)
    words = split_words(chosen)
    return [Given(TARGETS, [*dict.fromkeys([*words, *MLP_MODULES])], "--target-mlp")], problems
