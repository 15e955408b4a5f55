"""Work in threads beside a loop: in order, bounded, and kept where the loop ends early."""

import threading
from contextlib import closing

import pytest

from sidestep.runtime.beside import Behind, made_ahead


def test_what_is_made_ahead_comes_in_order_and_never_more_than_so_many() -> None:
    alive, most_alive, lock = 0, 0, threading.Lock()

    def make(number: int) -> int:
        nonlocal alive, most_alive
        with lock:
            alive += 1
            most_alive = max(most_alive, alive)
        return number

    with closing(made_ahead(make, range(20), threads=3, most=4)) as made:
        for expected in range(20):
            assert next(made) == expected
            with lock:
                alive -= 1  # as a loop that drops one before it asks for the next
    assert most_alive <= 4


def test_a_failure_comes_at_its_own_turn_and_nothing_is_begun_after_it() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("2")
        return number

    with closing(made_ahead(make, range(100), threads=1, most=3)) as made:
        assert [next(made), next(made)] == [0, 1]
        with pytest.raises(ValueError, match="2"):
            next(made)
    assert len(begun) <= 5


def test_a_loop_that_is_interrupted_begins_nothing_more() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def make(number: int) -> int:
        begun.append(number)
        assert number == 0 or go_on.wait(60)
        return number

    def interrupted() -> None:
        with closing(made_ahead(make, range(9), threads=1, most=9)) as made:
            next(made)
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert begun in ([0], [0, 1])


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_all_that_was_handed_over_is_done_at_the_end(is_interrupted: bool) -> None:
    done: list[int] = []

    def work() -> None:
        with Behind(threads=2, most=3) as behind:
            for number in range(8):
                behind.call(done.append, number)
            if is_interrupted:
                raise KeyboardInterrupt

    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            work()
    else:
        work()
    assert sorted(done) == list(range(8))


@pytest.mark.parametrize("more", [0, 5])
def test_what_fails_behind_the_loop_is_raised_in_it(more: int) -> None:
    def fail() -> None:
        raise OSError("no space")

    def work() -> None:
        with Behind(threads=1, most=2) as behind:
            behind.call(fail)
            for _ in range(more):
                behind.call(lambda: None)

    with pytest.raises(OSError, match="no space"):
        work()
