"""What is sent to an output that is elsewhere, and TensorBoard's files among it."""

from pathlib import Path

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.lifecycle.output import Output
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store


@pytest.fixture
def output(tmp_path: Path) -> Output:
    store = open_store(f"memory://{tmp_path.name}/output", StorageSpec())
    return Output(store, Workspace(tmp_path / "workspace"))


def sent(output: Output) -> list[str]:
    return [file.path for file in output.store.list_files()]


def test_all_files_of_a_folder_or_some_by_name(output: Output) -> None:
    for name in ("a", "b", "c"):
        (output.path("logs") / name).write_text(name)
    output.send("logs", ["b"])
    assert sent(output) == ["logs/b"]
    output.send("logs")
    assert sent(output) == ["logs/a", "logs/b", "logs/c"]


def test_an_output_on_a_disk_is_written_in_place(tmp_path: Path) -> None:
    output = Output(open_store(str(tmp_path / "out"), StorageSpec()), Workspace(tmp_path / "workspace"))
    (output.path("logs") / "a").write_text("a")
    output.send("logs")
    assert sent(output) == ["logs/a"]
    assert not (tmp_path / "workspace").exists()
