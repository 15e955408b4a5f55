"""A place that looks like a URI and is none is refused, with its field and where it was written."""

from pathlib import Path

import pytest

from sidestep.config.job import resolve
from sidestep.config.place import SCHEMES, check_folder, check_place
from sidestep.config.sources import Given
from sidestep.runtime.errors import BadSpecError
from tests.facts import facts


@pytest.mark.parametrize(
    "place",
    [
        '"s3://studio/o"',
        "'gs://studio/o'",
        "“./songs”",
        "s3://studio/o'",
        "s3:/studio/o",
        "s3:studio/o",
        "gs//studio/o",
        "https:/host/x",
        "S3:///studio/o",
        "file:/songs",
        "studio:/songs",
        "C:/songs",
        "C:\\songs",
        "s4://studio/o",
        "swift://studio/o",
        "${BUCKET}/o",
        "s3://studio/${RUN",
        "$(pwd)/songs",
        "{{ bucket }}/o",
        "$BUCKET/o",
        "s3://$BUCKET/o",
        "%USERPROFILE%\\songs",
        "arn:aws:s3:::studio/o",
        "s3://<bucket>/o",
        "s3://my bucket/o",
        "s3://studio/a\tb",
        "hf://ace",
        "hf://datasets/ace",
        "hf:///ace/step",
        "hf://ace/step@",
        "songs\x00",
        "so\nngs",
        "\ufeffsongs",
        " s3://studio/o",
        "songs ",
        "songs\u00a0",
    ],
)
def test_no_place(place: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_place(place)


@pytest.mark.parametrize(
    "place",
    [
        *(f"{scheme}://studio/o" for scheme in SCHEMES if scheme != "file"),
        "file:///songs/$X/'a'",
        "memory:///x",
        "hf://ace/step@refs%2Fpr%2F1/a/b",
        "hf://datasets/ace/songs",
        "s3",
        "s3/songs",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/studio/o",
        "az://container@account/o",
        "s3://studio/it's $5 {a} 100%/o'clock",
        "./${BUCKET}/o",
        "../'songs'",
        'Side 12"',
        "/music/Bob's songs",
        "~/songs",
        "a:b",
        "/tmp/a:/b",
        "$5/songs",
        "/data/x$y",
        "söngs/日本語",
        "",  # the schema says of that what it is
    ],
)
def test_a_place(place: str) -> None:
    assert check_place(place) == place


@pytest.mark.parametrize("path", ["s3://studio/w", "file:///w", "s3:/w", "${SCRATCH}/w"])
def test_no_local_folder(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_folder(path)
    assert check_folder("./a://b") == "./a://b"


def test_every_source_is_checked_and_named() -> None:
    Path("job.yaml").write_text(
        "dataset_dir: '\"t\"'\nruntime: {workspace: 's3://w'}\ntrain: {resume_from: ' x'}\n"
    )
    with pytest.raises(BadSpecError) as refused:
        resolve(
            [Given(("output_dir",), "s3:/studio/o", "--output-dir")],
            arguments={"checkpoint_dir": Path("${CK}")},
            environ={
                "SIDESTEP_AUDIO_DIR": "{{ songs }}",
                "SIDESTEP_STORAGE__ENDPOINT_URL": "http://${HOST}:9",
            },
            config="job.yaml",
        )
    for field, origin in [
        ("output_dir", "--output-dir"),
        ("checkpoint_dir", "argument"),
        ("audio_dir", "SIDESTEP_AUDIO_DIR"),
        ("storage.endpoint_url", "SIDESTEP_STORAGE__ENDPOINT_URL"),
        ("dataset_dir", "job.yaml:1"),
        ("runtime.workspace", "job.yaml:2"),
        ("train.resume_from", "job.yaml:3"),
    ]:
        assert refused.match(facts(f"{field} = ", f"({origin}): "))


def test_line_ends_are_stripped_wherever_they_come_from() -> None:
    Path("job.yaml").write_text("output_dir: |\n  s3://studio/o\nstorage:\n  region: |\n    eu-west-1\n")
    flag = Given(("audio_dir",), "songs\r", "--audio-dir")
    spec, _ = resolve([flag], environ={}, config="job.yaml")
    assert (spec.output_dir, spec.audio_dir, spec.storage.region) == ("s3://studio/o", "songs", "eu-west-1")
