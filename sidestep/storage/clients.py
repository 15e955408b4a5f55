"""Clients of remote stores, in processes that fork."""

import os
import threading
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
        self._locks: dict[int, threading.Lock] = {}

    def mine(self) -> Client:
        """Return this process's client, made when it is first asked for: once, as that takes 0.1 s."""
        process = os.getpid()
        if process not in self._by_process:
            # Its own lock, too: one that is shared could come locked over the fork.
            with self._locks.setdefault(process, threading.Lock()):
                if process not in self._by_process:
                    self._by_process[process] = self._connect()
        return self._by_process[process]
