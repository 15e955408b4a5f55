"""The rendered scripts are run, with stand-ins for docker, apptainer and scontrol on PATH."""

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec, resolve
from sidestep.runtime.errors import OTHERS, ExitCode, Rerun, codes, rerun_after
from tests.platforms.rendering import IMAGE, ON_S3, render

ON_DISK = {
    "name": "my-lora",
    "checkpoint_dir": "check points",
    "audio_dir": "it's & songs $HOME",
    "output_dir": "runs/my lora",
    "train": {
        "adapter": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 16}},
        "lr": 1e-5,
    },
}
SECRETS = {"AWS_ACCESS_KEY_ID": "key of the shell", "AWS_SECRET_ACCESS_KEY": "secret of the shell"}
TOOL = f"""#!{sys.executable}
import json, os, signal, sys, time
from pathlib import Path
name = Path(sys.argv[0]).name
def tell(**said):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps({{"tool": name, "words": sys.argv[1:], **said}}) + "\\n")
"""
APPTAINER = f"""{TOOL}
came = []
def note(number, frame):
    came.append(number)
    tell(signal=number)
if sys.argv[1] == "pull":  # it has no handlers
    tell(pid=os.getpid())
    time.sleep(float(os.environ.get("SECONDS_OF_PULL", 0)))
    Path(sys.argv[2]).touch()
    sys.exit(int(os.environ.get("CODE_OF_PULL", 0)))
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
tell(environ=dict(os.environ))
end = time.monotonic() + float(os.environ["SECONDS_OF_WORK"])
while time.monotonic() < end and not came:
    time.sleep(0.01)
if came:
    time.sleep(0.3)  # the state is saved
    sys.exit(75)
sys.exit(int(os.environ["CODE"]))
"""
SIF_OF_IMAGE = f"{IMAGE.rpartition('/')[2].replace(':', '_')}.sif"


def tools(**sources: str) -> dict[str, str]:
    """An environment with these stand-ins on PATH, and the shell's credentials."""
    Path("bin").mkdir()
    for name, source in sources.items():
        file = Path("bin", name)
        file.write_text(source)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}", **SECRETS}


def calls(tool: str | None = None) -> list[dict[str, Any]]:
    file = Path("calls.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [call for call in map(json.loads, lines) if tool in (None, call["tool"])]


def expected(values: dict[str, Any], **places: str) -> JobSpec:
    return resolve(arguments={**values, **places}, environ={})[0]


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(words) if option == name]


@pytest.mark.parametrize(
    "values", [ON_S3, ON_DISK, {**ON_S3, "output_dir": "gs://a/b"}], ids=["s3", "local", "gs"]
)
@pytest.mark.parametrize("platform", ["docker", "slurm"])
def test_shellcheck_finds_nothing(platform: str, values: dict[str, Any]) -> None:
    Path("script.sh").write_text(render(platform, values, file="script.sh").text)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--severity=warning", "script.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


class TestDocker:
    @pytest.mark.parametrize("values", [ON_S3, ON_DISK], ids=["s3", "local"])
    def test_it_runs_the_same_spec_with_its_folders(self, values: dict[str, Any]) -> None:
        environ = tools(docker=f"{TOOL}\ntell(environ=dict(os.environ))\nsys.exit(75)")
        Path("job.sh").write_text(render("docker", values, file="job.sh").text)
        assert subprocess.run(["sh", "job.sh"], env=environ).returncode == ExitCode.AGAIN
        (call,) = calls()
        words = call["words"]
        assert words[0] == "run" and words[-2:] == [IMAGE, "run"]
        assert options(words, "--gpus") == ["all"] and options(words, "--stop-timeout") == ["40"]
        assert options(words, "--user") == [f"{os.getuid()}:{os.getgid()}"]
        by_value = [word for word in options(words, "--env") if "=" in word]
        by_name = {word for word in options(words, "--env") if "=" not in word}
        assert by_name == ({*SECRETS, "AWS_SESSION_TOKEN"} if values is ON_S3 else set())
        places = {}
        if values is ON_DISK:
            names = ("checkpoint_dir", "audio_dir", "output_dir")
            places = {name: str(Path(str(values[name])).absolute()) for name in names}
            assert options(words, "--volume")[1:] == [
                *(f"{places[name]}:{places[name]}:ro" for name in names[:2]),
                f"{places['output_dir']}:{places['output_dir']}",
            ]
            assert Path(places["output_dir"]).is_dir()  # else Docker makes it, as root
        assert resolve(environ=dict(word.split("=", 1) for word in by_value))[0] == expected(values, **places)

    def test_without_a_gpu(self) -> None:
        assert "--gpus" not in render("docker", {**ON_S3, "runtime": {"device": "cpu"}}).text


