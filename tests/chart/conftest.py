import pytest

from tests.chart.charted import VALUES, Manifest, rendered


@pytest.fixture(params=VALUES, ids=lambda file: file.stem)
def documents(request: pytest.FixtureRequest) -> list[Manifest]:
    """What the chart makes of one of its example files."""
    return rendered(None, "--values", str(request.param))
