"""`sidestep render`: what goes to a file, to standard output and to the terminal, and what is refused."""

import re
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.job import resolve
from sidestep.platforms.image import REPOSITORY, image_reference
from sidestep.platforms.render import PLATFORMS, default_file
from sidestep.runtime.errors import ExitCode
from tests.platforms.rendering import IMAGE, SPECS


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_file_goes_to_standard_output_and_the_command_to_the_terminal(
    platform: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["render", platform, str(SPECS / "s3" / "pipeline.yaml"), "--image", IMAGE, "--seed", "7"]
    assert main(words) == ExitCode.DONE
    shown = capsys.readouterr()
    assert "side-step" in shown.out and "1-cuda13" in shown.out and "7" in shown.out
    assert f"my-lora{PLATFORMS[platform].suffix}" in shown.err

    assert main([*words, "--output", "a b"]) == ExitCode.DONE
    again = capsys.readouterr()
    assert again.out == "" and "'a b'" in again.err
    assert Path("a b").read_text().replace("'a b'", f"my-lora{PLATFORMS[platform].suffix}") == shown.out


def test_the_image_is_the_flag_s_then_the_variable_s_then_this_version_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["render", "runpod", str(SPECS / "s3" / "lora.yaml")]

    def image() -> str:
        return str(re.findall(r'"image": "(.*)"', capsys.readouterr().out)[0])

    main(command)
    assert image().startswith(f"{REPOSITORY}:")
    assert image_reference(None, 13, {}).endswith("-cuda13")
    monkeypatch.setenv("SIDESTEP_IMAGE", "from.the/variable:1")
    main(command)
    assert image() == "from.the/variable:1"
    main([*command, "--image", "from.the/flag:1"])
    assert image() == "from.the/flag:1"


@pytest.mark.parametrize(
    ("arguments", "code", "facts"),
    [
        (["kubernets"], ExitCode.USAGE, ["'kubernets'", "kubernetes?"]),
        (["moon"], ExitCode.USAGE, ["'moon'", *PLATFORMS]),
        ([], ExitCode.USAGE, ["PLACE"]),
        (["vast", "--audio-dir", "my_songs"], ExitCode.BAD_SPEC, ["vast", "audio_dir = my_songs"]),
        (
            ["vast", "--checkpoint-dir", "checkpoints"],
            ExitCode.BAD_SPEC,
            ["vast", "checkpoint_dir = checkpoints"],
        ),
        (["vast", "--resume-from", "./old"], ExitCode.BAD_SPEC, ["vast", "train.resume_from = ./old"]),
        (["runpod", "--device", "cpu"], ExitCode.BAD_SPEC, ["runpod", "runtime.device", "cpu"]),
        (
            ["docker", "--on-exit", "stop"],
            ExitCode.BAD_SPEC,
            ["docker", "runtime.on_exit = stop", "runpod", "vast"],
        ),
        (["docker", "--audio-dir", "/data/a:b"], ExitCode.BAD_SPEC, ["audio_dir = /data/a:b", "':'"]),
        (
            ["vast", "--audio-dir", "s3://studio/it's"],
            ExitCode.BAD_SPEC,
            ["SIDESTEP_AUDIO_DIR", "s3://studio/it's", "quote"],
        ),
        (["slurm", "--max-price", "1"], ExitCode.USAGE, ["slurm", "--max-price", "runpod"]),
        (["moon", "--seed", "none"], ExitCode.USAGE, ["'moon'", *PLATFORMS]),  # before the spec
    ],
)
def test_what_does_not_go_is_refused(
    arguments: list[str], code: ExitCode, facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    platform, *flags = arguments or [""]
    words = [platform, str(SPECS / "s3" / "pipeline.yaml"), *flags] if platform else []
    assert main(["render", *words]) == code
    shown = capsys.readouterr()
    assert [fact for fact in facts if fact not in shown.err] == []
    assert shown.out == ""


def test_the_spec_s_own_file_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    text = (SPECS / "s3" / "lora.yaml").read_text()
    Path("my-lora.yaml").write_text(text)
    assert main(["render", "kubernetes", "my-lora.yaml", "--output", "./my-lora.yaml"]) == ExitCode.USAGE
    assert "--output ./my-lora.yaml" in capsys.readouterr().err
    assert Path("my-lora.yaml").read_text() == text
    spec, _ = resolve(config="my-lora.yaml", environ={})
    assert "my-lora.yaml" not in {default_file(platform, spec) for platform in PLATFORMS.values()}


def test_an_unwritable_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    code = main(["render", "docker", str(SPECS / "s3" / "lora.yaml"), "--output", "file/below.sh"])
    assert code == ExitCode.ACCESS and "file/below.sh" in capsys.readouterr().err
