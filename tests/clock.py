"""Time that passes when a test says so: for everything that takes its clock and its sleep as arguments."""


class Clock:
    """Called, it says how late it is; `sleep` lets time pass without waiting, and is noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert len(self.slept) < 1000, "somebody waits for ever"
        self.slept.append(seconds)
        self.now += seconds
