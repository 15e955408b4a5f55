from collections.abc import Iterator

import pytest

from tests.torture.field import Field, torture_field


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with torture_field(tmp_path_factory.mktemp("torture")) as field:
        yield field
