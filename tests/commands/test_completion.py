"""What the shell offers when somebody presses Tab, by a real bash."""

import subprocess
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.commands import COMMANDS
from sidestep.config.presets import BUILT_IN
from sidestep.platforms.render import PLATFORMS

# What bash does on Tab: the words so far, the last of them to be completed.
ASK = """
source completion.bash
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p sidestep | sed -E 's/.*-F ([^ ]+).*/\\1/')
$function sidestep "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(autouse=True)
def script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    Path("completion.bash").write_text(capsys.readouterr().out)
    Path("job.yaml").touch()
    Path("songs").mkdir()


def offered(line: str) -> set[str]:
    """What bash offers for the last word of `line`; none is written as ''."""
    words = [word.strip("'") for word in line.split()]
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", *words], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return set(done.stdout.split())


def test_commands() -> None:
    assert set(COMMANDS) <= offered("sidestep ''")
    assert offered("sidestep ver") == {"verify-resume"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sidestep fixed --ep", {"--epochs"}),
        ("sidestep fixed --adapter-type ''", {"lora", "lokr"}),
        ("sidestep plan --fi", {"--fit", "--first-step-minutes"}),
        ("sidestep run --preset ''", set(BUILT_IN)),
        ("sidestep presets show q", {"quick-test"}),
        ("sidestep presets ''", {"list", "show", "save", "delete", "import", "export"}),
        ("sidestep render ''", set(PLATFORMS)),
        ("sidestep run --config jo", {"job.yaml"}),
        ("sidestep run --audio-dir so", {"songs"}),
        ("sidestep train --mode ''", {"corrected", "vanilla"}),
    ],
)
def test_flags_and_values(line: str, expected: set[str]) -> None:
    assert expected <= offered(line)
    if not line.endswith("''"):
        assert offered(line) == expected


def test_a_command_s_own_word_is_no_flag_of_it() -> None:
    assert offered("sidestep fixed --mod") == {"--model-variant"}


def test_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef sidestep")
