"""One of several processes that train together is killed, or told to end, until the run is through."""

import random
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from os import kill

from sidestep.platforms.launcher import together
from sidestep.runtime.errors import ExitCode
from tests.torture.field import Attempt, Field, same, store_of
from tests.torture.kills import job_of
from tests.torture.outcome import check_log, read_outcome
from tests.torture.points import OF_ANY_RANK, POINTS
from tests.torture.tally import Tally

COUNTS = (2, 3)
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def lose(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One run, of which three to six attempts lose a rank: it must end as one that one process makes."""
    spec_of = job_of(field, cell)
    reference = field.reference(spec_of)
    spec, budget = spec_of(field.new_output()), rng.randint(3, 6)
    while True:
        count, what = rng.choice(COUNTS), rng.choice(SIGNALS)
        victim = rng.randrange(count) if budget else None
        points = OF_ANY_RANK if victim or rng.randrange(2) else POINTS
        name = rng.choice(sorted(points))
        ends = _ends(_start(field, spec, count, victim, name, rng.randint(1, points[name].most), what))
        code, others = together(ends), {told for rank, told in ends if rank != victim}
        assert others <= {ExitCode.DONE, ExitCode.PEER, ExitCode.AGAIN}, ends
        check_log(store_of(spec))
        if code == ExitCode.DONE:
            break
        assert victim is not None, ends
        assert code == (ExitCode.STALLED if what == signal.SIGKILL else ExitCode.AGAIN), ends
        tally.done[f"{what.name} at rank {victim}: {name}"] += 1
        budget -= 1
    same(read_outcome(store_of(spec)), reference.outcome)
    tally.came_to["the same bytes"] += 1


def _start(
    field: Field,
    spec: dict[str, object],
    count: int,
    victim: int | None,
    name: str,
    number: int,
    what: signal.Signals,
) -> list[Attempt]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    attempts = []
    for rank in range(count):
        given = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_PORT": port}
        environ = {key: str(value) for key, value in given.items()}
        environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        point = name if rank == victim else None
        attempts.append(field.start(spec, point, number, what, environ=environ))
    return attempts


def _ends(attempts: list[Attempt]) -> list[tuple[int, int]]:
    """Rank and code of each, in the order of their ends. As by `sidestep launch`, who is left behind by one
    that has died or was told to end is told so, once, and what has died counts as 76."""
    ends: list[tuple[int, int]] = []
    is_told = False
    while len(ends) < len(attempts):
        running = [attempt for attempt in attempts if not attempt.has_ended]
        running[0].wait_until(partial(_any_is_gone, running))
        for attempt in [attempt for attempt in running if attempt.is_gone]:
            code = attempt.end()
            ends.append((attempts.index(attempt), ExitCode.STALLED if code < 0 else code))
            if is_told or (code >= 0 and code != ExitCode.AGAIN):
                continue
            is_told = True
            for left in [left for left in attempts if not left.has_ended]:
                with suppress(ProcessLookupError):
                    kill(left.pid, signal.SIGTERM)
    return ends


def _any_is_gone(attempts: Sequence[Attempt]) -> bool:
    return any(attempt.is_gone for attempt in attempts)
