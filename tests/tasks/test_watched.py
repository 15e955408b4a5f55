"""A run makes the same bytes whoever watches it, and however badly that goes."""

import json

import pytest

from sidestep.lifecycle import watching
from sidestep.runtime import jsonlines
from sidestep.runtime.logs import setup_logging
from tests.receiver import TOKEN, receiver
from tests.runs import outcome, train
from tests.songs import MakeSpec


def test_the_bytes_are_the_same_with_and_without_all_of_it(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines; four webhooks: one that works, one is dead, one hangs, one answers 500."""
    monkeypatch.setattr(watching, "SECONDS_TO_SEND", 0.2)
    settings = {"epochs": 1, "adapter": {"dropout": 0.1}}
    unwatched = make_spec("unwatched", **settings)
    train(unwatched)

    setup_logging(as_json=True)
    with receiver() as works, receiver() as hangs, receiver() as fails:
        hangs.is_hanging, fails.status = True, 500
        urls = [works.url, f"http://127.0.0.1:9/{TOKEN}", hangs.url, fails.url]
        watched = make_spec("watched", **settings).changed(
            {"runtime.webhook": urls, "runtime.log_format": "json", "runtime.price_per_hour": 1.5}
        )
        train(watched)
        assert works.events == ["begin", "done"] and hangs.got and fails.got
    jsonlines.about(dict)
    assert outcome(watched) == outcome(unwatched)

    lines = capsys.readouterr().err.splitlines()
    assert {json.loads(line)["job"] for line in lines} == {"my-lora"}
    assert sum("out of reach" in line or "has not answered" in line for line in lines) == 3
    assert TOKEN not in "".join(lines)
