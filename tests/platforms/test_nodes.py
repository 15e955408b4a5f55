"""Several GPUs and machines on the platforms beside Kubernetes: what is asked for, and what each one runs."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import resolve
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import BadSpecError, ExitCode, Rerun, codes
from sidestep.runtime.ranks import Node, node_in
from tests.facts import facts
from tests.platforms.rendering import ON_S3, render
from tests.platforms.test_scripts import APPTAINER, SIF_OF_IMAGE, TOOL, calls, options, tools

GPUS = {**ON_S3, "task": "train", "audio_dir": None, "runtime": {"gpus": 4}}
NODES = {**GPUS, "runtime": {"nodes": 2, "gpus": 4}}
OF_ONE, OF_TWO = "launch --processes 4 train", "launch --processes 4 --nodes 2 train"

# As the real one: a task on each node, with variables of its own; TERM kills them, USR1 is passed on, and the
# highest of their codes is its own. Each node has a disk of its own.
SRUN = f"""{TOOL}
import subprocess
tell()
at = next(at for at, word in enumerate(sys.argv) if at and not word.startswith("-"))
tasks = []
for number in range(2):
    own = {{"SLURM_PROCID": str(number), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}}
    own |= {{"CUDA_VISIBLE_DEVICES": "0,1,2,3", "CODE": os.environ["CODE"].split("/")[number]}}
    words = [word.replace("scratch", f"disk-of-{{number}}") for word in sys.argv[at:]]
    own["workspace"] = os.environ["workspace"].replace("scratch", f"disk-of-{{number}}")
    tasks.append(subprocess.Popen(words, env={{**os.environ, **own}}, start_new_session=True))
def to_all(number):
    for task in tasks:
        task.send_signal(number)
signal.signal(signal.SIGTERM, lambda *_: to_all(signal.SIGKILL))
signal.signal(signal.SIGUSR1, lambda *_: to_all(signal.SIGUSR1))
sys.exit(max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks]))
"""


def yaml(platform: str, values: dict[str, Any], config: Path | None = None) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(render(platform, values, config).text)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    YAML(typ="safe", pure=True).dump(NODES, file)
    return file


def test_skypilot_has_several_machines(config: Path) -> None:
    task = yaml("skypilot", {}, config)
    assert task["num_nodes"] == 2 and set(task["resources"]["accelerators"].values()) == {4}
    assert task["run"].rstrip().endswith(OF_TWO) and "--shm-size 2g" in task["run"]
    passed_on = set(options(task["run"].split(), "--env"))
    assert passed_on >= {"SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"}
    assert "num_nodes" not in yaml("skypilot", {"runtime": {"nodes": 1}}, config)


def test_skypilot_tells_a_failed_machine_from_those_that_it_kills(config: Path) -> None:
    """It starts a job again where any machine's code is in the list, and kills the others with 137."""
    recovered = set(yaml("skypilot", {}, config)["resources"]["job_recovery"]["recover_on_exit_codes"])
    for permanent in codes(Rerun.PERMANENT):
        assert not recovered & {permanent, 137, 143, ExitCode.PEER}
    assert recovered >= {ExitCode.AGAIN, ExitCode.STALLED}


def test_dstack_has_several_machines() -> None:
    task = yaml("dstack", NODES)
    assert task["nodes"] == 2 and task["resources"]["gpu"]["count"] == 4
    assert task["resources"]["shm_size"] == "2GB" and task["entrypoint"].rstrip().endswith(
        f"sidestep {OF_TWO}"
    )
    assert "nodes" not in yaml("dstack", GPUS) and "shm_size" not in yaml("dstack", ON_S3)["resources"]


def test_dstack_is_told_0_by_a_machine_that_only_lost_another_one() -> None:
    """It tries again where any machine ends with another code: a permanent one would be tried for ever."""
    for nodes, told in ((2, 0), (1, 74)):
        task = yaml("dstack", {**GPUS, "runtime": {"nodes": nodes, "gpus": 4}})
        script = task["entrypoint"].replace("sidestep launch", 'sh -c "exit 74" launch')
        assert subprocess.run(["bash", "-c", script], stderr=subprocess.DEVNULL).returncode == told


def test_docker_starts_a_process_for_each_gpu() -> None:
    text = render("docker", GPUS).text
    assert text.rstrip().endswith(OF_ONE) and "--gpus all" in text and "--shm-size 2g" in text