class TestSlurm:
    """`signal_job` stands in for slurmstepd, which signals every process of the job."""

    def start(
        self,
        code: int,
        seconds: float,
        values: dict[str, Any] = ON_S3,
        has_image: bool = True,
        more: str = "",
    ) -> subprocess.Popen[bytes]:
        environ = tools(apptainer=APPTAINER, scontrol=f"{TOOL}\ntime.sleep(0.2)\ntell()")
        Path("job.sh").write_text(render("slurm", values, file="job.sh").text)
        Path("scratch").mkdir()
        if has_image:
            Path(SIF_OF_IMAGE).touch()
        environ |= {"CODE": str(code), "SECONDS_OF_WORK": str(seconds), "SLURM_JOB_ID": "42"}
        environ |= {"SLURM_TMPDIR": str(Path("scratch").absolute()), "PYTHONPATH": "/of/the/node"}
        environ |= {"SLURM_SUBMIT_DIR": str(Path.cwd())}
        return subprocess.Popen(
            ["bash", "job.sh"],
            env={**environ, **dict(word.split("=") for word in more.split())},
            start_new_session=True,
        )

    def until_it_runs(self, what: str = "run") -> None:
        deadline = time.monotonic() + 30
        while not any(call["words"][0] == what for call in calls("apptainer")):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def signal_job(self, script: subprocess.Popen[bytes], *numbers: signal.Signals) -> None:
        for number in numbers:
            os.killpg(script.pid, number)
            time.sleep(0.01)

    def requeued(self) -> list[list[str]]:
        return [call["words"] for call in calls("scontrol")]

    def came(self) -> list[int]:
        return [call["signal"] for call in calls("apptainer") if "signal" in call]

    @pytest.mark.parametrize("code", [0, *codes(Rerun.PERMANENT), *codes(Rerun.COUNTED), 75, *OTHERS])
    def test_the_job_s_code_is_the_script_s_and_75_goes_back_to_the_queue(self, code: int) -> None:
        assert self.start(code, 0).wait(30) == code
        assert self.requeued() == ([["requeue", "42"]] if rerun_after(code) is Rerun.AGAIN else [])
        assert list(Path("scratch").iterdir()) == []

    def test_of_an_array_one_task_alone_is_requeued(self) -> None:
        array = "SLURM_ARRAY_JOB_ID=40 SLURM_ARRAY_TASK_ID=7"
        assert self.start(75, 0, more=array).wait(30) == 75
        assert self.requeued() == [["requeue", "40_7"]]

    def test_notice_is_passed_on_and_waited_for(self) -> None:
        """As `--signal=B:USR1` does it: to the script alone. A second one is not passed on."""
        script = self.start(0, 60)
        self.until_it_runs()
        script.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(30) == ExitCode.AGAIN
        assert self.came() == [signal.SIGTERM]
        assert self.requeued() == [["requeue", "42"]]

    def test_notice_to_all_processes_and_twice(self) -> None:
        script = self.start(0, 60)
        self.until_it_runs()
        self.signal_job(script, signal.SIGUSR1, signal.SIGUSR1)
        assert script.wait(30) == ExitCode.AGAIN
        assert self.requeued() == [["requeue", "42"]]

    def test_scancel_ends_it_for_good(self) -> None:
        """TERM comes to the script itself, and to all others: it has saved, and is not begun again."""
        script = self.start(0, 60)
        self.until_it_runs()
        self.signal_job(script, signal.SIGTERM, signal.SIGTERM)
        assert script.wait(30) == ExitCode.AGAIN
        assert set(self.came()) == {signal.SIGTERM}
        assert self.requeued() == []

    def test_term_is_waited_for_and_not_passed_on(self) -> None:
        script = self.start(75, 1)
        self.until_it_runs()
        script.send_signal(signal.SIGTERM)
        assert script.wait(30) == 75
        assert (self.came(), self.requeued()) == ([], [])

    def test_scancel_after_notice_ends_it_for_good(self) -> None:
        script = self.start(0, 60)
        self.until_it_runs()
        self.signal_job(script, signal.SIGUSR1, signal.SIGTERM)
        assert script.wait(30) == ExitCode.AGAIN
        assert self.requeued() == []

    def test_the_image_is_pulled_on_the_node_where_nobody_did(self) -> None:
        assert self.start(0, 0, has_image=False).wait(30) == 0
        pull, run = (call["words"] for call in calls("apptainer"))
        assert pull[0] == "pull" and pull[2] == f"docker://{IMAGE}" and run[-2:] == [pull[1], "run"]
        assert list(Path("scratch").iterdir()) == []

    def test_a_pull_that_fails_is_this_node_s(self) -> None:
        assert self.start(0, 0, has_image=False, more="CODE_OF_PULL=3").wait(30) == ExitCode.MACHINE
        assert len(calls("apptainer")) == 1

    @pytest.mark.parametrize(
        ("number", "requeued"), [(signal.SIGUSR1, [["requeue", "42"]]), (signal.SIGTERM, [])]
    )
    def test_a_signal_while_it_is_pulled(self, number: signal.Signals, requeued: list[list[str]]) -> None:
        script = self.start(0, 0, has_image=False, more="SECONDS_OF_PULL=60")
        self.until_it_runs("pull")
        self.signal_job(script, number, number)
        assert script.wait(30) == ExitCode.AGAIN
        assert self.requeued() == requeued
        assert [call["words"][0] for call in calls("apptainer")] == ["pull"]

    def test_the_command_pulls_before_it_submits(self) -> None:
        environ = tools(apptainer=APPTAINER, sbatch=f"{TOOL}\ntell()")
        command = render("slurm", ON_S3, file="job.sh").command
        for _ in range(2):
            assert subprocess.run(["sh", "-c", command], env=environ).returncode == 0
        assert [call["tool"] for call in calls()] == ["apptainer", "sbatch", "sbatch"]
        assert calls()[0]["words"] == ["pull", SIF_OF_IMAGE, f"docker://{IMAGE}"]
        Path(SIF_OF_IMAGE).unlink()
        assert subprocess.run(["sh", "-c", command], env={**environ, "CODE_OF_PULL": "1"}).returncode != 0
        assert [call["tool"] for call in calls()][3:] == ["apptainer"]

    @pytest.mark.parametrize("values", [ON_S3, ON_DISK], ids=["s3", "local"])
    def test_it_runs_the_same_spec_with_its_folders(self, values: dict[str, Any]) -> None:
        assert self.start(0, 0, values).wait(30) == 0
        (call,) = calls("apptainer")
        assert call["words"][-2:] == [str(Path(SIF_OF_IMAGE).absolute()), "run"]
        assert {"--cleanenv", "--no-eval", "--nv"} <= set(call["words"])
        inside = {
            name.removeprefix("APPTAINERENV_"): value
            for name, value in call["environ"].items()
            if name.startswith("APPTAINERENV_")
        }
        given = {name: inside.pop(name) for name in list(inside) if name.startswith("SIDESTEP_")}
        assert inside == (SECRETS if values is ON_S3 else {})  # CUDA_VISIBLE_DEVICES is not set here
        places = {}
        if values is ON_DISK:
            places = {
                name: str(Path(str(values[name])).absolute()) for name in ("checkpoint_dir", "audio_dir")
            }
            output = places["output_dir"] = str(Path(str(values["output_dir"])).absolute())
            assert f"{output}:{output}" in options(call["words"], "--bind") and Path(output).is_dir()
        assert resolve(environ=given)[0] == expected(values, **places)

    def test_the_options_of_sbatch_come_first(self) -> None:
        lines = render("slurm", ON_S3).text.splitlines()
        assert lines[0] == "#!/bin/bash"
        said = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
        assert lines[1 : 1 + len(said)] == [f"#SBATCH {option}" for option in said]
        assert {"--requeue", "--open-mode=append", "--gres=gpu:1", "--signal=B:USR1@40"} <= set(said)
