"""The songs of a run as the loop sees them: a sequence of samples, read from disk when they are needed."""

from collections.abc import Sequence
from pathlib import Path

from sidestep.acestep.vae import LATENTS_PER_SECOND
from sidestep.data.index import dataset_files
from sidestep.data.tensors import Sample, read_sample
from sidestep.runtime.errors import BadDataError, MissingInputError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from sidestep.training.history import SongFacts


class Samples(Sequence[Sample]):
    """Preprocessed songs in the order of their names. Reading one costs some megabytes for a moment."""

    def __init__(self, place: str, files: Sequence[Path]) -> None:
        self.place = place
        self.facts: list[SongFacts] = []  # of each song, once `pull` has read them
        self._files = files

    @classmethod
    def pull(cls, store: Store, workspace: Workspace) -> "Samples":
        """Bring a dataset's tensors to this machine, and read each once: no step shall meet a bad one.

        Raises MissingInputError where there are none, BadDataError with all that cannot be trained on.
        """
        files = dataset_files(store)
        folder = pull(store, files, workspace, title="Pulling tensors")
        samples = cls(store.place, [folder / file.path for file in files])
        if problems := samples._problems():
            report = "\n  ".join(
                [f"{len(problems)} of {len(samples)} tensor files cannot be used:", *problems]
            )
            raise BadDataError(
                f"{report}\n  preprocess these songs again, or take the files out of {store.place}"
            )
        return samples

    def _problems(self) -> list[str]:
        problems: list[str] = []
        width: int | None = None
        with track("Checking tensors", len(self), "songs") as bar:
            for path in self._files:
                try:
                    sample = read_sample(path)
                    self.facts.append(_facts(sample, path.name))
                    found = sample.encoder_hidden_states.shape[1]
                    width = width or found
                    if found != width:
                        problems.append(f"{path} has conditions {found} wide, those before it {width}")
                except (BadDataError, MissingInputError) as error:
                    problems.append(str(error).splitlines()[0])
                bar.advance(1)
        return problems

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # nobody asks for a slice
        return read_sample(self._files[index])


def _facts(sample: Sample, file: str) -> SongFacts:
    name, caption = sample.metadata.get("filename"), sample.metadata.get("caption")
    return SongFacts(
        name=name if isinstance(name, str) and name else file,
        seconds=round(len(sample.target_latents) / LATENTS_PER_SECOND, 2),
        caption=caption if isinstance(caption, str) else "",
    )
