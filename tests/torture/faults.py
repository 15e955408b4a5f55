"""Attempts work through a proxy that fails as real servers and networks do, time and again."""

import random
from typing import Any

from sidestep.config.schema import StorageSpec
from sidestep.storage.open import open_store
from tests.faults import faulty_server
from tests.torture.field import CELLS, Field, same, store_of
from tests.torture.outcome import check_log, read_outcome
from tests.torture.points import PREPROCESS
from tests.torture.tally import Tally

TRIES = 6
SETTINGS = CELLS["lora-adamw"] | {"max_steps": 4}
ANYWHERE = ("500", "503", "429", "drop", "cut", "cut short", "cut upload", "lost", "silent")
AT_RECORDS = ("409", "lost", "500", "cut upload", "drop")
SHARE = 0.12  # of all requests meets a fault


def fail(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """One run whose requests meet faults of the kind `cell`: see `faults_of`."""
    reference = field.reference(lambda output: field.spec(output, SETTINGS))
    inputs = _inputs_in_the_bucket(field)
    with faulty_server(field.server.endpoint) as proxy:
        spec = field.spec(
            field.new_output(),
            SETTINGS,
            **inputs,
            storage={"endpoint_url": proxy.endpoint, "region": "us-east-1"},
        )
        codes: list[int] = []
        while 0 not in codes:
            assert len(codes) < TRIES, f"nobody finished: {codes}"
            proxy.only = ONLY[cell]
            proxy.faults[:] = faults_of(cell, rng)
            before = [fault for fault in proxy.faults if fault]
            attempt = field.start(spec, is_impatient=True)
            codes.append(attempt.end())
            assert codes[-1] in (0, 69, 73, 75), f"exit code {codes[-1]}: {attempt.said}"
            for fault in before[: len(before) - len([fault for fault in proxy.faults if fault])]:
                tally.done[fault] += 1
    direct = store_of({**spec, "storage": {"endpoint_url": field.server.endpoint}})
    check_log(direct)
    same(read_outcome(direct), reference.outcome)
    tally.came_to["the same bytes"] += 1


def faults_of(cell: str, rng: random.Random) -> list[str]:
    """What the requests of an attempt meet, one after the other; "" is none."""
    kinds = {"anywhere": ANYWHERE, "records": AT_RECORDS, "short answers": ("short",)}[cell]
    share = 0.5 if cell == "records" else SHARE
    return [rng.choice(kinds) if rng.random() < share else "" for _ in range(300)]


ONLY = {
    "anywhere": lambda method, path: True,
    "records": lambda method, path: method == "PUT" and "/commits/" in path,
    "short answers": lambda method, path: method == "GET" and "list-type" not in path,
}


def lag(field: Field, cell: str, rng: random.Random, tally: Tally) -> None:
    """A job whose listings show files seconds after they were written, killed once on the way."""
    settings = CELLS["lora-adamw"] | {"max_steps": 2}
    reference = field.reference(lambda output: field.pipeline(output, settings))
    with faulty_server(field.server.endpoint) as proxy:
        proxy.listings_lag = rng.uniform(0.5, 6)
        spec = field.pipeline(field.new_output(), settings, storage={"endpoint_url": proxy.endpoint})
        name = rng.choice(sorted(PREPROCESS)) if cell == "killed" else None
        codes = [field.start(spec, name, rng.randint(1, PREPROCESS[name].most) if name else 0).end()]
        while 0 not in codes:
            assert len(codes) < TRIES, f"nobody finished: {codes}"
            attempt = field.start(spec)
            codes.append(attempt.end())
            assert codes[-1] in (0, 73, 75), f"exit code {codes[-1]}: {attempt.said}"
    direct = store_of({**spec, "storage": {"endpoint_url": field.server.endpoint}})
    check_log(direct)
    same(read_outcome(direct), reference.outcome)
    tally.done["listings that lag"] += 1
    tally.came_to["the same bytes"] += 1


def _inputs_in_the_bucket(field: Field) -> dict[str, Any]:
    """Where the model and the tensors are, put there by the first who asks."""
    places = {"checkpoint_dir": "checkpoints", "dataset_dir": "tensors"}
    for name in places.values():
        there = open_store(field.server.place(name), StorageSpec(endpoint_url=field.server.endpoint))
        folder = field.folder / name
        if not there.list_files():
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    there.upload(path, str(path.relative_to(folder)))
    return {key: field.server.place(name) for key, name in places.items()}
