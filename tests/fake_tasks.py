"""A stand-in for sidestep.tasks: for tests of what is handed to it, and of how its failures are told."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import sidestep
from sidestep.config.job import JobSpec
from sidestep.lifecycle.finish import TrainResult
from sidestep.runtime.preemption import Preemption


class Tasks(ModuleType):
    """Keeps the specs that it is to run, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__("sidestep.tasks")
        self.__path__ = [str(Path(sidestep.__file__).parent / "tasks")]  # its modules are the real ones
        self.specs: list[JobSpec] = []
        self.failure: BaseException | None = None
        self.made: TrainResult | None = None
        self.may_go_back = False  # as it was told last

    def run(
        self,
        spec: JobSpec,
        preemption: Preemption | None = None,
        *,
        may_go_back: bool = False,
        end_stalled: object = None,
    ) -> TrainResult | None:
        self.specs.append(spec)
        self.may_go_back = may_go_back
        if self.failure:
            raise self.failure
        return self.made


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    stand_in = Tasks()
    monkeypatch.setitem(sys.modules, "sidestep.tasks", stand_in)
    monkeypatch.setattr(sidestep, "tasks", stand_in, raising=False)
    return stand_in
