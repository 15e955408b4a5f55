"""Rents the cheapest fitting machine that is to be had on Vast.ai, interruptible, and starts a job on it.

Needs Python 3.9 and vastai (pip install vastai; vastai set api-key ...). What follows is the same for every
job; at the end of a rendered script stands what is to be rented.
https://docs.vast.ai/cli/reference/search-offers, https://docs.vast.ai/cli/reference/create-instance
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

CONSOLE = "https://cloud.vast.ai/instances/"
OFFERS = 10  # of these the cheapest that fits is tried first: another may be quicker to rent it
MARGIN = 1.1  # a bid of so much of the least one is not outbid at once
LOOKS = (2, 5, 15)  # seconds before each look for an instance whose making was not answered

# The exit codes of this script are those of the job's own table.
WRONG_USE, UNAVAILABLE, MACHINE, TAKEN, AGAIN = 64, 69, 72, 73, 75


class Failed(Exception):
    """Nothing was rented: the exit code, and what to say."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


class NoAnswer(Exception):
    """The API refused, or was not reached; vastai has said why."""


def vastai(*words: str) -> Any:
    """What vastai prints, from JSON. It ends with 0 whatever the API answers, so that says nothing.

    Raises NoAnswer, Failed where it is not installed.
    """
    try:
        done = subprocess.run(["vastai", *words], stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise Failed(MACHINE, f"vastai cannot be run ({error.strerror}): pip install vastai") from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise NoAnswer(f"vastai {words[0]} {words[1]} gave no answer") from None


def read(*words: str) -> Any:
    """The same, for what only looks. Raises Failed."""
    try:
        return vastai(*words, "--raw")
    except NoAnswer as error:
        raise Failed(UNAVAILABLE, f"{error}: nothing was rented. Run this again later") from None


def labelled(label: str) -> list[dict[str, Any]]:
    """The instances of this label."""
    return [one for one in read("show", "instances", "--label", label) if one.get("label") == label]


def rent(
    label: str,
    query: str,
    disk: int,
    memory: int,
    create: Callable[[float], Sequence[str]],
    most: float,
    sleep: Callable[[float], object],
) -> str:
    """Rent a machine, unless an instance of this label is there; what to say of it.

    Args:
        disk: GB.
        memory: MB that the machine must have for the share of it that the GPU is.
        create: what `vastai create instance` is told besides bid and disk, for a price in $ an hour.
        most: $ an hour, of GPU and disk together.

    Raises Failed.
    """
    for one in labelled(label):
        return _there(one)
    query = f"{query} dph_total<={most:g}"
    search = ["--type", "bid", "--order", "dph_total", "--storage", str(disk), "--limit", str(OFFERS)]
    for offer in fitting(read("search", "offers", query, *search), memory, most):
        bid, total = prices(offer)
        words = ["--bid_price", str(bid), "--disk", str(disk), "--label", label, *create(total)]
        try:
            answer = vastai("create", "instance", str(offer["id"]), *words)
        except NoAnswer:
            for seconds in LOOKS:
                sleep(seconds)
                for one in labelled(label):
                    return _there(one)
            continue
        if answer.get("success"):
            return (
                f"Rented offer {offer['id']} as instance {answer['new_contract']} ({label}): a bid of "
                f"${bid}, with its disk ${total} an hour. Its log: {CONSOLE}"
            )
    raise Failed(
        AGAIN, f"Vast.ai has no such machine at the moment. Run this again later, or for more:\n  {query}"
    )


def fitting(offers: list[dict[str, Any]], memory: int, most: float) -> Iterator[dict[str, Any]]:
    """Those whose share of the memory is enough, and whose bid is not too much once it is above the least."""
    for offer in offers:
        if offer["cpu_ram"] * (offer.get("gpu_frac") or 1) >= memory and prices(offer)[1] <= most:
            yield offer


def prices(offer: dict[str, Any]) -> tuple[float, float]:
    """The bid, and what is paid with it in $ an hour: the disk too, which is in the total."""
    bid = offer["min_bid"] * MARGIN
    return round(bid, 4), round(offer["dph_total"] + bid - offer["min_bid"], 4)


def _there(instance: dict[str, Any]) -> str:
    """Raises Failed where the instance of this label has ended."""
    status = instance.get("actual_status") or "created"
    named = f"Instance {instance['id']} ({instance['label']}) is there, {status}"
    if status != "exited":
        return f"{named}: no other is rented. Its log: {CONSOLE}"
    raise Failed(
        TAKEN,
        f"{named}, and its disk is paid for: it was outbid, or has ended. Raise its bid (vastai change bid), "
        f"or destroy it (vastai destroy instance {instance['id']}) and run this again",
    )


def main(
    label: str,
    query: str,
    disk: int,
    memory: int,
    image: str,
    env: str,
    price: float,
    sleep: Any = time.sleep,
) -> int:
    """Rent for at most MAX_PRICE, else `price`; the exit code."""

    def create(total: float) -> list[str]:
        name = "SIDESTEP_RUNTIME__PRICE_PER_HOUR="
        with_price = env if name in env else f"-e {name}{total} {env}"
        return ["--image", image, "--env", with_price, "--cancel-unavail", "--raw", "--args", "run"]

    try:
        most = os.environ.get("MAX_PRICE") or f"{price:g}"
        if not most.replace(".", "", 1).isdecimal():
            raise Failed(WRONG_USE, f"MAX_PRICE={most}: it is the most to pay in $ an hour, such as 0.40")
        said, code = rent(label, query, disk, memory, create, float(most), sleep), 0
    except Failed as error:
        said, code = str(error), error.code
    except (KeyError, TypeError, AttributeError) as error:
        said, code = f"Vast's answer has another form than it is documented with: {error!r}", UNAVAILABLE
    print(said, file=sys.stderr)
    return code
