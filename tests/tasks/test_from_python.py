"""`sidestep.run` in a program: what it is told, the run's log, and that its own logging stays as it is."""

import logging
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep.runtime.errors import SideStepError
from tests.songs import MakeSpec

LOG = Path("out", "logs", "sidestep-1.log")


class Host(logging.Handler):
    """A handler of the program's own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logging_now() -> Any:
    root, ours = logging.getLogger(), logging.getLogger("sidestep")
    handlers = [*root.handlers, *ours.handlers]
    return handlers, [handler.filters[:] for handler in handlers], root.level, ours.level, ours.propagate


def test_a_program_is_told_how_far_a_training_is_and_its_log_is_written(make_spec: MakeSpec) -> None:
    told: list[sidestep.Progress] = []
    before = logging_now()
    sidestep.run(make_spec(), progress=told.append)
    assert logging_now() == before
    training = [one for one in told if one.title == "Training"]
    assert (training[0].state, training[0].done, training[0].unit) == ("running", 0, "steps")
    assert (training[-1].state, training[-1].done, training[-1].total) == ("done", 4, 4)
    log = LOG.read_text()
    assert "sidestep.run, version" in log.splitlines()[0]
    assert "DEBUG   sidestep.runtime.versions: Python 3" in log
    assert "The resolved spec's digest is" in log
    assert "Training: done, 4 steps" in log
    assert not Path("sidestep.log").exists()


def test_a_program_s_own_handlers_get_what_they_got_before(make_spec: MakeSpec) -> None:
    host, ours = Host(), logging.getLogger("sidestep")
    logging.getLogger().addHandler(host)
    ours.setLevel(logging.INFO)
    try:
        sidestep.run(make_spec())
        again = logging_now()
        sidestep.run(make_spec())  # it is finished
        assert logging_now() == again
    finally:
        logging.getLogger().removeHandler(host)
        ours.setLevel(logging.NOTSET)
    ours_said = [record.levelno for record in host.records if record.name.startswith("sidestep")]
    assert min(ours_said) == logging.INFO
    assert "DEBUG" in LOG.read_text()


def test_a_run_that_fails_leaves_it_in_its_log_and_the_program_as_it_was(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    (tmp_path / "tensors" / "0.pt").write_bytes(b"no tensors")
    before = logging_now()
    with pytest.raises(SideStepError, match=r"0\.pt"):
        sidestep.run(make_spec(), progress=False)
    assert logging_now() == before
    assert "Traceback" in LOG.read_text()
