"""Clients of remote stores, in processes that fork."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Client = TypeVar("Client")


class Clients(Generic[Client]):
    """One client per process: one that came over a fork would share its parent's connections.

    The parent's is kept in the child, unused: its finalizer would try to close those connections.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._by_process: dict[int, Client] = {}

    def mine(self) -> Client:
        """Return this process's client, connected when it is first asked for."""
        process = os.getpid()
        if process not in self._by_process:
            # Without a lock, which could come locked over the fork; a client that loses was never connected.
            self._by_process.setdefault(process, self._connect())
        return self._by_process[process]
