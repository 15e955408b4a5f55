"""A job's output: the place that holds all its state, and the local folder where files are made for it."""

import logging
from collections.abc import Iterable
from pathlib import Path

from sidestep.config.job import JobSpec
from sidestep.config.yaml12 import dump_yaml
from sidestep.runtime.diskerrors import local_errors
from sidestep.runtime.logs import add_log_file
from sidestep.runtime.workspace import Workspace
from sidestep.storage.local import LocalStore
from sidestep.storage.store import Store

log = logging.getLogger(__name__)

SPEC = "job.yaml"
ADAPTER = "adapter"  # the result's folder
LOGS, RUNS = "logs", "runs"  # folders of the attempts' logs, and of TensorBoard's files


class Output:
    """`store` is the output's place; `folder` is the same on a disk, else a copy in the workspace. `logs` is
    the folder of the attempts' logs in it."""

    def __init__(self, store: Store, workspace: Workspace, logs: str = LOGS) -> None:
        self.store, self.logs = store, logs
        self.folder = store.local_root or workspace.pulled(store.place)
        self._here = store if isinstance(store, LocalStore) else LocalStore(self.folder, store.options)

    def begin_log(self, attempt: int) -> None:
        """Write this attempt's log into the output from now on."""
        path = self.path(self.logs) / f"sidestep-{attempt}.log"
        with local_errors(path):
            add_log_file(path)

    def keep_spec(self, spec: JobSpec) -> None:
        """Write the resolved spec as `job.yaml`, once it is clear that this output is made by it."""
        self.store.write_bytes(SPEC, dump_yaml(spec.model_dump(mode="json")))

    def keep_first_spec(self, spec: JobSpec) -> None:
        """The same for a job that has not come to the point where that is clear, where there is none yet."""
        if not self.store.stat(SPEC):
            self.keep_spec(spec)

    def path(self, name: str) -> Path:
        """A folder below the output to write files into; `send` brings them to the store.

        Raises BadDataError where a link or a file is in its place.
        """
        path = self._here.locate_to_write(name)
        with local_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def send(self, name: str, files: Iterable[str] | None = None) -> None:
        """Bring `files` of the local folder `name`, or all of them, to the store, where that is elsewhere."""
        if self.store.local_root:
            return
        folder = self.path(name)
        names = files if files is not None else (file.name for file in folder.iterdir())
        for file in sorted(names):
            if (folder / file).is_symlink() or not (folder / file).is_file():
                log.warning("%s is not there any more and is not sent", folder / file)
                continue
            self.store.upload(folder / file, f"{name}/{file}")
