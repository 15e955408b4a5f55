"""How the processes of a training meet: who waits for whom, what is said meanwhile, and how that ends."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from sidestep.runtime.errors import BadSpecError, ExitCode, SideStepError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.ranks import ENDS_VARIABLE, Rank
from sidestep.training import meeting, team
from sidestep.training.team import Processes, met
from tests.facts import tells

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Fork:
    """A process of its own."""

    pid: int
    ended: int | None = None

    def code(self) -> int:
        """Wait for its end: its code, or minus the signal that it died of."""
        if self.ended is None:
            self.ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.ended


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[Fork]:
    """A fork that does `work` and nothing else. It is gone behind the block."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            work()
            code = 0
        except SideStepError as error:
            sys.stderr.write(f"own: {error.is_own}: {error}\n")
            code = error.exit_code
        except KeyboardInterrupt:
            code = ExitCode.AGAIN
        finally:
            sys.stderr.flush()
            os._exit(code)
    fork = Fork(pid)
    try:
        yield fork
    finally:
        if fork.ended is None:
            os.kill(pid, signal.SIGKILL)
            fork.code()


def meet(rank: Rank, then: Callable[[Processes], object] = Processes.leave) -> None:
    """What a process does that meets the others, and then does something before it takes leave of them."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    logging.getLogger().handlers = [logging.StreamHandler(sys.stderr)]
    logging.getLogger("sidestep").setLevel(logging.INFO)
    team.LAST_WORDS = 0.0
    with Preemption(is_command=True) as preemption, met(rank, preemption) as processes:
        then(processes)


def ranks(count: int, port: int, host: str = HOST) -> list[Rank]:
    return [Rank(number, count, number, host, port) for number in range(count)]


@pytest.mark.parametrize("host", [HOST, "no-such-host.invalid"])
def test_node_0_is_waited_for_with_one_line_and_a_notice_ends_that(
    host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """None of torch's traces are shown. A name may not be known yet, as of a pod that is being made."""
    port = free_port()
    with forked(lambda: meet(Rank(1, 2, 0, host, port))) as waits:
        err = said_until("Waiting", capfd)
        os.kill(waits.pid, signal.SIGTERM)
        assert waits.code() == ExitCode.AGAIN
        err += capfd.readouterr().err
    assert tells(err, f"node 0 at {host}:{port}", "10 min", "Told to stop")
    assert err.count("Waiting") == 1 and "frame #" not in err


def test_who_never_meets_node_0_says_where_it_was_looked_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "MEET_WITHIN", 0.6)
    port = free_port()
    with forked(lambda: meet(Rank(1, 2, 0, HOST, port))) as waits:
        assert waits.code() == ExitCode.PEER
    last = capfd.readouterr().err.splitlines()[-1]
    assert tells(last, "own: False", f"node 0 was not met at {HOST}:{port}", "Connection refused")


def test_one_that_listens_and_says_nothing_is_no_node_0(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "MEET_WITHIN", 0.6)
    with socket.create_server((HOST, 0)) as mute:
        port = int(mute.getsockname()[1])
        with forked(lambda: meet(Rank(1, 2, 0, HOST, port))) as waits:
            assert waits.code() == ExitCode.PEER
    assert tells(capfd.readouterr().err, f"{HOST}:{port}", "no answer")


def test_rank_0_says_whom_it_waits_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "MEET_WITHIN", 0.6)
    monkeypatch.setattr(meeting, "QUIET_SECONDS", 0.0)
    port = free_port()
    with forked(lambda: meet(ranks(3, port)[0])) as first:
        assert first.code() == ExitCode.PEER
    assert tells(capfd.readouterr().err, "Waiting for ranks 1, 2 of 3", "not all of 3", "ranks 1, 2")


def test_what_ends_a_process_that_has_met_the_others_is_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """And who comes late meets the others all the same."""

    def fails(processes: Processes) -> None:
        raise BadSpecError("one has read another spec")

    def goes_on(processes: Processes) -> None:
        while True:
            processes.check()
            time.sleep(0.01)

    first, second = ranks(2, free_port())
    with forked(lambda: meet(second, fails)) as late:
        err = said_until("Waiting", capfd)
        with forked(lambda: meet(first, goes_on)) as host:
            assert late.code() == ExitCode.BAD_SPEC
            assert host.code() == ExitCode.PEER
    err += capfd.readouterr().err
    assert tells(err, "own: True: one has read another spec", "own: True: rank 0 ends")


def test_all_hear_of_one_that_counts_differently(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes with other numbers of processes: whoever comes first, none waits for those that never come."""
    monkeypatch.setattr(meeting, "MEET_WITHIN", 20.0)
    port = free_port()
    alike = [Rank(number, 3, number, HOST, port) for number in range(2)]
    with forked(lambda: meet(alike[0])) as first, forked(lambda: meet(alike[1])) as second:
        time.sleep(0.5)  # they have come, or they will: the order is anybody's
        with forked(lambda: meet(Rank(3, 4, 1, HOST, port))) as other:
            assert first.code() == ExitCode.MACHINE
            assert {second.code(), other.code()} <= {ExitCode.MACHINE, ExitCode.PEER}  # it has ended before
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("own: True")]
    assert said and all(tells(line, "one of 4", "another one of 3") for line in said)


def test_who_is_left_says_which_rank_the_launcher_has_seen_go(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher says it a moment after the connections are closed, and then sends a signal."""
    noted = os.memfd_create("ends")
    monkeypatch.setenv(ENDS_VARIABLE, str(noted))
    monkeypatch.setattr(team, "SECONDS_TO_HEAR", 30.0)
    first, second = ranks(2, free_port())

    def sums(processes: Processes) -> None:
        sys.stderr.write(f"rank {processes.rank} has met the others\n")
        while True:
            processes.add_up(torch.zeros(2))

    with forked(lambda: meet(first, sums)) as host, forked(lambda: meet(second, sums)) as killed:
        said_until("rank 1 has met", capfd)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.code() == -signal.SIGKILL
        os.write(noted, b"1 137\n")
        assert host.code() == ExitCode.PEER
    os.close(noted)
    assert tells(capfd.readouterr().err, "rank 0 ends, as rank 1 was lost with 137")


def said_until(word: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What was said once `word` is among it."""
    said, until = "", time.monotonic() + 30
    while word not in said:
        assert time.monotonic() < until, f"it hangs, and has said {said!r}"
        time.sleep(0.01)
        said += capfd.readouterr().err
    return said
