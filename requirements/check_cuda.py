"""Installs the CUDA pins in a throw-away environment and imports them, on a machine that may have no GPU.

    python requirements/check_cuda.py           those for CUDA 12, then those for CUDA 13
    python requirements/check_cuda.py 12        one of them

For each, about 3 GB are downloaded and 8 GB of disk used, until it ends. Shows that every pin can be had,
that they fit each other and Side-Step, that the packages load beside torch's CUDA build, and that
bitsandbytes has a library for that CUDA.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = ("gpu", "gcs", "azure")  # those of the image

MODULES = {"lycoris-lora": "lycoris", "nvidia-ml-py": "pynvml"}  # not named as their package

IMPORT = """
import importlib, pathlib, sys
cuda, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
    print("  imported", module)
import bitsandbytes, torch
version = torch.version.cuda
print(f"  torch {torch.__version__}, CUDA {version}, a GPU here: {torch.cuda.is_available()}")
if version is None or version.split(".")[0] != cuda:
    sys.exit(f"torch is not built for CUDA {cuda}")
library = pathlib.Path(bitsandbytes.__file__).with_name(f"libbitsandbytes_cuda{version.replace('.', '')}.so")
if not library.exists():
    sys.exit(f"bitsandbytes has no {library.name}")
"""


def direct_dependencies() -> list[str]:
    """The packages that pyproject.toml asks for, those of the image's extras too, by name."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]
    return [re.split(r"[\[<>=!~ ]", line)[0] for line in wanted]


def modules() -> list[str]:
    """What to import of each."""
    return [MODULES.get(name, name.replace("-", "_")) for name in direct_dependencies()]


def check(cuda: str, folder: Path) -> None:
    """Make the environment in `folder` and try it. Raises CalledProcessError where something fails."""
    pins = HERE / f"cuda{cuda}.txt"
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    torch = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "-q", "--no-cache-dir", "--no-deps"]
    wheels = [*install, "--only-binary", ":all:"]
    # === asks for PyPI's build, which is for CUDA, even where an index also offers 2.x+cpu
    subprocess.run([*wheels, torch.replace("==", "===")], check=True)
    subprocess.run([*wheels, "-r", pins, "-r", HERE / "image.txt"], check=True)
    subprocess.run([*install, HERE.parent], check=True)
    subprocess.run([*pip, "check"], check=True)
    subprocess.run([python, "-W", "ignore", "-c", IMPORT, cuda, *modules()], check=True)


if __name__ == "__main__":
    for cuda in sys.argv[1:] or ("12", "13"):
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cuda-check-") as folder:
            try:
                check(cuda, Path(folder))
            except subprocess.CalledProcessError as error:
                sys.exit(f"The pins for CUDA {cuda} do not work: {' '.join(map(os.fspath, error.cmd))[:200]}")
            size = sum(file.lstat().st_size for file in Path(folder).rglob("*")) / 1e9
        print(f"The pins for CUDA {cuda} work: {size:.1f} GB, {time.monotonic() - start:.0f} s")
