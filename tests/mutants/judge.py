"""What a mutant dies of: the rules by which a failed test is a verdict on the mutant.

A test kills when it fails in its call phase (not in a fixture, not while it is collected) with

- an AssertionError, or a failure that pytest itself states, such as `pytest.raises` that saw nothing raised;
- an error by which it sees another result: it unpacks more than there is, say, or opens what is not there;
- torch's word that what it computed again is something else, CheckpointError;
- an error that the product raised (its traceback passes through the product's files), unless it is one of
  `BROKEN`: those that a program makes which was put together wrongly say more of the row than of the test.

What says no more than that something took too long (`is_timeout`) kills only where the row allows it.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Literal

import pytest

BROKEN = (ImportError, SyntaxError, NameError, AttributeError, TypeError)
SEEN = (AssertionError, pytest.fail.Exception, ValueError, LookupError, FileNotFoundError)

Verdict = Literal["kills", "timeout", "broken"]


@dataclass
class Failure:
    """A test that failed. `verdict` says whether that counts."""

    test: str
    verdict: Verdict
    what: str


@dataclass(eq=False)  # pytest wants a plugin that hashes
class Judge:
    """A pytest plugin: notes what passed and what each failure means, and ends at the first that kills."""

    tree: Path
    stop_at_kill: bool
    seconds: dict[str, float] = field(default_factory=dict)  # of each test that passed, with its fixtures
    failures: list[Failure] = field(default_factory=list)
    _spent: dict[str, float] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._spent[item.nodeid] = self._spent.get(item.nodeid, 0) + call.duration
        if report.failed:
            error = call.excinfo.value if call.excinfo else None
            verdict: Verdict = "broken" if call.when != "call" else self.verdict(error)
            what = f"{type(error).__name__}: {error}".splitlines()[0] if error else "it passed, and must not"
            self.failures.append(Failure(item.nodeid, verdict, f"{call.when}: {what}"))
            if verdict == "kills" and self.stop_at_kill:
                item.session.shouldstop = "the mutant is dead"
        elif report.passed and call.when == "call":
            self.seconds[item.nodeid] = self._spent[item.nodeid]
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failures.append(Failure(report.nodeid, "broken", f"collect: {report.longreprtext}"))

    def verdict(self, error: BaseException | None) -> Verdict:
        """What a test's failure in its call phase with `error` says; None is a strict xfail that passed."""
        if isinstance(error, BaseExceptionGroup):  # hypothesis: several failures at once
            verdicts = [self.verdict(one) for one in error.exceptions]
            return "kills" if "kills" in verdicts else verdicts[0]
        if error is None:
            return "kills"
        if is_timeout(error):
            return "timeout"
        if isinstance(error, SEEN) or is_of_torch(error):
            return "kills"
        return "kills" if not isinstance(error, BROKEN) and self._is_of_product(error) else "broken"

    def _is_of_product(self, error: BaseException) -> bool:
        frames: Any = error.__traceback__
        while frames:
            file = Path(frames.tb_frame.f_code.co_filename)
            if file.is_relative_to(self.tree) and not file.is_relative_to(self.tree / "tests"):
                return True
            frames = frames.tb_next
        return False


def is_of_torch(error: BaseException) -> bool:
    """Whether it is torch's own check of recomputed layers: no frame of it is the product's."""
    return type(error).__name__ == "CheckpointError"


def is_timeout(error: BaseException) -> bool:
    """Whether `error` says that something took too long, and nothing else."""
    if isinstance(error, pytest.fail.Exception):
        return str(error).startswith("Timeout (>")  # pytest-timeout
    late = {"DeadlineExceeded", "TIMEOUT"}  # hypothesis, pexpect
    return isinstance(error, TimeoutError | TimeoutExpired) or type(error).__name__ in late
