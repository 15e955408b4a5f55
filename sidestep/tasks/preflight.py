"""What can be known to be wrong before a model is loaded or a song pulled: can every place be used?

A job may have waited hours for its GPU. Wrong credentials, a bucket or folder that is not there and an
output that cannot be written are found out in seconds, the inputs' all at once.
"""

import logging
import posixpath
import uuid
from collections.abc import Callable, Iterable, Iterator

from sidestep.runtime.errors import MissingInputError, SideStepError
from sidestep.runtime.workspace import open_workspace
from sidestep.spec.schema import JobSpec
from sidestep.storage.store import Store, open_store

log = logging.getLogger(__name__)

Check = tuple[str, Callable[[], object]]  # the spec's field, and what raises when its place cannot be used


def check_places(spec: JobSpec) -> None:
    """Make sure that the task's inputs are there and readable, and that its output can be written.

    Raises what a store raises; of several inputs the first one's kind, with the messages of all.
    """
    open_workspace(spec)
    _raise_all(_inputs(spec))
    # After the inputs: a job that cannot begin leaves nothing where its results would be.
    _raise_all(_outputs(spec))


def _raise_all(checks: Iterable[Check]) -> None:
    troubles: list[SideStepError] = []
    for field, check in checks:
        try:
            check()
        except SideStepError as error:
            troubles.append(type(error)(f"{field}: {error}"))
            troubles[-1].__cause__ = error
    if len(troubles) > 1:
        raise type(troubles[0])("\n".join(map(str, troubles))) from troubles[0]
    for trouble in troubles:
        raise trouble


def _check_writable(store: Store, needs_one_writer: bool) -> None:
    """Create a file and delete it, and say so where the store creates it twice and that matters."""
    probe = f".sidestep-probe-{uuid.uuid4().hex}"
    root = store.local_root
    made = [folder for folder in (root, *root.parents) if not folder.exists()] if root else []
    store.create(probe, b"")
    refuses = not store.create(probe, b"")
    store.delete(probe)
    for folder in made:  # the task makes them again when it has something to put there
        folder.rmdir()
    if needs_one_writer and not refuses:
        log.warning(
            "%s replaces a file where it is asked to create one (it ignores If-None-Match). Two runs that "
            "write there would not notice each other: make sure that there is only one.",
            store.place,
        )


def _inputs(spec: JobSpec) -> Iterator[Check]:
    makes_tensors = spec.task in ("preprocess", "pipeline")
    if makes_tensors and spec.audio_dir:
        yield "audio_dir", lambda: _check_holds(spec, str(spec.audio_dir), "files", suffix="")
    if makes_tensors and spec.dataset_json:
        yield "dataset_json", lambda: _check_is_file(spec, str(spec.dataset_json))
    if not makes_tensors:
        yield _tensors_field(spec), lambda: _check_holds(spec, spec.tensors_place, "tensors (.pt)", ".pt")
    yield "checkpoint_dir", lambda: _check_models(spec, with_encoders=makes_tensors)


def _outputs(spec: JobSpec) -> Iterator[Check]:
    def writable(place: str, needs_one_writer: bool) -> Callable[[], object]:
        return lambda: _check_writable(open_store(place, spec.storage), needs_one_writer)

    if spec.task == "preprocess" or (spec.task == "pipeline" and spec.dataset_dir):
        yield _tensors_field(spec), writable(spec.tensors_place, needs_one_writer=False)
    if spec.task != "preprocess":
        yield "output_dir", writable(spec.output_place, needs_one_writer=spec.task != "estimate")


def _tensors_field(spec: JobSpec) -> str:
    return "dataset_dir" if spec.dataset_dir else "output_dir"


def _check_holds(spec: JobSpec, place: str, what: str, suffix: str) -> None:
    store = open_store(place, spec.storage)
    if any(file.path.endswith(suffix) for file in store.list()):
        return
    root = store.local_root
    if root and not root.exists():
        raise MissingInputError(f"{store.place} does not exist. Check the path, and what is mounted.")
    if root and not root.is_dir():
        raise MissingInputError(f"{store.place} is a file, where a folder is needed.")
    raise MissingInputError(f"there are no {what} in {store.place}. Check the place and its name.")


def _check_is_file(spec: JobSpec, place: str) -> None:
    folder, name = posixpath.split(place)
    store = open_store(folder or ".", spec.storage)
    if store.info(name) is None:
        raise MissingInputError(f"there is no file {name} in {store.place}. Check the place and the name.")


def _check_models(spec: JobSpec, with_encoders: bool) -> None:
    # Imported here: this loads torch, which the other checks can do without.
    from sidestep.acestep.layout import find_text_encoder, find_vae, find_variant, open_checkpoints

    store = open_checkpoints(spec.checkpoint_dir, spec.storage)
    find_variant(store, spec.model_variant)
    if with_encoders:
        find_vae(store)
        find_text_encoder(store)
