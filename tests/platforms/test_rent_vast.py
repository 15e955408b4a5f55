"""The script that is rendered for Vast.ai, with a stand-in for vastai on PATH: what is rented, how often.

`test_readers` runs it with Vast's own package.
"""

import itertools
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.job import resolve
from sidestep.platforms import rent_vast
from sidestep.platforms.vast import disk, environment, query
from sidestep.platforms.wishes import NO_WISHES, Wishes
from sidestep.runtime.errors import ExitCode
from tests.platforms.rendering import IMAGE, ON_S3, job, render

# What it knows is in known.json: offers; instances; how the next creations end. Like the real one, it ends
# with 0 whatever the API says, and prints nothing but to stderr where that is an error.
VASTAI = f"""#!{sys.executable} -SI
import json, sys
from pathlib import Path
known = json.loads(Path("known.json").read_text())
words = sys.argv[1:]
known["calls"].append(words)
if words[:2] == ["search", "offers"] and not known.get("is_away"):
    print(json.dumps(known["offers"]))
elif words[:2] == ["show", "instances"]:
    print(json.dumps(known["instances"]))
elif words[:2] == ["create", "instance"]:
    how = known["creations"].pop(0) if known["creations"] else "made"
    if how in ("made", "lost"):
        label = words[words.index("--label") + 1]
        known["instances"].append({{"id": 9, "label": label, "actual_status": None}})
    if how == "made":
        print(json.dumps({{"success": True, "new_contract": 9}}))
    elif how == "unavailable":
        print(json.dumps({{"success": False, "error": "no_such_ask"}}))
Path("known.json").write_text(json.dumps(known))
"""


def offer(number: int, total: float = 0.25, min_bid: float = 0.2, **more: Any) -> dict[str, Any]:
    return {"id": number, "min_bid": min_bid, "dph_total": total, "cpu_ram": 64000, "gpu_frac": 1.0, **more}


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(words) if option == name]


class Known:
    """What the stand-in knows, and was asked."""

    def __init__(self) -> None:
        self.put(offers=[offer(4711), offer(4712, 0.3)], instances=[], creations=[], calls=[])

    def put(self, **more: Any) -> None:
        file = Path("known.json")
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **more}))

    def __getitem__(self, name: str) -> Any:
        return json.loads(Path("known.json").read_text())[name]

    def created(self) -> list[str]:
        """The offers that were asked for."""
        return [words[2] for words in self["calls"] if words[0] == "create"]


@pytest.fixture
def vast(monkeypatch: pytest.MonkeyPatch) -> Known:
    tool = Path("bin", "vastai")
    tool.parent.mkdir()
    tool.write_text(VASTAI)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent.absolute()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("MAX_PRICE", raising=False)
    return Known()


