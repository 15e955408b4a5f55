"""The rendered scripts are run, with stand-ins for docker, apptainer, scontrol and vastai on PATH."""

import itertools
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import JobSpec, resolve
from sidestep.platforms.render import PLATFORMS
from sidestep.runtime.errors import ExitCode
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
def stop(number, frame):
    tell(signal=number)
    time.sleep(0.3)  # the state is saved
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
tell(environ=dict(os.environ))
time.sleep(float(os.environ["SECONDS_OF_WORK"]))
sys.exit(int(os.environ["CODE"]))
"""
OFFER = {"id": 4711, "min_bid": 0.2}
VASTAI = f"""{TOOL}
tell()
if sys.argv[1] == "search":
    print(os.environ["OFFERS"])
"""


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


@pytest.mark.parametrize("values", [ON_S3, ON_DISK], ids=["s3", "local"])
@pytest.mark.parametrize("platform", ["docker", "slurm", "vast"])
def test_shellcheck_finds_nothing(platform: str, values: dict[str, Any]) -> None:
    if values is ON_DISK and not PLATFORMS[platform].local_paths:
        values = {**ON_S3, "name": "Another.one", "dataset_json": "s3://studio/my songs.json"}
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
    def start(self, code: int, seconds: float, values: dict[str, Any] = ON_S3) -> subprocess.Popen[bytes]:
        environ = tools(apptainer=APPTAINER, scontrol=f"{TOOL}\ntell()")
        Path("job.sh").write_text(render("slurm", values, file="job.sh").text)
        Path("scratch").mkdir()
        environ |= {"CODE": str(code), "SECONDS_OF_WORK": str(seconds), "SLURM_JOB_ID": "42"}
        environ |= {"SLURM_TMPDIR": str(Path("scratch").absolute()), "PYTHONPATH": "/of/the/node"}
        return subprocess.Popen(["bash", "job.sh"], env=environ)

    @pytest.mark.parametrize("code", [0, 65, 75, 137])
    def test_the_job_s_code_is_the_script_s_and_75_goes_back_to_the_queue(self, code: int) -> None:
        assert self.start(code, 0).wait(30) == code
        requeued = [["requeue", "42"]] if code == 75 else []
        assert [call["words"] for call in calls("scontrol")] == requeued
        assert list(Path("scratch").iterdir()) == []

    def test_term_is_passed_on_and_waited_for(self) -> None:
        script = self.start(0, 60)
        deadline = time.monotonic() + 30
        while not calls("apptainer") and time.monotonic() < deadline:
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)  # as `--signal=B:TERM` does: to the script alone
        assert script.wait(30) == ExitCode.AGAIN
        assert [call.get("signal") for call in calls("apptainer")] == [None, signal.SIGTERM]
        assert [call["words"] for call in calls("scontrol")] == [["requeue", "42"]]

    @pytest.mark.parametrize("values", [ON_S3, ON_DISK], ids=["s3", "local"])
    def test_it_runs_the_same_spec_with_its_folders(self, values: dict[str, Any]) -> None:
        assert self.start(0, 0, values).wait(30) == 0
        (call,) = calls("apptainer")
        assert call["words"][-2:] == [f"docker://{IMAGE}", "run"]
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
        assert {"--requeue", "--open-mode=append", "--gres=gpu:1", "--signal=B:TERM@40"} <= set(said)


class TestVast:
    def submit(self, offers: list[dict[str, Any]], **environ: str) -> subprocess.CompletedProcess[str]:
        Path("job.sh").write_text(render("vast", {**ON_S3, "audio_dir": "s3://studio/my songs"}).text)
        environ = {**tools(vastai=VASTAI), "OFFERS": json.dumps(offers), **environ}
        return subprocess.run(["bash", "job.sh"], env=environ, capture_output=True, text=True)

    def test_it_rents_the_cheapest_offer_with_a_bid_above_the_least(self) -> None:
        assert self.submit([OFFER, {"id": 1, "min_bid": 9}]).returncode == 0
        search, create = (call["words"] for call in calls())
        assert search[:2] == ["search", "offers"] and "cuda_max_good>=13.0" in search[2]
        assert options(search, "--type") == ["bid"] and options(search, "--order") == ["dph_total"]
        assert create[:3] == ["create", "instance", "4711"] and create[-2:] == ["--args", "run"]
        assert options(create, "--bid_price") == ["0.22"] and options(create, "--image") == [IMAGE]
        (variables,) = options(create, "--env")
        given = dict(word.split("=", 1) for word in shlex.split(variables) if word != "-e")
        runtime = {"grace_seconds": 4, "on_exit": "terminate"}
        wanted: dict[str, Any] = {**ON_S3, "audio_dir": "s3://studio/my songs", "runtime": runtime}
        assert resolve(environ=given)[0] == expected(wanted)

    @pytest.mark.parametrize(
        ("offers", "most", "said"),
        [
            ([], "1", "has no such machine at the moment: num_gpus=1"),
            ([OFFER], "0.21", "more than MAX_PRICE=0.21"),
        ],
    )
    def test_it_rents_nothing_that_does_not_fit(
        self, offers: list[dict[str, Any]], most: str, said: str
    ) -> None:
        done = self.submit(offers, MAX_PRICE=most)
        assert done.returncode == 1 and said in done.stderr
        assert [call["words"][0] for call in calls()] == ["search"]

    def test_a_search_that_fails_ends_it(self) -> None:
        Path("job.sh").write_text(render("vast", ON_S3).text)
        environ = tools(vastai=f"{TOOL}\ntell()\nsys.exit(3)")
        assert subprocess.run(["bash", "job.sh"], env=environ).returncode == 3
        assert len(calls()) == 1
