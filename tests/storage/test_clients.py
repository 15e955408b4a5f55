"""Clients of remote stores: one for each process, whichever of its threads asks first."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from sidestep.storage.clients import Clients
from sidestep.storage.s3 import S3Store
from tests.s3 import S3Server


def test_threads_that_ask_at_once_have_one_client() -> None:
    made: list[object] = []
    begun, many_ask = threading.Event(), threading.Barrier(8)

    def connect() -> object:
        made.append(object())
        begun.wait(0.2)  # so that the others ask while it is made
        return made[-1]

    clients = Clients(connect)

    def ask(_: int) -> object:
        many_ask.wait()
        return clients.mine()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == set(made)
    assert len(made) == 1


def test_a_child_makes_its_own_while_a_thread_of_its_parent_makes_one() -> None:
    """The parent's lock is taken just then, and stays so in the child for ever."""
    making, may_end = threading.Event(), threading.Event()
    parent = os.getpid()

    def connect() -> int:
        if os.getpid() == parent:
            making.set()
            may_end.wait()
        return os.getpid()

    clients = Clients(connect)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(clients.mine)
        making.wait()
        if not (child := os.fork()):
            signal.alarm(2)  # which ends it, should it wait
            os._exit(clients.mine() != os.getpid())
        _, status = os.waitpid(child, 0)
        may_end.set()
        assert first.result() == parent
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_small_file_is_sent_by_the_thread_that_asks(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by those of the transfer manager, which take more of the processor than the sending does."""
    store = cast(S3Store, s3_server.store("songs"))
    transfers = store.clients.mine().transfers
    monkeypatch.setattr(transfers, "upload", lambda *_, **__: pytest.fail("sent by the transfer manager"))
    (tmp_path / "small").write_bytes(b"1")
    moved: list[int] = []
    store.upload(tmp_path / "small", "small", moved.append)
    store.write_bytes("empty", b"")
    assert sum(moved) == 1 and store.read_bytes("small") == b"1" and store.read_bytes("empty") == b""