@pytest.fixture
def submit(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    made = job("vast", ON_S3)

    def run() -> tuple[int, str]:
        what = made.machine, query(made), disk(made), 16000, IMAGE, environment(made), 0.4
        code = rent_vast.main(*what, sleep=lambda seconds: None)
        return code, "".join(capsys.readouterr())

    return run


Submit = Callable[[], tuple[int, str]]


def test_the_rendered_script_rents_the_cheapest_offer_with_a_bid_above_the_least(vast: Known) -> None:
    values = {**ON_S3, "audio_dir": "s3://studio/my songs"}
    Path("job.py").write_text(render("vast", values).text)
    done = subprocess.run([sys.executable, "-S", "job.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    show, search, create = vast["calls"]
    assert show[:2] == ["show", "instances"]
    assert options(search, "--storage") == options(create, "--disk") == ["36"]
    assert options(search, "--type") == ["bid"] and options(search, "--order") == ["dph_total"]
    assert create[:3] == ["create", "instance", "4711"] and create[-2:] == ["--args", "run"]
    assert options(create, "--bid_price") == ["0.22"] and options(create, "--image") == [IMAGE]
    assert {"--cancel-unavail", "--raw"} <= set(create) and options(create, "--label") == options(
        show, "--label"
    )
    (variables,) = options(create, "--env")
    given = dict(word.split("=", 1) for word in shlex.split(variables) if word != "-e")
    runtime = {"grace_seconds": 4, "on_exit": "terminate", "price_per_hour": 0.27}
    assert resolve(environ=given)[0] == resolve(arguments={**values, "runtime": runtime}, environ={})[0]


def test_what_the_machine_must_have() -> None:
    def asked(values: dict[str, Any], wishes: Wishes = NO_WISHES) -> set[str]:
        return set(query(job("vast", {**ON_S3, **values}, wishes)).split())

    words = asked({})
    assert {
        "num_gpus=1",
        "gpu_arch=nvidia",
        "compute_cap>=800",
        "gpu_ram>=24",
        "cuda_max_good>=13.0",
    } <= words
    assert {"cpu_arch=amd64", "cpu_ram>=16", "inet_down>=200", "inet_up>=50"} <= words
    assert {"inet_down_cost<=0.02", "inet_up_cost<=0.02", "duration>=1", "disk_space>=36"} <= words
    assert "duration>=0.25" in asked({"runtime": {"max_hours": 6}})
    assert "disk_space>=52" in asked({"model_variant": "xl-base"})
    assert "disk_space>=212" in asked({}, Wishes(disk=200))


def test_an_offer_that_another_is_quicker_to_rent(vast: Known, submit: Submit) -> None:
    vast.put(creations=["unavailable", "refused"], offers=[offer(1), offer(2), offer(3)])
    assert submit()[0] == 0
    assert vast.created() == ["1", "2", "3"] and len(vast["instances"]) == 1


def test_an_answer_that_is_lost_makes_no_second_instance(vast: Known, submit: Submit) -> None:
    vast.put(creations=["lost"])
    code, said = submit()
    assert code == 0 and vast.created() == ["4711"] and "9" in said


@pytest.mark.parametrize(
    ("found", "most", "code"),
    [
        ([], "1", ExitCode.AGAIN),
        ([offer(1, 0.25)], "0.26", ExitCode.AGAIN),  # with the bid above the least
        ([offer(1, 0.25)], "0.27", 0),
        ([offer(1, cpu_ram=64000, gpu_frac=0.125)], "1", ExitCode.AGAIN),  # its share is 8 GB
        ([offer(1, cpu_ram=64000, gpu_frac=0.25)], "1", 0),
        ([offer(1)], "cheap", ExitCode.USAGE),
    ],
)
def test_it_rents_nothing_that_does_not_fit(
    vast: Known, submit: Submit, monkeypatch: pytest.MonkeyPatch, found: list[Any], most: str, code: int
) -> None:
    monkeypatch.setenv("MAX_PRICE", most)
    vast.put(offers=found)
    got, said = submit()
    assert got == code and bool(vast.created()) == (code == 0)
    if code == ExitCode.AGAIN:
        assert f"dph_total<={most}" in said and "num_gpus=1" in said


def test_an_instance_that_is_there_is_the_job_s(vast: Known, submit: Submit) -> None:
    assert submit()[0] == submit()[0] == 0 and len(vast.created()) == 1
    vast.put(instances=[{**vast["instances"][0], "actual_status": "exited"}])
    code, said = submit()
    assert code == ExitCode.TAKEN and len(vast.created()) == 1 and "vastai destroy instance 9" in said


def test_an_api_out_of_reach_and_a_tool_that_is_not_there(
    vast: Known, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    vast.put(is_away=True)
    assert submit()[0] == ExitCode.STORAGE
    monkeypatch.setenv("PATH", "")
    code, said = submit()
    assert code == ExitCode.MACHINE and "pip install vastai" in said


def test_the_codes_are_those_of_the_table() -> None:
    named = {
        "WRONG_USE": ExitCode.USAGE,
        "UNAVAILABLE": ExitCode.STORAGE,
        "MACHINE": ExitCode.MACHINE,
        "TAKEN": ExitCode.TAKEN,
        "AGAIN": ExitCode.AGAIN,
    }
    assert {name: getattr(rent_vast, name) for name in named} == named
