"""What all tests share: the golden set, a tiny checkpoint, and walls against the machine they run on."""

import gc
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.runtime.preemption import Preemption

# Before numpy, torch or matplotlib are imported: they read these once. One thread is enough for models this
# small, and makes bit-exact comparisons independent of how many cores there are.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
for _name in [name for name in os.environ if name.startswith(("AWS_", "SIDESTEP_"))]:
    del os.environ[_name]  # no test may see the developer's credentials or settings
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, what tests start would ignore it

# Fixtures that many rooms share: songs, specs that train on them, a real S3 server, a store of each kind, and
# a stand-in for the tasks.
pytest_plugins = [
    "tests.songs",
    "tests.s3",
    "tests.stores",
    "tests.fake_tasks",
    "tests.hub",
    "tests.compiling",
]

TESTS = Path(__file__).parent


def pytest_collection_finish() -> None:
    """Collections of garbage look at what tests make: looking at all of torch was half of a preprocess."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged of a name that is no UTF-8 must not end pytest-xdist, which sends it on."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Any:
    """No test may talk to anything but this machine: a test that needs the network is not repeatable."""

    def guarded(connect: Any) -> Any:
        def refuse_others(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                raise AssertionError(f"a test tried to reach {address[0]}; tests may use loopback alone")
            return connect(self, address)

        return refuse_others

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Workspaces, presets and the AWS files of the tests, apart from those of the user who runs them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("AWS_CONFIG_FILE", str(home / "aws-config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws-credentials"))
        yield


@pytest.fixture(autouse=True)
def notice_ends_with_its_test() -> Iterator[None]:
    """After notice a clock runs, and says when the time is over: not in the next test's output."""
    given: list[Preemption] = []
    request = Preemption.request

    def noted(self: Preemption, *arguments: Any, **more: Any) -> None:
        given.append(self)
        request(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preemption, "request", noted)
        yield
    for preemption in given:
        preemption.__exit__()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in an empty folder, where its sidestep.log goes too."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def own_logging() -> Any:
    """What setup_logging adds is taken away again: the next test has another folder and another screen."""
    yield
    logging.captureWarnings(False)
    for handler in logging.getLogger().handlers[:]:
        if type(handler).__module__ == "sidestep.runtime.logs":
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the original model computed: see its README.md for the names and the tolerance."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint set with tiny random weights in the original layout: base, turbo and xl-base."""
    from sidestep.acestep.tiny import write_tiny_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "checkpoints"
    write_tiny_checkpoint(folder)
    return folder