@pytest.mark.parametrize("platform", [name for name, one in PLATFORMS.items() if not one.many_nodes])
def test_what_has_one_machine_says_so(platform: str) -> None:
    with pytest.raises(BadSpecError, match=facts("runtime.nodes is 2", "kubernetes", "slurm")):
        render(platform, NODES)


@pytest.mark.parametrize("platform", [name for name, one in PLATFORMS.items() if not one.many_gpus])
def test_what_rents_one_gpu_says_so(platform: str) -> None:
    with pytest.raises(BadSpecError, match=facts("runtime.gpus is 4", "docker", "skypilot")):
        render(platform, GPUS)


class TestSlurm:
    def start(self, code: str, seconds: float, has_image: bool = True) -> subprocess.Popen[bytes]:
        """`code` is that of both tasks, as 75/74."""
        environ = tools(apptainer=APPTAINER, scontrol=f"{TOOL}\ntell()", srun=SRUN)
        Path("job.sh").write_text(render("slurm", NODES, file="job.sh").text)
        for folder in ("scratch", "disk-of-0", "disk-of-1"):
            Path(folder).mkdir()
        if has_image:
            Path(SIF_OF_IMAGE).touch()
        environ |= {"CODE": code, "SECONDS_OF_WORK": str(seconds), "SLURM_JOB_ID": "10042"}
        environ |= {"SLURM_TMPDIR": str(Path("scratch").absolute()), "SLURM_SUBMIT_DIR": str(Path.cwd())}
        return subprocess.Popen(["bash", "job.sh"], env=environ, start_new_session=True)

    def test_each_node_has_a_task_that_knows_which_it_is(self) -> None:
        assert self.start("0/0", 0).wait(30) == 0
        found = []
        for call in calls("apptainer"):
            assert call["words"][-len(OF_TWO.split()) :] == OF_TWO.split()
            prefix = "APPTAINERENV_"
            inside = {
                name.removeprefix(prefix): value
                for name, value in call["environ"].items()
                if name.startswith(prefix)
            }
            found.append(node_in(inside, 2))
            assert inside["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
            given = {name: value for name, value in inside.items() if name.startswith("SIDESTEP_")}
            assert resolve(environ=given)[0].runtime.nodes == 2
        assert sorted(found, key=lambda node: node.number) == [
            Node(n, 2, "10.0.0.7", 20042) for n in range(2)
        ]
        left = [*Path("disk-of-0").iterdir(), *Path("disk-of-1").iterdir()]
        assert left == [], "each node's workspace is removed"

    @pytest.mark.parametrize(
        ("ends", "code"),
        [("75/75", 75), ("74/75", 75), ("76/74", 76), ("78/74", 78), ("65/74", 74), ("137/74", 137)],
    )
    def test_it_is_requeued_after_75_alone(self, ends: str, code: int) -> None:
        assert self.start(ends, 0).wait(30) == code
        requeued = [call["words"] for call in calls("scontrol")]
        assert requeued == ([["requeue", "10042"]] if code == ExitCode.AGAIN else [])

    def test_notice_comes_as_a_signal_that_srun_passes_on(self) -> None:
        script = self.start("0/0", 60)
        deadline = time.monotonic() + 30
        while len(calls("apptainer")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(30) == ExitCode.AGAIN
        came = [call["signal"] for call in calls("apptainer") if "signal" in call]
        assert came == [signal.SIGUSR1] * 2
        assert [call["words"] for call in calls("scontrol")] == [["requeue", "10042"]]

    def test_without_an_image_no_node_runs(self) -> None:
        assert self.start("0/0", 0, has_image=False).wait(30) == ExitCode.MISSING
        assert calls("apptainer") == []

    def test_shellcheck_finds_nothing(self) -> None:
        Path("script.sh").write_text(render("slurm", NODES, file="script.sh").text)
        shellcheck = Path(sys.executable).with_name("shellcheck")
        done = subprocess.run([shellcheck, "--severity=warning", "script.sh"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_what_is_asked_of_slurm(self) -> None:
        said = set(re.findall(r"^#SBATCH (.*)$", render("slurm", NODES).text, re.MULTILINE))
        assert said >= {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=16"}
        assert "srun" not in render("slurm", GPUS).text and OF_ONE in render("slurm", GPUS).text
