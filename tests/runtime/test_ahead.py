"""A generator that runs ahead gives what it would give, in its order, and never more than it may."""

import threading
from collections.abc import Generator

import pytest

from sidestep.runtime.ahead import ahead


def test_all_come_in_their_order_and_the_error_in_its_place() -> None:
    def failing() -> Generator[int, None, None]:
        yield from range(5)
        raise ValueError("the sixth")

    with ahead(failing()) as items:
        found = [next(items) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(ValueError, match="the sixth"):
                next(items)
    assert found == [0, 1, 2, 3, 4]
    with ahead(number for number in range(3)) as whole:
        assert list(whole) == [0, 1, 2]


def test_no_more_are_made_than_there_is_room_for_and_none_after_the_block() -> None:
    made, closed = [], threading.Event()
    step = threading.Semaphore(0)

    def numbers() -> Generator[int, None, None]:
        try:
            for number in range(100):
                made.append(number)
                step.release()
                yield number
        finally:
            closed.set()

    with ahead(numbers(), depth=2) as items:
        assert step.acquire(timeout=5) and step.acquire(timeout=5)
        assert not step.acquire(timeout=0.05) and made == [0, 1]
        assert next(items) == 0 and step.acquire(timeout=5)
        assert not step.acquire(timeout=0.05) and made == [0, 1, 2]
    assert closed.wait(5) and made == [0, 1, 2]
    assert "ahead" not in {thread.name for thread in threading.enumerate()}
