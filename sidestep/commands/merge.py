"""`sidestep merge`: a weighted sum of adapters, as a LoRA or in a model's weights."""

import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep.commands.adapters import (
    Read,
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
from sidestep.data.sides import Sides
from sidestep.runtime.errors import UsageError
from sidestep.runtime.folders import provide_folders
from sidestep.runtime.lean import import_diffusers
from sidestep.runtime.logs import setup_logging
from sidestep.storage.open import local_path

if TYPE_CHECKING:
    from sidestep.adapters.combine import Part


def add_arguments(parser: Parser) -> None:
    parser.usage = f"{parser.prog} ADAPTER [ADAPTER …] --output PLACE [--into MODEL] [flags]"
    parser.add_argument(
        "adapters", metavar="ADAPTER", nargs="+", help="the adapters: folders, files, or output_dirs"
    )
    parser.add_argument(
        "--output", required=True, metavar="PLACE", help="where to write the LoRA, or the folder of the model"
    )
    parser.add_argument(
        "--into",
        metavar="MODEL",
        help="a model's folder, such as checkpoints/acestep-v15-base: write a copy of it with the adapters "
        "in its weights",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="W",
        help="how much of each adapter: 1,0.5 or 1 0.5 (default: 1 of each); --weights=-1,1 if the first is "
        "negative",
    )
    parser.add_argument(
        "--rank",
        type=rank,
        metavar="N",
        help="without --into: bring the sum to this rank (default: all added)",
    )
    add_model_flags(parser)


def run(call: Call) -> None:
    options = call.options()
    setup_logging()
    given = getattr(options, "given", [])
    weights = parse_weights(options.weights, len(options.adapters))
    places = [with_place(given, place, call.parser.prog)[1] for place in options.adapters]
    spec, output = with_place(given, options.output, "--output")
    if options.into is None:
        sum_up(spec, places, weights, output, options.rank, offline=options.offline)
        return
    if options.rank or options.offline:
        raise UsageError("--rank and --offline mean nothing with --into: the model's weights are changed")
    if (folder := local_path(output)) is None:
        raise UsageError(f"--output {output} is a URI: a model is written to a local folder")
    parent, slash, variant = with_place(given, options.into, "--into")[1].rpartition("/")
    model = spec.changed({"checkpoint_dir": parent or slash or ".", "model_variant": variant})
    merge_into(model, places, weights, folder.absolute())


def parse_weights(words: Sequence[str] | None, adapters: int) -> list[float]:
    """A weight for each of so many adapters. Raises UsageError for another number of them, or no number."""
    if words is None:
        return [1.0] * adapters
    said = f"--weights {' '.join(words)}"
    try:
        weights = [float(text) for word in words for text in word.split(",") if text.strip()]
    except ValueError as error:
        raise UsageError(f"{said}: these are no numbers, as in --weights 1,0.5") from error
    if len(weights) != adapters or not all(map(math.isfinite, weights)):
        raise UsageError(f"{said}: there must be a finite number for each of {adapters} adapters")
    return weights


def sum_up(
    spec: JobSpec,
    places: Sequence[str],
    weights: Sequence[float],
    output: str,
    wanted: int | None,
    *,
    offline: bool,
) -> None:
    """Write the LoRA of Σ weight · adapter, of rank `wanted`, or of all their ranks added.

    Raises UsageError where there is none, and what reading the adapters raises.
    """
    config = _begin(spec, offline=offline)
    from sidestep.acestep.loading import shapes_alone
    from sidestep.adapters import publish
    from sidestep.adapters.combine import summed_lora

    read = _read(spec, places, config)
    target, note = open_target(output, spec), made_of(read, weights, wanted)
    if is_made(target, note):
        return
    made = summed_lora(_parts(read, weights), shapes_alone(config), wanted)
    known = [one.sides for one, weight in zip(read, weights, strict=True) if weight and one.sides]
    sides = reduce(Sides.joined, known) if known else None
    files = with_facts(with_sides(publish(made), sides), facts_of_made(made, read, weights))
    write_adapter(files, note, target)


def merge_into(spec: JobSpec, places: Sequence[str], weights: Sequence[float], output: Path) -> None:
    """Write a copy of the model that `spec` names, with Σ weight · adapter in its weights."""
    config = _begin(spec, offline=False)
    from sidestep.tasks import merge

    merge.merge_into(spec, _parts(_read(spec, places, config), weights), output)


def _begin(spec: JobSpec, *, offline: bool) -> dict[str, Any]:
    """The model's configuration, once all is there to read adapters with."""
    provide_folders(spec.runtime.workspace)
    import_diffusers()
    from sidestep.acestep.releases import config_of

    return config_of(spec, offline=offline)


def _read(spec: JobSpec, places: Sequence[str], config: dict[str, Any]) -> list[Read]:
    return [read_adapter(spec, place, config) for place in places]


def _parts(adapters: Sequence[Read], weights: Sequence[float]) -> "list[Part]":
    from sidestep.adapters.combine import Part

    return [
        Part(read.adapter, weight, read.place, read.digest)
        for read, weight in zip(adapters, weights, strict=True)
    ]
