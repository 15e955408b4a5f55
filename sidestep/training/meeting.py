"""Where the processes of one training meet: the store of node 0, which the others wait for."""

import logging
import socket
import threading
import time
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from sidestep.runtime.errors import MachineError, PeerLostError
from sidestep.runtime.ranks import Rank

log = logging.getLogger(__name__)

MEET_WITHIN = 600.0  # seconds until all have come: images are pulled at different speeds
TRY_SECONDS = 5.0  # for one connection
QUIET_SECONDS = 10.0  # until it is said that others are waited for


def meet(rank: Rank, *, hosts: bool) -> Store:
    """Rank 0's store, or torchrun's; made where this process `hosts` it.

    Raises MachineError where it cannot, PeerLostError where node 0 has not come within `MEET_WITHIN`.
    """
    if not hosts:
        return PrefixStore(f"side-step/{rank.attempt}", _join(rank))
    try:
        store = TCPStore(
            *(rank.host, rank.port),
            is_master=True,
            timeout=timedelta(seconds=MEET_WITHIN),
            wait_for_workers=False,
            master_listen_fd=rank.listener,
        )
    except RuntimeError as error:
        raise MachineError(f"rank 0 cannot listen on {rank.host}:{rank.port}: {error}") from error
    return PrefixStore(f"side-step/{rank.attempt}", store)


def _join(rank: Rank) -> Store:
    """The store of node 0 once it is there, which may have no name or no address yet.

    It is looked for in a thread: neither a name that is looked up nor a store that gives no answer hears a
    signal. Where nobody listens, torch is not asked, as it shows pages of its own.
    """
    found: list[Store] = []
    why, over = ["it gives no answer"], threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                socket.create_connection((rank.host, rank.port), timeout=TRY_SECONDS).close()
                seconds = timedelta(seconds=TRY_SECONDS)
                found.append(TCPStore(rank.host, rank.port, timeout=seconds, wait_for_workers=False))
                return
            except (OSError, RuntimeError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                why.append(reason.partition("\n")[0])
            over.wait(0.2)

    thread = threading.Thread(target=look, name="join", daemon=True)
    thread.start()
    where, is_told, began = f"{rank.host}:{rank.port}", False, time.monotonic()
    try:
        while not found:
            thread.join(0.02)
            waited = time.monotonic() - began
            if waited > MEET_WITHIN:
                raise PeerLostError(f"node 0 was not met at {where} within {within()}: {why[-1]}")
            if not is_told and (len(why) > 1 or waited > QUIET_SECONDS):
                log.warning("Waiting for node 0 at %s, up to %s (%s)", where, within(), why[-1])
                is_told = True
    except KeyboardInterrupt:
        log.warning("Told to stop while waiting for node 0 at %s; nothing was begun", where)
        raise
    finally:
        over.set()
    return found[0]


def within() -> str:
    """How long all are waited for, in words."""
    return f"{MEET_WITHIN / 60:g} min"
