"""What is counted for those who watch: bytes, shown by a bar or not, and never backwards."""

from sidestep.runtime import tally
from sidestep.runtime.progress import track
from sidestep.storage.store import no_progress


def test_bytes_count_with_and_without_a_bar() -> None:
    before, songs = tally.total(tally.BYTES), tally.total(tally.SONGS)
    with track("Pulling", 100, "B") as bar:
        bar.advance(60)
        bar.advance(-10)  # to be moved again: they had been moved all the same
        bar.advance(10)
    no_progress(5)
    with track("Reading", 3, "songs") as bar:
        bar.advance(3)
    assert tally.total(tally.BYTES) - before == 75
    assert tally.total(tally.SONGS) == songs  # read, not made
