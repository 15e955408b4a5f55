"""The script for Docker, run as it stands, with a real container engine in Docker's place."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from sidestep.acestep.tiny import write_tiny_checkpoint
from sidestep.config.job import resolve
from sidestep.platforms.render import PLATFORMS, job_for
from sidestep.tasks import demo
from tests.image.engine import IMAGE, call, engine


@pytest.mark.image
@pytest.mark.timeout(900)
def test_the_script_makes_tensors_in_the_folder_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SECONDS", 1.0)
    monkeypatch.setattr(demo, "TUNES", demo.TUNES[:1])
    demo.write_songs(Path("my songs"))
    write_tiny_checkpoint(Path("checkpoints"), variants=["base"])
    spec, origins = resolve(
        arguments={
            "name": f"test-{os.getpid()}",
            "task": "preprocess",
            "audio_dir": "my songs",
            "dataset_dir": "it's made/tensors",
            "runtime": {"device": "cpu"},
        },
        environ={},
    )
    docker = PLATFORMS["docker"]
    Path("job.sh").write_text(docker.render(job_for(docker, spec, origins, IMAGE)).text)
    Path("bin").mkdir()
    # One thread: those of several containers on a busy machine only get in each other's way.
    quick = '[ $1 != run ] || { shift; set -- run --env OMP_NUM_THREADS=1 "$@"; }'
    Path("bin/docker").write_text(f'#!/bin/sh\n{quick}\nexec {shlex.join(engine())} "$@"\n')
    Path("bin/docker").chmod(0o755)
    environ = {**os.environ, "PATH": f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(["sh", "job.sh"], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (tensors,) = Path("it's made/tensors").glob("*.pt")
        made = tensors.stat()
        assert made.st_uid == os.getuid()
        again = subprocess.run(["sh", "job.sh"], env=environ, capture_output=True, text=True)
        assert again.returncode == 0 and tensors.stat().st_mtime_ns == made.st_mtime_ns
    finally:
        call("volume", "rm", "--force", f"sidestep-test-{os.getpid()}")
