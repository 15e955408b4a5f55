"""No secret is shown: not by its value in any spelling, nor by its form in a URL, nor in an error's chain."""

import base64
import json
import logging
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

import sidestep
from sidestep.cli import main
from sidestep.runtime import secrets
from sidestep.runtime.console import write
from sidestep.runtime.errors import ExitCode, StorageError
from sidestep.runtime.logs import add_log_file, setup_logging
from sidestep.runtime.secrets import hide, hide_in
from tests.fake_tasks import Tasks

SECRET = "v/e+ry \"hunter2'\\é%"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET + "\r\n")
    return SECRET


@pytest.mark.parametrize(
    "spelt",
    [
        SECRET,
        repr(SECRET),
        repr(SECRET.encode()),
        repr(SECRET + "\n"),
        json.dumps({"a": SECRET}),
        quote(SECRET),
        quote(SECRET, safe=""),
        "v%2fe%2bry%20%22hunter2%27%5c%c3%a9%25",
        quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_spelling(spelt: str, secret: str) -> None:
    said = hide(f"header {spelt} was refused")
    assert "***" in said and "hunter2" not in said and spelt not in said
    assert said.startswith("header ") and said.endswith(" was refused")


@pytest.mark.parametrize(
    "name",
    ["AWS_SESSION_TOKEN", "HF_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CLIENT_SECRET", "WEBHOOK_PASSWORD"],
)
def test_whose_values_are_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"hunter2-{name}")
    assert hide(f"is hunter2-{name}") == "is ***"
    monkeypatch.delenv(name)
    assert hide(f"was hunter2-{name}") == "was ***"  # also once another takes its place


KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0B", "AQEFAASCBKcwggSjAgEAAoIB", "AQC7VJTUt9Us8cKB/x=="]


@pytest.mark.parametrize("named_by", ["variable", "home"])
def test_what_is_secret_in_googles_file(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service account has it, and as a login does, also where a library shows a part of it."""
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----", ""])
    fields = {
        "private_key": key,
        "refresh_token": f"1//refresh-{named_by}",
        "client_email": "a@b.iam.example",
    }
    file = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(fields, indent=1).replace("=", "\\u003d"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody" if named_by == "variable" else tmp_path))
    if named_by == "variable":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    for said in (key, repr(key), json.dumps(key), file.read_text(), KEY_LINES[1], f"1//refresh-{named_by}"):
        hidden = hide(f"it says {said}")
        assert (
            "***" in hidden and not any(line in hidden for line in KEY_LINES[:2]) and "refresh-" not in hidden
        )
    assert hide(fields["client_email"]) == fields["client_email"]


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
def test_the_content_of_a_file_of_tokens_is_secret(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"eyJhbGciOi.{name.lower()}\n")
    monkeypatch.setenv(name, str(tmp_path / "token"))
    assert hide(f"sent eyJhbGciOi.{name.lower()}.") == "sent ***."


def test_what_is_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-not-secret")
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-or-true")
    said = "AKIA-not-secret short false-or-true s3://bucket/a?b az://box@account/x http://host:9000/a, x@y"
    assert hide(said) == said


def test_the_key_in_a_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=hunter2hunter2==;X=y")
    assert hide("signed by hunter2hunter2== for me") == "signed by *** for me"


def test_secrets_in_aws_s_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = AKIAX\n aws_secret_access_key=hunter2/one\n")
    assert hide("hunter2/one AKIAX") == "*** AKIAX"
    file.write_text("[default]\naws_secret_access_key = hunter2/two\naws_session_token = hunter2/three\n")
    assert hide("hunter2/two hunter2/three") == "*** ***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@host/a", "https://***@host/a"),
        ("https://hunter2@host/a", "https://***@host/a"),
        ("s3://KEY:hun/ter2@bucket", "s3://***@bucket"),
        ("https://h/a?X-Amz-Signature=hunter2&x=1", "https://h/a?X-Amz-Signature=***&x=1"),
        ("http://h/a?sv=1&sig=hunter2%3D", "http://h/a?sv=1&sig=***"),
        ("a.wav%3FX-Goog-Signature%3Dhunter2: gone", "a.wav%3FX-Goog-Signature%3D***: gone"),
        ("https://h/?access_token=hunter2", "https://h/?access_token=***"),
    ],
)
def test_secrets_by_their_form_in_a_url(url: str, shown: str) -> None:
    assert hide(f"from {url}") == f"from {shown}"


def test_nothing_that_is_written_shows_one(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    add_log_file("out/logs/1.log")
    cause = ValueError(f"Invalid header value {SECRET.encode()!r}")
    with pytest.raises(StorageError) as failed:
        raise StorageError(f"out of reach: {cause}") from cause
    logging.getLogger("sidestep.x").error("%s", failed.value, exc_info=failed.value)
    assert "hunter2" not in str(failed.value) + repr(failed.value)
    hide_in(failed.value)
    assert "hunter2" not in repr(cause)
    logging.getLogger("botocore").error("sent %s", SECRET)
    write(json.dumps({"error": SECRET}))
    screen = capsys.readouterr()
    for text in (screen.out, screen.err, *(Path(f).read_text() for f in ("sidestep.log", "out/logs/1.log"))):
        assert "***" in text and "hunter2" not in text


def test_a_bug_s_traceback_shows_none(secret: str, tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sidestep.log").mkdir()  # so that it is shown on the screen
    tasks.failure = RuntimeError(f"bad header {SECRET}")
    assert main(["train", "--output-dir", "o"]) == ExitCode.BUG
    assert "bad header ***" in capsys.readouterr().err


def test_python_sees_none(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(SECRET) from ValueError(SECRET)

    monkeypatch.setattr("sidestep.tasks._run", fails)
    with pytest.raises(RuntimeError) as failed:
        sidestep.run(sidestep.JobSpec(audio_dir="a", output_dir="o"))
    assert failed.value.args == ("***",)
    assert failed.value.__cause__ is not None and failed.value.__cause__.args == ("***",)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT", "https_proxy"])
@pytest.mark.parametrize("value", ["me:hunter22@host:9000", "http://me:hunter22@host", "s3:/hunter22@host"])
def test_a_password_in_an_address_that_is_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A library says the whole value where it cannot read it."""
    monkeypatch.setenv(name, value)
    assert "hunter22" not in hide(f"Invalid endpoint: {value}")
    monkeypatch.setenv(name, "http://host-without-a-user:9000/x@y")
    assert hide("http://host-without-a-user:9000/x@y") == "http://host-without-a-user:9000/x@y"


def test_each_token_of_several_urls_in_one_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As apprise takes them, with commas between them."""
    monkeypatch.setattr(secrets, "_seen", set())
    first, second = "first0123456789abcdef", "second0123456789abcdef"
    secrets.remember_url(f"json://h/{first},json://h/{second}")
    shown = secrets.hide(f"{first} {second}")
    assert first not in shown and second not in shown
