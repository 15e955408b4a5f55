"""What `make cuda-check` imports; that it works as a whole takes 3 GB to see."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "requirements" / "check_cuda.py"
ELSEWHERE = {"gcsfs", "adlfs"}  # of the image's extras, and not among those for tests


def test_it_imports_packages_by_the_names_of_their_modules() -> None:
    spec = importlib.util.spec_from_file_location("check_cuda", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {name for name in script.modules() if not importlib.util.find_spec(name)} <= ELSEWHERE
