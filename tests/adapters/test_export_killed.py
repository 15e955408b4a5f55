"""`sidestep export`, ended at every change that it makes: no part of an adapter passes for one."""

import signal
from pathlib import Path

import pytest
from torch import nn

from sidestep import adapters
from sidestep.cli import main
from sidestep.config.adapter import AdapterSpec
from sidestep.runtime.atomic import TEMPORARY
from tests.killed import SIGNALS, ended_at_each_change


@pytest.mark.slow  # an export for each change, and one more
@pytest.mark.parametrize("number", SIGNALS)
def test_an_export_that_was_ended_is_completed_by_the_next(
    number: signal.Signals, tmp_path: Path, golden: Path, transformer: nn.Module
) -> None:
    adapter = adapters.inject(transformer, AdapterSpec(rank=2, alpha=4), seed=1)
    Path("run/adapter").mkdir(parents=True)
    for name, data in adapters.publish(adapter).items():
        Path("run/adapter", name).write_bytes(data)
    words = ["export", "run/adapter", "--format", "app", "--checkpoint-dir", str(golden / "checkpoints")]
    target = tmp_path / "run" / "adapter-app"
    assert main(words) == 0
    whole, source = files(target), files(tmp_path / "run" / "adapter")
    changes = 0
    for changes in ended_at_each_change(lambda: main(words), number, tmp_path):  # noqa: B007
        assert files(target).items() <= whole.items()
        assert main(words) == 0
        assert files(target) == whole
        assert files(tmp_path / "run" / "adapter") == source
    assert changes > 2


def files(folder: Path) -> dict[str, bytes]:
    """Those that count: what was never complete is cleared when it is a day old."""
    found = (file for file in folder.iterdir() if not file.name.startswith(TEMPORARY))
    return {file.name: file.read_bytes() for file in found}
