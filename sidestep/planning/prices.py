"""What cards cost to rent, by a file that somebody keeps up to date. None are built in: prices change."""

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sidestep.config.yaml12 import parse_yaml
from sidestep.planning.cards import CARDS
from sidestep.runtime.errors import BadDataError, BadSpecError
from sidestep.runtime.parsing import Amount, as_kind, read_small
from sidestep.runtime.words import did_you_mean


class Prices(BaseModel):
    """Prices per hour by the card's name, of one day."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Annotated[str, Field(min_length=1, max_length=20)]
    date: date
    per_hour: Annotated[dict[str, Amount], Field(min_length=1)]


def read_prices(path: Path) -> Prices:
    """The prices in a YAML or JSON file; names of cards as the plan has them, in any letter case.

    Raises MissingInputError where it is not there, BadDataError for anything that is no file of prices.
    """
    try:
        values, lines = parse_yaml(read_small(path), str(path), "a file of prices")
    except BadSpecError as error:
        raise BadDataError(str(error)) from error
    prices = as_kind(Prices, values, str(path))
    known = {card.name.lower(): card.name for card in CARDS}
    if unknown := [name for name in prices.per_hour if name.lower() not in known]:
        hints = [f"{path}:{lines['per_hour', name]}: no card {name!r} is in the plan; " for name in unknown]
        raise BadDataError(
            "\n".join(
                hint + did_you_mean(name, known.values()) for hint, name in zip(hints, unknown, strict=True)
            )
        )
    return prices.model_copy(
        update={"per_hour": {known[name.lower()]: price for name, price in prices.per_hour.items()}}
    )
