"""The page to listen to samples, made of their place alone, so that it can be made again at any time."""

import numpy as np
from torch import Tensor

from sidestep.data.audio import SAMPLE_RATE, read_audio
from sidestep.report.listening import FILE, Look, listening_page
from sidestep.runtime.errors import BadDataError
from sidestep.runtime.progress import track
from sidestep.runtime.workspace import Workspace
from sidestep.sampling.takes import Samples
from sidestep.storage.store import Store
from sidestep.storage.transfer import copy_of, pull
from sidestep.training.mel import PARTS, mel_png


def write_listening_page(output: Store, samples: Samples, workspace: Workspace, note: str = "") -> None:
    """Write index.html beside samples.json. Raises BadDataError for a sound that is damaged."""
    wanted = {take.file for take in samples.takes}
    files = [file for file in output.list_files() if file.path in wanted]
    folder = pull(output, files, workspace, "Reading the sounds")
    looks = []
    with track("Drawing the sounds", len(samples.takes), "sounds") as bar:
        for take in samples.takes:
            try:
                sound = read_audio(copy_of(output, folder, take.file), take.seconds + 1)
            except BadDataError as error:
                raise BadDataError(
                    f"{output.place}/{take.file} is damaged: delete it, and the same command makes it again"
                ) from error
            looks.append(look_of(sound))
            bar.advance(1)
    output.write_bytes(FILE, listening_page(samples, looks, note).encode(errors="backslashreplace"))


def look_of(waveform: Tensor) -> Look:
    """What a waveform [2, N] at 48 kHz looks like."""
    mono = waveform.mean(0)
    parts = [part for part in np.array_split(mono.numpy(), PARTS) if part.size]
    peaks = [(round(float(part.min()), 3), round(float(part.max()), 3)) for part in parts]
    return Look(peaks, mel_png(waveform, SAMPLE_RATE))
