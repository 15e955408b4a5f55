"""The card beside a published adapter: card.json and README.md, made from its header and the run's receipt.

They are no part of a commit. What they should hold follows from what is there, so whoever looks can tell
whether they hold it, and mend them. The adapter of a run that was begun by an older version says nothing of
itself in its header, and gets no card beside it.
"""

import logging
from collections.abc import Callable

from pydantic import BaseModel

from sidestep.config.adapter_files import APP_LORA, APP_LORA_CONFIG, DIFFUSERS_LOKR, WEIGHTS
from sidestep.data.card import Facts, facts_in
from sidestep.lifecycle.adapter_files import AdapterFiles, header_of
from sidestep.lifecycle.output import ADAPTER
from sidestep.report.card import CARD, README, Card, card_bytes, readme_bytes
from sidestep.report.contents import RECEIPT
from sidestep.report.readers import readers_of
from sidestep.report.strength import read_calibration
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.parsing import parse_as
from sidestep.sampling.takes import FOLDER as LISTEN
from sidestep.sampling.takes import read_samples
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

OWN = (*WEIGHTS, APP_LORA_CONFIG, DIFFUSERS_LOKR)
"""What an adapter's folder may hold of the adapter itself."""

_GENERATING = {
    "steps": "num_inference_steps",
    "guidance": "guidance",
    "shift": "shift",
    "strength": "strength",
}
"""What the card calls the settings of `inference`."""


class _Told(BaseModel):
    """What a receipt tells for a card. Those of older versions lack some of it."""

    name: str = ""
    inference: dict[str, int | float] = {}  # steps stay a whole number
    license: str | None = None


def keep_card(output: Store, may_write: Callable[[], None]) -> None:
    """Write card.json and README.md into an output's adapter/, unless they are there as they should be.

    Args:
        may_write: asked before each write; raises where adapter/ is a later writer's by now.
    """
    adapter = _published(output)
    if adapter is None:
        return
    try:
        facts = facts_in(header_of(adapter), adapter.place)
    except BadDataError as error:
        log.warning("No card is made: %s", error)
        return
    if facts is None:
        return
    for name, data in card_files(output, adapter, facts).items():
        path = f"{ADAPTER}/{name}"
        if _content(output, path) != data:
            may_write()
            output.write_bytes(path, data)
            log.debug("Wrote %s/%s", output.place, path)


def card_files(output: Store, adapter: AdapterFiles, facts: Facts) -> dict[str, bytes]:
    """The content of card.json and README.md beside an output's adapter, whose header tells `facts`."""
    card = card_of(output, adapter, facts)
    return {CARD: card_bytes(card), README: readme_bytes(card)}


def card_of(output: Store, adapter: AdapterFiles, facts: Facts) -> Card:
    """The card of an output's adapter, whose header tells `facts`.

    Where the output's receipt tells how to generate, or of a license, that counts; and before it a strength
    that `sidestep calibrate` has found for this very adapter, if it was asked to tell the card.
    """
    told = _told(output)
    generating = facts.generating.model_copy(
        update={field: told.inference[key] for field, key in _GENERATING.items() if key in told.inference}
    )
    if (strength := _calibrated(output, adapter)) is not None:
        generating = generating.model_copy(update={"strength": strength})
    facts = facts.model_copy(update={"generating": generating, "license": told.license or facts.license})
    files = [name for name in OWN if output.stat(f"{ADAPTER}/{name}")]
    return Card(
        *(told.name, facts, sorted(files), readers_of(files, header_of(adapter))),
        samples=_samples(output, adapter),
    )


def _calibrated(output: Store, adapter: AdapterFiles) -> float | None:
    try:
        found = read_calibration(output)
    except BadDataError as error:
        log.warning("The card is not told of a strength: %s", error)
        return None
    if found is None or not found.in_card or found.adapter != adapter.digest():
        return None
    return found.best or None  # at 0 there is no adapter, so nobody is told to use it so


def _samples(output: Store, adapter: AdapterFiles) -> list[str]:
    """The paths, from adapter/, of sound that `sidestep sample` has made with this very adapter."""
    try:
        heard = read_samples(output.child(LISTEN))
    except BadDataError as error:
        log.warning("The card names no samples: %s", error)
        return []
    if heard is None or not any(take.adapter for take in heard.takes):
        return []
    digest = adapter.digest()
    return [f"../{LISTEN}/{take.file}" for take in heard.takes if take.adapter == digest]


def _published(output: Store) -> AdapterFiles | None:
    for name in WEIGHTS:
        if file := output.stat(f"{ADAPTER}/{name}"):
            config = output.stat(f"{ADAPTER}/{APP_LORA_CONFIG}") if name == APP_LORA else None
            return AdapterFiles(output, file, config)
    return None


def _told(output: Store) -> _Told:
    """Nothing, where there is no receipt: the run is not finished."""
    try:
        return parse_as(_Told, output.read_small(RECEIPT), f"{output.place}/{RECEIPT}")
    except (MissingInputError, BadDataError) as error:
        log.debug("The card says nothing of a receipt: %s", error)
        return _Told()


def _content(store: Store, path: str) -> bytes | None:
    try:
        return store.read_small(path)
    except (MissingInputError, BadDataError):
        return None
