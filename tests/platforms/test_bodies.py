"""What the other platforms are sent, held against what their documentation names."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from sidestep.config.job import resolve
from sidestep.platforms.job import flattened
from sidestep.platforms.render import PLATFORMS
from sidestep.platforms.wishes import Wishes, flag
from sidestep.platforms.yaml11 import dump
from sidestep.runtime.errors import Rerun, UsageError
from tests.platforms.rendering import ON_S3, ROOT, SPECS, render


def test_dstack_s_task_says_what_is_retried() -> None:
    rendered = render("dstack", ON_S3)
    task = YAML(typ="safe", pure=True).load(rendered.text)
    assert task["retry"]["on_events"] == ["no-capacity", "interruption", "error"]
    assert "64, 65, 66, 70, 71, 77, 78" in rendered.text.partition("type:")[0]
    assert task["resources"]["gpu"]["compute_capability"] == 8.0
    assert (task["resources"]["memory"], task["spot_policy"]) == (
        "16GB..",
        "auto",
    ) and "max_price" not in task
    assert task["env"]["AWS_ACCESS_KEY_ID"] == "${{ secrets.AWS_ACCESS_KEY_ID }}"
    given = {name: value for name, value in task["env"].items() if name.startswith("SIDESTEP_")}
    assert resolve(environ=given)[0].output_dir == ON_S3["output_dir"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", task["name"])


@pytest.mark.parametrize("name", ["no", "A_Name.with-everything", "0123", "x" * 63])
def test_names_are_made_to_fit(name: str) -> None:
    task = YAML(typ="safe", pure=True).load(render("dstack", {**ON_S3, "name": name}).text)
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", task["name"]) and not task["name"].endswith("-")
    assert task["env"]["SIDESTEP_NAME"] == name


@pytest.mark.parametrize("version", [(1, 1), (1, 2)])
def test_every_reader_of_yaml_reads_the_same(version: tuple[int, int]) -> None:
    texts = [
        "no",
        "on",
        "1e-4",
        "1_000",
        "0o17",
        "12:30",
        "~",
        "null",
        "",
        " a",
        "a: b",
        "- a",
        "{{ a }}",
        "a\nb\n",
    ]
    texts += [
        "yes",
        "Y",
        "s3://bucket/a b",
        "/data/songs",
        "a#b",
        "a #b",
        "é",
        "'",
        '"',
        "\\",
        "@a",
        "!a",
        "1.5",
        "=",
    ]
    values: dict[str, Any] = {"texts": texts, "numbers": [1, 0.5, True, None]} | {
        text: 1 for text in texts if text
    }
    reader = YAML(typ="safe", pure=True)
    reader.version = version
    assert reader.load(dump(values, comment="one\n\ntwo")) == values


def test_an_empty_mapping_is_left_to_its_default() -> None:
    assert flattened({("train", "adapter", "rank_pattern"): {}, ("train", "max_steps"): None}) == {
        "SIDESTEP_TRAIN__MAX_STEPS": "null"
    }


def test_the_page_s_table_says_what_is_rendered() -> None:
    page = (ROOT / "docs" / "places.md").read_text(encoding="utf-8")
    for one in PLATFORMS.values():
        grace = f"{one.grace_seconds} s" if one.grace_seconds else "the spec's"
        row = f"| {one.name} | {one.reclaim} | {one.notice} | {grace} | {one.next_attempt} |"
        assert row in page, row
        after = [one.after[rerun] for rerun in (Rerun.PERMANENT, Rerun.COUNTED, Rerun.AGAIN)]
        assert f"| {one.name} | {' | '.join(after)} |\n" in page, after


def test_wishes_are_what_the_platforms_are_asked_for() -> None:
    def task(platform: str, **said: Any) -> dict[str, Any]:
        text = render(platform, {}, SPECS / "s3" / "pipeline.yaml", wishes=Wishes(**said)).text
        read: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
        return read

    dearest = task("dstack", max_price=0.8, spot="never", keep_codes=True)
    assert (dearest["max_price"], dearest["spot_policy"]) == (0.8, "on-demand")
    assert dearest["entrypoint"] == "sidestep run" != task("dstack")["entrypoint"]
    assert task("dstack", spot="only")["spot_policy"] == "spot"
    resources = task("skypilot", max_price=0.8, spot="preferred")["resources"]
    assert resources["max_hourly_cost"] == 0.8 and resources["memory"] == "16+"
    assert {(one["infra"], one["use_spot"]) for one in resources["any_of"]} == {
        (cloud, is_spot) for cloud in ("aws", "gcp", "azure") for is_spot in (True, False)
    }
    assert task("skypilot", spot="never")["resources"]["use_spot"] is False
    assert task("skypilot")["resources"]["use_spot"] is True and "max_hourly_cost" not in str(
        task("skypilot")
    )


@pytest.mark.parametrize(
    ("platform", "said"),
    [("docker", {"max_price": 1.0}), ("skypilot", {"keep_codes": True}), ("slurm", {"spot": "only"})],
)
def test_a_wish_that_a_platform_has_no_word_for_is_refused(platform: str, said: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=flag(next(iter(said)))):
        render(platform, {}, SPECS / "s3" / "pipeline.yaml", wishes=Wishes(**said))


def test_skypilot_names_the_oldest_release_that_reads_it() -> None:
    config = SPECS / "s3" / "pipeline.yaml"
    assert "0.12.0 or newer" in render("skypilot", {}, config).text
    assert "0.13.0 or newer" in render("skypilot", {}, config, wishes=Wishes(max_price=1)).text


def test_skypilot_tries_again_what_the_job_itself_can_count() -> None:
    task = YAML(typ="safe", pure=True).load(render("skypilot", {}, SPECS / "s3" / "pipeline.yaml").text)
    assert task["resources"]["job_recovery"] == {
        "max_restarts_on_errors": 0,
        # Not 69: nothing can be counted without the store.
        "recover_on_exit_codes": [72, 73, 74, 75, 76, 137, 143],
    }
