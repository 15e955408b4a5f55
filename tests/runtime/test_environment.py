"""Blanks and line ends around a variable's value are no part of it, and are said without the value."""

import pytest

from sidestep.runtime.environment import tidy_environment
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts, tells


def test_values_are_stripped_and_their_names_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    environ = {
        "AWS_SECRET_ACCESS_KEY": " hunter2hunter2\r\n",
        "HF_TOKEN": "hf_x\n",
        "WANDB_API_KEY": "key\n",
        "SIDESTEP_TRAIN__LR": "\t1e-4",
        "AZURE_TENANT_ID": "\r\n",
        "GOOGLE_CLOUD_PROJECT": "studio",
        "PATH": "/bin\n",
    }
    tidy_environment(environ)
    assert environ == {
        "AWS_SECRET_ACCESS_KEY": "hunter2hunter2",
        "HF_TOKEN": "hf_x",
        "WANDB_API_KEY": "key",
        "SIDESTEP_TRAIN__LR": "1e-4",
        "GOOGLE_CLOUD_PROJECT": "studio",
        "PATH": "/bin\n",
    }
    [said] = caplog.messages
    assert tells(said, "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SIDESTEP_TRAIN__LR", "AZURE_TENANT_ID")
    assert tells(said, "WANDB_API_KEY")
    assert "hunter2" not in said and "GOOGLE" not in said
    caplog.clear()
    tidy_environment(environ)
    assert caplog.messages == []  # said once


@pytest.mark.parametrize("value", ["{{ RUNPOD_SECRET_HF_TOKEN }}", "${{ secrets.HF_TOKEN }}"])
def test_a_secret_that_a_platform_has_not_is_not_set(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Sent as a token, its name would be refused even where no token is needed."""
    environ = {"HF_TOKEN": value, "AWS_REGION": "eu", "SIDESTEP_NAME": value}
    tidy_environment(environ)
    assert environ == {"AWS_REGION": "eu", "SIDESTEP_NAME": value}
    [said] = caplog.messages
    assert tells(said, "HF_TOKEN", value)


def test_a_line_end_inside_a_credential_is_refused_by_name() -> None:
    with pytest.raises(BadSpecError, match=facts("AWS_SESSION_TOKEN")) as refused:
        tidy_environment({"AWS_SESSION_TOKEN": "hunter2\nhunter3"})
    assert "hunter" not in str(refused.value)
    tidy_environment({"GOOGLE_APPLICATION_CREDENTIALS_JSON": '{\n "a": 1}'})
