"""A job's output: the place that holds all its state, and the local folder where files are made for it."""

from collections.abc import Iterable
from pathlib import Path

from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.runtime.logs import add_log_file
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store

LOGS, RUNS = "logs", "runs"  # folders of the attempts' logs, and of TensorBoard's files


class Output:
    """`store` is the output's place; `folder` is the same on a disk, else a copy in the workspace."""

    def __init__(self, store: Store, workspace: Workspace) -> None:
        self.store = store
        self.folder = store.local_root or workspace.pulled(store.place)

    def begin_log(self, attempt: int) -> None:
        """Write this attempt's log into the output from now on."""
        add_log_file(self.path(LOGS) / f"sidestep-{attempt}.log")

    def keep_spec(self, spec: JobSpec) -> None:
        """Write the resolved spec as `job.yaml`, once it is clear that this output is made by it."""
        self.store.write_bytes("job.yaml", dump_yaml(spec.model_dump(mode="json")))

    def path(self, name: str) -> Path:
        """A folder below the output to write files into; `send` brings them to the store."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def send(self, name: str, files: Iterable[str] | None = None) -> None:
        """Bring `files` of the local folder `name`, or all of them, to the store, where that is elsewhere."""
        if self.store.local_root:
            return
        folder = self.folder / name
        names = files if files is not None else (file.name for file in folder.iterdir() if file.is_file())
        for file in sorted(names):
            self.store.upload(folder / file, f"{name}/{file}")
