"""A job's songs, as its tasks read them."""

from sidestep.config.job import JobSpec
from sidestep.data.dataset import Song
from sidestep.lifecycle.job import Job


def songs_of(spec: JobSpec) -> list[Song]:
    return Job(spec).read_songs()
