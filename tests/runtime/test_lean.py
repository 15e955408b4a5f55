"""What takes seconds to import is imported where it is used."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "estimate"])
def test_a_lora_run_loads_nothing_heavy_that_it_does_not_use(task: str) -> None:
    heavy = {"lycoris", "bitsandbytes", "sidestep.adapters.lokr"}
    heavy |= {"lightning", "torchmetrics", "matplotlib", "scipy", "pandas", "torchaudio", "torchvision"}
    code = (
        "import sys; from sidestep.runtime.lean import import_diffusers; import_diffusers()\n"
        f"import sidestep.tasks.{task}, peft, diffusers\n"
        f"print(sorted({heavy} & set(sys.modules)))\n"
        "import sidestep.training.optimizer as optimizer\n"
        "print(optimizer._adamw8bit_class().__module__.partition('.')[0])"  # and yet it is there
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "bitsandbytes"]


@pytest.mark.slow
def test_a_lora_is_put_on_without_bitsandbytes(tiny_checkpoints: Path) -> None:
    """Which peft would import for each layer; an optimizer can have it afterwards."""
    code = (
        "import sys; from sidestep.runtime.lean import import_diffusers; import_diffusers()\n"
        "from sidestep import acestep; from sidestep.config.training import AdapterSpec\n"
        "from sidestep.adapters import inject\n"
        "model = acestep.load_model(sys.argv[1], 'base')\n"
        "inject(model.transformer, AdapterSpec(), 1)\n"
        "print('bitsandbytes' in sys.modules)\n"
        "import sidestep.training.optimizer as optimizer\n"
        "print(optimizer._adamw8bit_class().__module__.partition('.')[0])"
    )
    words = [sys.executable, "-c", code, str(tiny_checkpoints)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "bitsandbytes"]


def test_what_was_done_before_is_known_without_torch() -> None:
    """Each task of a finished pipeline: `sidestep run` answers at once."""
    program = (
        "import sys, sidestep.tasks.preprocess, sidestep.tasks.estimate, sidestep.lifecycle.finish\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'av'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
