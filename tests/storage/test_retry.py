"""When what failed is tried again, and when it is given up."""

import pytest

from sidestep.storage.retry import LIMITS, Retry
from tests.clock import Clock


class Flaky:
    """Fails so many times, each after so many seconds."""

    def __init__(self, clock: Clock, failures: float, seconds: float = 0) -> None:
        self.clock, self.failures, self.seconds, self.asked = clock, failures, seconds, 0

    def __call__(self) -> str:
        self.asked += 1
        self.clock.now += self.seconds
        if self.asked <= self.failures:
            raise ConnectionError(f"no. {self.asked}")
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    retry = Retry(seconds=60, jitter=0, clock=clock, sleep=clock.sleep)
    told: list[tuple[str, float]] = []
    answer = retry.call(
        Flaky(clock, 6), lambda _: True, lambda error, pause: told.append((str(error), pause))
    )
    assert answer == "answer"
    assert clock.slept == [1, 2, 4, 8, 8, 8]
    assert told == [(f"no. {n}", pause) for n, pause in enumerate(clock.slept, start=1)]


def test_chance_shortens_a_pause_by_up_to_half() -> None:
    pauses = [Retry().pause(3, 0) for _ in range(100)]
    assert all(pause and 2 <= pause <= 4 for pause in pauses) and len(set(pauses)) > 50


def test_what_cannot_pass_is_not_tried_again(clock: Clock) -> None:
    flaky = Flaky(clock, 2)
    with pytest.raises(ConnectionError, match=r"no\. 2"):
        Retry(clock=clock, sleep=clock.sleep).call(flaky, lambda error: str(error) == "no. 1")
    assert flaky.asked == 2


@pytest.mark.parametrize("seconds_each", [0, LIMITS.read_seconds])
def test_a_request_ends_within_about_a_minute(clock: Clock, seconds_each: float) -> None:
    """When all tries are refused at once, and when each meets silence."""
    flaky = Flaky(clock, float("inf"), seconds_each)
    with pytest.raises(ConnectionError):
        Retry(clock=clock, sleep=clock.sleep).call(flaky, lambda _: True)
    assert 30 <= clock.now <= 70
    assert flaky.asked >= 3


def test_seconds_count_from_the_first_failure(clock: Clock) -> None:
    """A long upload whose end was lost has all the patience there is."""
    retry = Retry(
        tries=1, seconds=10, first_pause=4, longest_pause=4, jitter=0, clock=clock, sleep=clock.sleep
    )
    clock.now = 1000
    with pytest.raises(ConnectionError):
        retry.call(Flaky(clock, 9, 1), lambda _: True)
    assert clock.slept == [4, 4]
