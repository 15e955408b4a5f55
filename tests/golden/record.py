"""`make golden`: records the golden runs anew, and prints what moved.

python -m tests.golden.record [RUN…]
"""

import argparse
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401 - first, as it sets threads and the like before torch is imported
from tests.golden.inputs import write_inputs
from tests.golden.trainings import (
    FOLDER,
    RUNS,
    GoldenRun,
    moved,
    moved_files,
    read_output,
    read_recorded,
    train,
    write_recorded,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="by default all of them")
    wanted = parser.parse_args().runs or RUNS
    if unknown := sorted(set(wanted) - set(RUNS)):
        parser.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        write_inputs(inputs)
        for name in wanted:
            output = inputs / name
            train(name, inputs, output)
            new = read_output(name, output)
            tell(name, new)
            write_recorded(name, new)


def tell(name: str, new: GoldenRun) -> None:
    """Say what is other than it was recorded."""
    if not (FOLDER / f"{name}.json").exists():
        print(f"{name}: new")
        return
    old = read_recorded(name)
    lines = [str(difference) for difference in moved(name, old, new)]
    lines += [f"{file}: {old.digests.get(file)} → {new.digests.get(file)}" for file in moved_files(old, new)]
    if old.machine != new.machine:
        lines.append(f"machine: {old.machine} → {new.machine}")
    print("\n  ".join([f"{name}: {'moved' if lines else 'nothing moved'}", *lines]), flush=True)


if __name__ == "__main__":
    main()
