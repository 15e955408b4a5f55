"""`sidestep resize`: an adapter as a LoRA of another rank."""

import logging

from sidestep.commands.adapters import (
    add_model_flags,
    facts_of_made,
    is_made,
    made_of,
    open_target,
    rank,
    read_adapter,
    with_facts,
    with_place,
    with_sides,
    write_adapter,
)
from sidestep.commands.command import Call
from sidestep.commands.parser import Parser
from sidestep.config.job import JobSpec
from sidestep.lifecycle.adapter_files import SUFFIX
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging

log = logging.getLogger(__name__)


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} ADAPTER --rank N [flags]"
    parser.add_argument(
        "adapter", metavar="ADAPTER", help="the adapter: its folder or file, or an output_dir"
    )
    parser.add_argument("--rank", required=True, type=rank, metavar="N", help="the rank to bring it to")
    parser.add_argument(
        "--output", metavar="PLACE", help="where to write the new one (default: ADAPTER-rankN, beside it)"
    )
    add_model_flags(parser)


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    given = getattr(options, "given", [])
    spec, place = with_place(given, options.adapter, call.parser.prog)
    output = options.output or f"{place.removesuffix(SUFFIX)}-rank{options.rank}"
    resize(spec, place, options.rank, with_place(given, output, "--output")[1], offline=options.offline)


def resize(spec: JobSpec, place: str, wanted: int, output: str, *, offline: bool) -> None:
    """Write the nearest LoRA of rank `wanted` to the adapter at `place`, at most of a weight's own size.

    Raises what finding and reading the adapter raises, UsageError where it has no such LoRA.
    """
    provide_folders(spec.runtime.workspace)
    import_diffusers()
    from sidestep.acestep.loading import shapes_alone
    from sidestep.acestep.releases import config_of
    from sidestep.adapters import publish
    from sidestep.adapters.combine import resized_lora

    config = config_of(spec, offline=offline)
    read = read_adapter(spec, place, config)
    target, note = open_target(output, spec), made_of([read], [1.0], wanted)
    if is_made(target, note):
        return
    made = resized_lora(read.adapter, wanted, shapes_alone(config), read.place)
    files = with_facts(with_sides(publish(made), read.sides), facts_of_made(made, [read], [1.0]))
    write_adapter(files, note, target)
