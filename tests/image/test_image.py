"""What the image is, and that it runs a whole job as a place would run it. `make test-image` runs these.

The image must have been built. Real are the container, its user, the read-only root and every byte of the
job; the model is tiny, there is no GPU, and the S3 server is moto's.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.yaml12 import dump_yaml
from tests.image.conftest import open_to_all
from tests.image.engine import IMAGE, LOCKED, SHELL_IMAGE, call, health_check, inspect, started
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

MEGABYTE = 10**6
EPOCHS = 40

# One spec for all: what the tests compare must have been made with the same settings.
TRAINING = {"epochs": EPOCHS, "accumulation": 1, "checkpoint": {"every_epochs": 1, "keep": 3}}
SETTINGS = {"name": "demo", "train": TRAINING, "runtime": {"device": "cpu", "grace_seconds": 20}}


def as_variables(spec: dict[str, object], prefix: str = "SIDESTEP_") -> Iterator[tuple[str, str]]:
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from as_variables(value, f"{prefix}{key.upper()}__")
        else:
            yield f"{prefix}{key.upper()}", str(value)


def spec_for(output: str, **others: object) -> dict[str, object]:
    places = {"checkpoint_dir": "/in/checkpoints", "dataset_json": "/in/songs/dataset.json"}
    return {**SETTINGS, **places, "output_dir": output, **others}


def digests(folder: Path) -> dict[str, str]:
    """Name → sha256 of the files of an adapter."""
    files = sorted(folder.iterdir())
    assert files
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def in_bytes(size: str) -> float:
    """What "1.4 MB" or "768kB" is."""
    found = re.fullmatch(r"([\d.]+) ?([kMG]?B)", size)
    assert found, size
    number, unit = found.groups()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def commits(output: Path) -> int:
    """How many checkpoints the log says are there."""
    return sum('"checkpoints/' in record.read_text() for record in output.glob("commits/*.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Path:
    """The output of a pipeline that the image ran in one go: uid 10001, spec by variables, local volume."""
    folder = tmp_path_factory.mktemp("whole")
    output, workspace = open_to_all(folder / "out"), open_to_all(folder / "workspace")
    volumes = {inputs: "/in:ro", output: "/out", workspace: "/workspace"}
    with started("run", volumes=volumes, environ=dict(as_variables(spec_for("/out")))) as container:
        assert container.wait() == 0, container.log
        assert "Adapter: /out/adapter" in container.log
    return output


def test_the_whole_pipeline_from_variables(whole: Path) -> None:
    assert {"tensors", "estimate", "checkpoints", "adapter"} <= {entry.name for entry in whole.iterdir()}
    assert "adapter_model.safetensors" in digests(whole / "adapter")


def test_as_any_user_from_a_mounted_spec_to_a_bucket(
    tmp_path: Path, inputs: Path, s3_server: S3Server, whole: Path
) -> None:
    """Another user, another way in and another place give the same adapter."""
    spec = spec_for(s3_server.place("runs/demo"), storage={"endpoint_url": s3_server.endpoint})
    (tmp_path / "job.yaml").write_bytes(dump_yaml(spec))
    (tmp_path / "job.yaml").chmod(0o644)
    volumes = {inputs: "/in:ro", tmp_path / "job.yaml": "/etc/sidestep/job.yaml:ro"}
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    volumes[open_to_all(tmp_path / "workspace")] = "/workspace"
    with started("run", user=1234567, volumes=volumes, environ=credentials) as container:
        assert container.wait() == 0, container.log
        assert SECRET_KEY not in container.log
    store = s3_server.store("runs/demo/adapter")
    made = {file.path: hashlib.sha256(store.read_bytes(file.path)).hexdigest() for file in store.list_files()}
    assert made == digests(whole / "adapter")


def training(tmp_path: Path, inputs: Path, whole: Path) -> tuple[Path, dict[str, Any]]:
    """An empty output, and how to start a container that trains into it what the whole pipeline trained."""
    output = open_to_all(tmp_path / "out")
    volumes = {inputs: "/in:ro", whole / "tensors": "/tensors:ro", output: "/out"}
    volumes[open_to_all(tmp_path / "workspace")] = "/workspace"
    spec = spec_for("/out", task="train", dataset_dir="/tensors")
    return output, {"volumes": volumes, "environ": dict(as_variables(spec))}


def test_a_stop_in_mid_training_loses_nothing(tmp_path: Path, inputs: Path, whole: Path) -> None:
    output, job = training(tmp_path, inputs, whole)
    with started("run", **job) as container:
        container.wait_for(lambda: commits(output) >= 2, "second checkpoint")
        call("exec", container.name, *health_check())  # fails where it is unhealthy
        call("stop", "--time", "30", container.name)
        assert container.wait() == 75, container.log
    before = commits(output)
    assert 2 <= before < EPOCHS
    with started("run", **job) as container:
        assert container.wait() == 0, container.log
        assert "Going on after step" in container.log
    assert digests(output / "adapter") == digests(whole / "adapter")


def test_one_killed_for_memory_goes_on_from_its_last_commit(
    tmp_path: Path, inputs: Path, whole: Path
) -> None:
    """Its /dev/shm is filled until the kernel takes the only process that gives memory back: the job."""
    output, job = training(tmp_path, inputs, whole)
    # Little, so that it is full long before the training is over.
    limits = ["--memory", "1500m", "--memory-swap", "1500m", "--shm-size", "2g"]
    with started("run", **job, options=limits) as container:
        container.wait_for(lambda: commits(output) >= 2, "second checkpoint")
        call("exec", container.name, "dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", check=False)
        # SIGKILL, which nobody here sends but the kernel; not every engine's OOMKilled tells it.
        assert container.wait() == 137, container.log
    assert 2 <= commits(output) < EPOCHS
    with started("run", **job) as container:
        assert container.wait() == 0, container.log
        assert "Going on after step" in container.log
    assert digests(output / "adapter") == digests(whole / "adapter")


def test_alone_it_says_what_to_do() -> None:
    said = call("run", "--rm", "--network", "none", *LOCKED, IMAGE).stdout
    assert "docker run" in said
    assert "/etc/sidestep/job.yaml" in said


def test_a_wrong_spec_ends_with_its_code() -> None:
    with started("run", environ={"SIDESTEP_TRAIN__EPOCHS": "many"}) as container:
        assert container.wait() == 78
        assert "SIDESTEP_TRAIN__EPOCHS" in container.log


@pytest.mark.parametrize("user", [10001, 987654])
def test_only_the_workspace_can_be_written(user: int) -> None:
    """Under a root that is not read-only, as a plain `docker run` has it."""
    script = (
        "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*'"
    )
    run = ["run", "--rm", "--network", "none", "--user", str(user), "--entrypoint", "sh"]
    found = call(*run, IMAGE, "-c", f"{script} 2>/dev/null || true").stdout.split()
    assert set(found) <= {"/workspace", "/tmp", "/var/tmp", "/run/lock", "/var/lock", "/run/.containerenv"}


def test_what_it_is_made_of() -> None:
    image = inspect("image", IMAGE)
    config = image["Config"]
    assert config["User"] == "10001:0"
    assert config["Entrypoint"] == ["sidestep"]
    assert config["Labels"]["org.opencontainers.image.title"] == "Side-Step"
    assert config["Labels"]["org.opencontainers.image.version"]
    secret = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PIP_")
    assert not [name for name in config["Env"] if any(word in name.upper() for word in secret)]


def test_it_has_no_compiler_no_weights_and_nothing_of_the_build() -> None:
    script = """
        command -v cc gcc g++ clang nvcc
        find / -xdev \\( -name '*.safetensors' -o -name '*.ckpt' -o -path '/root/.cache/*' -o -path '/src' \\
            -o -path '/wheel' -o -path '/requirements' -o -name 'ssh_host_*' \\) -print 2>/dev/null
        true
    """
    run = ["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh"]
    assert call(*run, IMAGE, "-c", script).stdout.split() == []


def test_every_module_is_byte_compiled() -> None:
    """With a read-only root nothing is compiled at run time: each start would pay for it again."""
    script = (
        "import sys, pathlib; from importlib.util import cache_from_source as cache\n"
        "import sidestep.cli, torch, diffusers, peft\n"
        "files = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]\n"
        "files = [file for file in files if file.startswith('/') and file.endswith('.py')]\n"
        "print([f for f in files if not pathlib.Path(cache(f)).exists()], len(files) > 1000)"
    )
    run = ["run", "--rm", "--network", "none", *LOCKED, "--tmpfs", "/workspace", "--entrypoint", "python"]
    assert call(*run, IMAGE, "-W", "ignore", "-c", script).stdout.strip() == "[] True"


def test_the_health_check_tells_progress_from_none(tmp_path: Path) -> None:
    workspace = open_to_all(tmp_path / "workspace")
    test = health_check()
    run = ["run", "--rm", "--network", "none", *LOCKED, "--volume", f"{workspace}:/workspace"]

    def healthy() -> bool:
        return call(*run, "--entrypoint", test[0], IMAGE, *test[1:], check=False).returncode == 0

    assert not healthy(), "there is no sign of life yet"
    (workspace / "alive").touch()
    assert healthy()
    now = (workspace / "alive").stat().st_mtime
    os.utime(workspace / "alive", (now - 3600, now - 3600))
    assert healthy(), "the first step may take an hour"
    os.utime(workspace / "alive", (now - 7200, now - 7200))
    assert not healthy()


def test_the_projects_own_layer_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    """A new version of Side-Step alone is a small pull where an older one was."""
    history = call("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE).stdout
    layers = [(in_bytes(size), by) for size, _, by in (line.partition("\t") for line in history.splitlines())]
    with capsys.disabled():  # a report, for whoever runs the tests
        print()
        for size, by in layers:
            print(f"{size / MEGABYTE:8.1f} MB  {by[:100]}")
    [own] = [
        size for size, by in layers if "COPY" in by and " /opt/sidestep" in by and "requirements" not in by
    ]
    assert own < 8 * MEGABYTE  # source and bytecode: a third of it when pulled
    assert sum(size for size, _ in layers) < 2500 * MEGABYTE


def test_who_logs_in_is_root_and_finds_the_command() -> None:
    """The target shell: what a session over SSH has, which does not get the image's variables."""
    script = "id -u; command -v rsync /usr/sbin/sshd; sidestep --version; find /etc/ssh -name 'ssh_host_*'"
    run = ["run", "--rm", "--network", "none", SHELL_IMAGE, "env", "-i", "bash", "-lc", script]
    user, rsync, sshd, version, *keys = call(*run).stdout.splitlines()
    assert (user, rsync, sshd) == ("0", "/usr/bin/rsync", "/usr/sbin/sshd")
    assert version.startswith("sidestep ") and not keys
