"""`sidestep demo`: the folder that it is made in."""

from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.tasks import demo


@pytest.mark.parametrize(("line", "folder"), [("demo", "demo"), ("demo there", "there")])
def test_the_folder(line: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(demo, "demo", lambda folder, run: calls.append(folder))
    assert main(line.split()) == 0
    assert calls == [Path(folder)]
