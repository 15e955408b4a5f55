"""Passwords, presigned URLs and tokens: refused as a place, and shown nowhere."""

import json
import logging
from pathlib import Path

import pytest

from sidestep.cli import main
from sidestep.config.job import JobSpec
from sidestep.config.schema import StorageSpec
from sidestep.runtime.credentials import check_no_credentials, hide_in_place
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.logs import setup_logging
from sidestep.storage.open import open_store

REFUSED = [
    "https://studio.s3.amazonaws.com/songs?X-Amz-Credential=C&X-Amz-Date=D&X-Amz-Signature=MARKER",
    "https://storage.googleapis.com/studio/songs?X-Goog-Signature=MARKER",
    "https://me.blob.core.windows.net/songs?sv=2024&sp=rl&sig=MARKER",
    "https://host/songs?token=MARKER",
    "https://host/songs?k=MARKER",
    "https://host/songs#access_token=MARKER",
    "HTTPS://HOST/songs?ACCESS_TOKEN=MARKER",
    "http://host/?MARKER",
    "s3://studio/songs?X-Amz-Security-Token=MARKER",
    "s3://studio/songs?AWSAccessKeyId=MARKER&Signature=MARKER",
    "az://songs@account.dfs.core.windows.net/a?sv=1&sig=MARKER",
    "gs://studio/songs?access_token=MARKER",
    "studio.s3.amazonaws.com/songs?X-Amz-Signature=MARKER",
    "file:///songs?api_key=MARKER",
    "https://MARKER@host/songs",
    "s3://MARKER@bucket/songs",
    "hf://hf_MARKER@owner/name",
    "https://me:MARKER@host/songs",
]


@pytest.mark.parametrize("place", REFUSED)
def test_a_place_with_a_credential(place: str) -> None:
    with pytest.raises(ValueError, match=r"has a (query|password) in it") as refused:
        check_no_credentials(place)
    assert "MARKER" not in str(refused.value)
    hidden = hide_in_place(place)
    assert "MARKER" not in hidden and "***" in hidden
    with pytest.raises(BadSpecError, match=r"\*\*\*") as not_opened:
        open_store(place, StorageSpec())
    assert "MARKER" not in str(not_opened.value)


@pytest.mark.parametrize(
    "place",
    [
        "s3://studio/what?/song",
        "s3://studio/songs?versionId=3",
        "s3://studio/a#b",
        "./why? because",
        "songs?",
        "https://host:8080/songs",
        "hf://owner/name@revision",
        "az://songs@account.dfs.core.windows.net/key=1",
        "/songs/monkey=1",
    ],
)
def test_a_place_without_one(place: str) -> None:
    assert check_no_credentials(place) == place == hide_in_place(place)


@pytest.mark.parametrize("place", REFUSED)
@pytest.mark.parametrize(
    "command",
    [
        ["run", "--dry-run", "--checkpoint-dir", "ck", "--output-dir", "o", "--audio-dir", "PLACE"],
        ["render", "runpod", "--output-dir", "s3://studio/c", "--audio-dir", "PLACE", "--output", "r.json"],
        ["status", "PLACE"],
        ["status", "s3://studio/x", "--endpoint-url", "PLACE"],
        ["export", "PLACE", "--format", "app"],
        ["plan", "--check-only", "--output-dir", "o", "--dataset-dir", "PLACE"],
        ["train", "--dataset-dir", "d", "--output-dir", "PLACE"],
        ["train", "--dataset-dir", "d", "--output-dir", "o", "--resume-from", "PLACE"],
        ["verify-resume", "--dataset-dir", "d", "--output-dir", "PLACE"],
        ["run", "--config", "job.yaml"],
        ["run"],
    ],
)
def test_no_command_shows_it(
    command: list[str], place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(f"audio_dir: {json.dumps(place)}\noutput_dir: o\n")
    if command == ["run"]:
        monkeypatch.setenv("SIDESTEP_AUDIO_DIR", place)
    assert main([place if word == "PLACE" else word for word in command]) == 78
    said = "".join(capfd.readouterr()) + Path("sidestep.log").read_text()
    assert "***" in said and "MARKER" not in said
    assert not Path("r.json").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["PLACE"],
        ["run", "PLACE"],
        ["run", "--config", "PLACE"],
        ["presets", "import", "PLACE"],
        ["tiny-checkpoint", "--variants", "PLACE", "x"],
        ["export", "x", "--format", "app", "--offline", "--output", "PLACE"],
        ["export", "x", "--format", "PLACE"],
    ],
)
def test_nor_is_it_shown_where_no_place_belongs(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    place = REFUSED[0]
    assert main([place if word == "PLACE" else word for word in command]) in (64, 66, 78)
    said = "".join(capfd.readouterr()) + Path("sidestep.log").read_text()
    assert "MARKER" not in said


def test_a_log_hides_what_a_server_led_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the signed address that a hub's files are at, in the error of another library."""
    setup_logging()
    try:
        raise RuntimeError(f"403, url={REFUSED[0]}")
    except RuntimeError:
        logging.getLogger("sidestep.x").error("broken: %s", REFUSED[0], exc_info=True)
    said = capsys.readouterr().err + Path("sidestep.log").read_text()
    assert "MARKER" not in said and said.count("X-Amz-Credential=***") == 3


def test_pydantic_does_not_show_it_either() -> None:
    for given in ({"audio_dir": REFUSED[0]}, {"storage": {"endpoint_url": REFUSED[3]}}):
        with pytest.raises(ValueError, match="has a query in it") as refused:
            JobSpec(output_dir="o", **given)
        assert "MARKER" not in str(refused.value)
