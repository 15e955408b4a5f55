"""What the commands that read and write adapters have in common: their flags, and both ways of a file."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sidestep.commands.flags import add_flags
from sidestep.commands.parser import Parser, whole
from sidestep.config.adapter_files import APP_LORA, APP_LORA_CONFIG
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec, resolve
from sidestep.config.sources import Given
from sidestep.data.card import Facts, facts_in, joined
from sidestep.data.card import Part as MadeOf
from sidestep.data.sides import Sides, sides_in
from sidestep.lifecycle.adapter_files import (
    SUFFIX,
    AdapterFiles,
    digest_of,
    find_adapter,
    header_of,
)
from sidestep.report.card import CARD, README, Card, card_bytes, readme_bytes
from sidestep.report.readers import readers_of
from sidestep.runtime.canonical import with_metadata
from sidestep.runtime.errors import UsageError
from sidestep.runtime.tensorfiles import read_metadata
from sidestep.runtime.workspace import open_workspace
from sidestep.storage.open import open_store
from sidestep.storage.store import Store

if TYPE_CHECKING:
    from sidestep.adapters import Adapter

log = logging.getLogger(__name__)

READ = {"checkpoint_dir", "model_variant", "base_model", "storage"}
"""The parts of the spec that these commands read: which model it is, and how s3:// is reached."""
RANK_AT_MOST = 4096  # as in the schema
MADE_OF = "sidestep_made_of"  # in the header of an adapter that was made of others
WORKSPACE = ("runtime", "workspace")  # where an adapter is downloaded to


def add_model_flags(parser: Parser) -> None:
    """Flags of the model that an adapter is for."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="read no checkpoint: use the released models' built-in configurations",
    )
    add_flags(parser, leave_out=[path for path in spec_fields() if path[0] not in READ and path != WORKSPACE])


def with_place(given: list[Given], place: str, origin: str) -> tuple[JobSpec, str]:
    """The spec, and `place` as it is once it is checked like a place of the spec."""
    spec, _ = resolve(flags=[*given, Given(("output_dir",), place, origin)], needs_places=False)
    return spec, spec.output_place.rstrip("/")


class Read(NamedTuple):
    """An adapter that was read."""

    adapter: "Adapter"
    place: str  # where exactly it is
    digest: str
    sides: Sides | None  # which songs were held out of its training; None: none was
    facts: Facts  # what it says of itself, or what can be told from its files


def read_adapter(spec: JobSpec, place: str, config: dict[str, Any]) -> Read:
    """The adapter at `place`, on a model of `config` without weights.

    Raises what finding and loading it raises.
    """
    from sidestep import adapters
    from sidestep.acestep.loading import shapes_alone
    from sidestep.adapters.describe import shape_of

    found = find_adapter(place, spec.storage)
    weights = found.pull(open_workspace(spec.runtime.workspace))
    adapter = adapters.load(shapes_alone(config), weights)
    said = facts_in(read_metadata(weights), found.place)
    return Read(
        *(adapter, found.place, digest_of(weights), sides_of(weights)), said or Facts(**shape_of(adapter))
    )


def sides_of(weights: Path) -> Sides | None:
    """Which songs were held out of the training of an adapter, by its file; None where none was."""
    return sides_in(read_metadata(weights), str(weights))


def with_sides(files: Mapping[str, bytes], sides: Sides | None) -> dict[str, bytes]:
    """The files of an adapter that was made of others, whose held-out songs `sides` are."""
    return _with_texts(files, sides.as_metadata()) if sides else dict(files)


def with_own_facts(files: Mapping[str, bytes], weights: Path) -> dict[str, bytes]:
    """The files of an adapter in another form, with what its own file says of it."""
    facts = facts_in(read_metadata(weights), str(weights))
    return _with_texts(files, facts.as_metadata()) if facts else dict(files)


def with_facts(files: Mapping[str, bytes], facts: Facts) -> dict[str, bytes]:
    """The files with the facts in their headers, and the card that tells them beside."""
    said = _with_texts(files, facts.as_metadata())
    card = Card("", facts, sorted(said), readers_of(sorted(said), {}))  # what is made of others is a LoRA
    return {**said, CARD: card_bytes(card), README: readme_bytes(card)}


def facts_of_made(made: "Adapter", adapters: Sequence[Read], weights: Sequence[float]) -> Facts:
    """What is known of an adapter that was made of others."""
    from sidestep.adapters.describe import shape_of

    parts = [
        (read.facts, MadeOf(sha256=read.digest, weight=weight))
        for read, weight in zip(adapters, weights, strict=True)
        if weight
    ]
    return Facts(**shape_of(made), **joined(parts))


def _with_texts(files: Mapping[str, bytes], metadata: Mapping[str, str]) -> dict[str, bytes]:
    return {
        name: _with_metadata(data, metadata) if name.endswith(SUFFIX) else data
        for name, data in files.items()
    }


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    tensors = 8 + int.from_bytes(data[:8], "little")
    return b"".join(with_metadata((data[:8], data[8:tensors], data[tensors:]), metadata))


def made_of(adapters: Sequence[Read], weights: Sequence[float], rank: int | None) -> str:
    """What a LoRA is made of, for its header: it tells whether one that is there already is the same."""
    parts = [
        {"sha256": read.digest, "weight": weight} for read, weight in zip(adapters, weights, strict=True)
    ]
    return json.dumps({"adapters": parts, "rank": rank}, sort_keys=True, separators=(",", ":"))


def is_made(target: Store, note: str) -> bool:
    """Whether the target holds the whole LoRA that is made of what `note` says. Asked before it is made.

    Raises UsageError where it holds anything else.
    """
    files = {file.path: file for file in target.list_files()}
    if others := files.keys() - {APP_LORA, APP_LORA_CONFIG, CARD, README}:
        raise _taken(target, min(others))
    if not files:
        return False
    if files.keys() <= {CARD, README} and CARD in files:  # an attempt was killed before the weights
        return False
    if APP_LORA not in files or header_of(AdapterFiles(target, files[APP_LORA])).get(MADE_OF) != note:
        raise _taken(target, min(files, key=lambda path: path != APP_LORA))
    if APP_LORA_CONFIG not in files:  # an attempt was killed between the two
        return False
    log.info("%s is there already, made of the same: there is nothing to do", target.place)
    return True


def _taken(target: Store, path: str) -> UsageError:
    return UsageError(f"{target.place} holds {path} already: name another place with --output")


def write_adapter(files: Mapping[str, bytes], note: str, target: Store) -> None:
    """Write an adapter's files where nothing else is, with the note in the header.

    Raises UsageError where there is anything else by now, which is never overwritten.
    """
    files = _with_texts(files, {MADE_OF: note})
    for file in target.list_files():
        if file.path not in files or target.read_bytes(file.path) != files[file.path]:
            raise _taken(target, file.path)
    # No reader takes weights without their configuration, and the card is there before both.
    for name in sorted(files, key=lambda name: (name == APP_LORA_CONFIG, name not in (CARD, README))):
        target.write_bytes(name, files[name])
        log.info("Wrote %s/%s", target.place, name)


rank = whole(1, RANK_AT_MOST)
"""A rank, as typed."""


def open_target(place: str, spec: JobSpec) -> Store:
    """Where results go."""
    return open_store(place, spec.storage)
