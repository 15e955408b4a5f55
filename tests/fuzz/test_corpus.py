"""What the fuzzer once found, and what was made by hand, is read or refused still."""

from pathlib import Path

import pytest

from tests.fuzz.loaders import LOADERS
from tests.fuzz.run import CORPUS, check

FOUND = sorted(CORPUS.glob("*/*"))


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_was_found_is_read_or_refused(file: Path) -> None:
    assert check(file.parent.name, file.read_bytes(), seconds=20) is None  # another test may run beside it


@pytest.mark.parametrize("name", LOADERS)
def test_a_sound_file_is_read(name: str) -> None:
    for data in LOADERS[name].seeds():
        assert check(name, data, seconds=20) is None
