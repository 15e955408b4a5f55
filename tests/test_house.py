"""The rules that hold the house together: imports point one way, and nothing heavy loads before it must."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import FLOORS, FRONT, PACKAGE, House, drawing

TESTS = Path(__file__).parent
NO_ROOMS = {  # the folders of tests/ that mirror no room of sidestep/
    # what is run by a target
    *("bench", "chart", "fuzz", "image", "music", "mutants", "requirements", "torture"),
    *("golden", "guide"),  # what the tests read
}

# Whole rooms and single modules that a job is checked with, found to be done, or watched by.
TORCH_FREE = (
    *("cli", "commands", "wizard", "platforms", "preflight", "report"),
    *("commitlog", "storage", "config", "runtime"),
    *("lifecycle.finish", "lifecycle.identity", "lifecycle.job", "lifecycle.output", "lifecycle.publish"),
    *("lifecycle.bundle", "lifecycle.push"),
    *(
        "lifecycle.compared",
        "lifecycle.receipt",
        "lifecycle.results",
        "lifecycle.resume",
        "lifecycle.status",
        "training.history",
        "training.numbers",
        "training.verdict",
    ),
    "training.savings",
    *("acestep.config", "acestep.layout", "acestep.names", "acestep.releases"),
    *("data.dataset", "data.entries", "data.index", "data.keys", "data.made", "data.places"),
    *("data.preprocessed", "data.probe", "data.sidecar", "data.unfinished", "tasks.preprocess"),
)


def test_imports_point_down_and_in_no_circle() -> None:
    assert House().faults() == []


def test_every_room_has_its_folder_of_tests() -> None:
    rooms = set(House().rooms) - {"sidestep"}
    folders = {file.parent.name for file in TESTS.glob("[a-z]*/*") if file.name != "__pycache__"}
    assert rooms <= folders
    assert folders <= rooms | NO_ROOMS


@pytest.mark.parametrize("part", TORCH_FREE)
def test_checking_a_job_loads_no_torch(part: str) -> None:
    """In a fresh process, which names the first module that brings torch along."""
    modules = [name for name in House().files if f"{name}.".startswith(f"sidestep.{part}.")]
    assert modules
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def built(folder: Path, **files: str) -> House:
    """A house of these files below sidestep/, by their names with __ for /."""
    for name, text in files.items():
        file = folder / "sidestep" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (file.parent / "__init__.py").touch()
    return House(folder / "sidestep")


UP = "up: sidestep.runtime.logs:{} imports sidestep.storage.store"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import sidestep.storage.store", 1),
        ("import os\nfrom sidestep.storage import store", 2),
        ("from sidestep.storage.store import open_store", 1),
        ("from ..storage import store", 1),
        ("def late():\n    from sidestep.storage.store import Store", 2),
        ("if TYPE_CHECKING:\n    from sidestep.storage.store import Store", 2),
        ("TABLE = {\n    's3': 'sidestep.storage.store',\n}", 2),
    ],
)
def test_an_arrow_up_is_found_wherever_it_stands(text: str, line: int, tmp_path: Path) -> None:
    house = built(tmp_path, storage__store="", runtime__logs=text)
    assert house.faults() == [UP.format(line)]
    assert UP.format(line) in drawing(house)


def test_rooms_on_one_floor_do_not_import_each_other(tmp_path: Path) -> None:
    house = built(tmp_path, tasks__train="import sidestep.planning.plan", planning__plan="")
    assert house.faults() == ["up: sidestep.tasks.train:1 imports sidestep.planning.plan"]


def test_a_circle_by_an_import_in_a_function_is_found(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        storage__store="def open():\n    from sidestep.storage.local import Local",
        storage__local="from sidestep.storage.remote import Remote",
        storage__remote="import sidestep.storage.store",
        storage__http="import sidestep.storage.local",  # leads into the circle, and is not of it
    )
    names = "sidestep.storage.local, sidestep.storage.remote, sidestep.storage.store"
    assert house.faults() == [f"circle of files: {names}"]


def test_a_circle_of_rooms_is_found_that_no_files_make(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        data__audio="import sidestep.acestep.vae",
        data__keys="",
        acestep__vae="",
        acestep__names="import sidestep.data.keys",
    )
    assert house.faults() == [
        "up: sidestep.acestep.names:1 imports sidestep.data.keys",
        "circle of rooms: acestep, data",
    ]


def test_a_file_that_imports_its_own_room_s_init_is_found(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        adapters__lora="from sidestep.adapters import Adapter",
        adapters__lokr="from sidestep.adapters import lora",  # the package above a module does not count
        cli="import sidestep",
    )
    assert house.faults() == [
        "own room's __init__: sidestep.adapters.lora:1",
        "own room's __init__: sidestep.cli:1",
    ]


def test_a_room_without_a_floor_is_found(tmp_path: Path) -> None:
    assert built(tmp_path, helpers__text="", tools="").faults() == ["no floor: helpers", "no floor: tools"]


def test_each_room_stands_on_one_floor() -> None:
    rooms = [room for floor in FLOORS for room in floor]
    assert len(rooms) == len(set(rooms))
    assert {file.stem for file in PACKAGE.glob("*.py")} == set(FRONT)


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_files_that_the_pages_name_are_there(page: str) -> None:
    root = PACKAGE.parent
    named = re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|jinja))`", (root / page).read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not ((root / name).is_file() or (PACKAGE / name).is_file())] == []
