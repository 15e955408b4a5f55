"""A job's songs, as its tasks read them."""

from sidestep.config.job import JobSpec
from sidestep.data.dataset import Song, read_songs
from sidestep.lifecycle.job import Job


def songs_of(spec: JobSpec) -> list[Song]:
    job = Job(spec)
    return read_songs(job.songs, job.dataset_json)
