"""Whatever stands in the environment of a job, nothing of it is in what the job makes or says."""

import os
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.lifecycle import watching
from sidestep.runtime import jsonlines
from sidestep.runtime.errors import ExitCode
from sidestep.storage.access import ACCESS
from tests.songs import MakeSpec

CANARY = "cAnArY0123456789"
CREDENTIALS = {
    name for access in ACCESS.values() for name in (*access.variables, *access.instead, *access.beside)
}
OTHERS = ("RUNPOD_API_KEY", "CONTAINER_API_KEY", "WANDB_API_KEY", "MY_PASSWORD", "SOMETHING_OF_MINE", "PS1")
URLS = {
    "SIDESTEP_RUNTIME__WEBHOOK": f"http://127.0.0.1:9/services/{CANARY}",
    "HTTPS_PROXY": f"http://me:{CANARY}@127.0.0.1:9",
    "HF_ENDPOINT": f"http://me:{CANARY}@127.0.0.1:9",
}


@pytest.mark.parametrize("dataset", ["there", "nowhere"])
def test_no_variable_s_value_is_in_any_output(
    dataset: str,
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spec = make_spec()
    monkeypatch.setattr(watching, "SECONDS_TO_SEND", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (*CREDENTIALS, *OTHERS):
        monkeypatch.setenv(name, CANARY)
    for name, url in URLS.items():
        monkeypatch.setenv(name, url)
    words = [
        "train",
        "--checkpoint-dir",
        spec.checkpoint_dir,
        "--output-dir",
        "out",
        "--epochs",
        "1",
        "--verbose",
    ]
    words += ["--dataset-dir", spec.tensors_place if dataset == "there" else "nowhere"]
    code = main([*words, "--rank", "2"])
    jsonlines.about(dict)
    assert code == (ExitCode.DONE if dataset == "there" else ExitCode.MISSING)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert "sidestep.log" in names
    assert dataset == "nowhere" or {"receipt.json", "report.html", "README.md", "job.yaml"} <= names
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []
    assert CANARY not in "".join(capfd.readouterr())
    assert os.environ["SOMETHING_OF_MINE"] == CANARY
