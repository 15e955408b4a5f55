"""A job's output: the place that holds all its state, and the local folder where files are made for it."""

from dataclasses import dataclass
from pathlib import Path

from sidestep.runtime.logs import add_log_file
from sidestep.runtime.workspace import Workspace
from sidestep.spec.schema import JobSpec
from sidestep.spec.yaml12 import dump_yaml
from sidestep.storage.store import Store, open_store
from sidestep.storage.transfer import push


@dataclass(frozen=True)
class Output:
    """`store` is the output's place; `folder` is the same on a disk, else a copy in the workspace."""

    store: Store
    folder: Path

    @classmethod
    def open(cls, spec: JobSpec, workspace: Workspace) -> "Output":
        """Open the output of `spec`, and begin this attempt's log in it."""
        store = open_store(spec.output_place, spec.storage)
        output = cls(store, store.local_root or workspace.pulled(store.place))
        attempt = len(store.list("logs")) + 1
        add_log_file(output.folder / "logs" / f"sidestep-{attempt}.log")
        return output

    def keep_spec(self, spec: JobSpec) -> None:
        """Write the resolved spec as `job.yaml`, once it is clear that this output is made by it."""
        self.store.write_bytes("job.yaml", dump_yaml(spec.model_dump(mode="json")))

    def path(self, name: str) -> Path:
        """A folder below the output to write files into; `send` brings them to the store."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def send(self, *names: str) -> None:
        """Bring what the local folders `names` hold to the store, where that is not the same place."""
        if self.store.local_root:
            return
        files = [
            file.relative_to(self.folder).as_posix()
            for name in names
            for file in sorted((self.folder / name).rglob("*"))
            if file.is_file()
        ]
        push(self.store, self.folder, files, title="Sending logs")
