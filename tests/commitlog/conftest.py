"""A store, a clock and a writer for the tests of the commit log."""

from pathlib import Path

import pytest

from sidestep.commitlog import log
from sidestep.commitlog.lease import Lease
from sidestep.commitlog.writer import Writer
from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from sidestep.storage.store import Store
from tests.clock import Clock
from tests.commitlog.commits import begin


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = str(tmp_path / "output") if request.param == "local" else f"memory://{tmp_path.name}/output"
    return open_store(place, StorageSpec())


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is cut short is not waited for, but where a test's own clock measures it."""
    monkeypatch.setattr(log, "PATIENCE", 0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    return Lease(60, clock, clock.sleep)


@pytest.fixture
def writer(store: Store, lease: Lease) -> Writer:
    return begin(store, lease)
