"""What a run has left in its output, read without the product's help where it judges the product."""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event

from sidestep.storage.store import Store

CURVES = ("loss/train", "loss/smooth", "loss/eval", "lr", "grad_norm/total")
BY_LEVEL = "loss_by_timestep/"


@dataclass(frozen=True)
class Outcome:
    """What must be equal, however often a run was killed."""

    adapter: dict[str, bytes]
    losses: bytes  # the history in the last checkpoint's state
    judged: dict[str, Any]  # its validations, and the step of the checkpoint that is published
    curves: dict[str, list[tuple[int, float]]]  # tag → (step, value), as TensorBoard's files tell them


def read_outcome(store: Store, *, damaged: str = "") -> Outcome:
    """The outcome of a run that is finished.

    `damaged`: what a test has damaged of the output. Records, curves and, in a finished run, a checkpoint may
    stay so: what they hold is left out.
    """
    records = _readable_records(store) if damaged == "commits" else read_records(store)
    assert records[-1]["kind"] == "done"
    adapter = {
        info.path: store.read_bytes(f"adapter/{info.path}") for info in store.child("adapter").list_files()
    }
    assert adapter and all(store.stat(name) for name in ("report.html", "loss.png"))
    for name in ("receipt.json", "history.json"):
        json.loads(store.read_bytes(name))
    status = json.loads(store.read_bytes("status.json"))
    assert (status["state"], status["exit_code"]) == ("done", 0), status
    state = f"{records[-1]['folder']}/training_state.safetensors"
    losses = b"" if damaged == "checkpoints" else _losses(store.read_bytes(state))
    judged = {} if damaged in ("checkpoints", "commits") else _judged(store, records)
    return Outcome(adapter, losses, judged, {} if damaged in ("runs", "commits") else _curves(store))


def check_log(store: Store, *, spare_newest: bool = False) -> list[dict[str, Any]]:
    """All records, of which every checkpoint that is still to be kept is whole, byte for byte.

    `spare_newest`: a test has damaged one; then the newest may be that.
    """
    records = read_records(store)
    commits = [record for record in records if record["files"]]
    generations = [record["generation"] for record in records]
    assert generations == sorted(generations)
    kept = set(commits[-1]["kept"]) if commits else set()
    for record in commits:
        if record["folder"] in kept and not spare_newest:
            for name, entry in record["files"].items():
                data = store.read_bytes(f"{record['folder']}/{name}")
                found = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                assert found == entry, f"{record['folder']}/{name} is not what its record says"
    return records


def read_records(store: Store) -> list[dict[str, Any]]:
    """The commit log, in order, without a gap."""
    names = [info.path for info in store.list_files("commits")]
    assert names == [f"commits/{number:06}.json" for number in range(1, len(names) + 1)]
    return [json.loads(store.read_bytes(name)) for name in names]


def _readable_records(store: Store) -> list[dict[str, Any]]:
    """The records, without those that are none."""
    records = []
    for info in store.list_files("commits"):
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            record = json.loads(store.read_bytes(info.path))
            assert isinstance(record["generation"], int) and record["kind"] in ("take-over", "commit", "done")
            records.append(record)
    return records


def damage_newest(store: Store) -> bool:
    """Cut the newest checkpoint's state short; False where no other one could be used instead."""
    commits = [record for record in read_records(store) if record["files"]]
    if len({record["folder"] for record in commits}) < 2 or len(commits[-1]["kept"]) < 2:
        return False
    path = f"{commits[-1]['folder']}/training_state.safetensors"
    store.write_bytes(path, store.read_bytes(path)[:-100])
    return True


def _losses(state: bytes) -> bytes:
    start = 8 + struct.unpack("<Q", state[:8])[0]
    begin, end = json.loads(state[8:start])["history.losses"]["data_offsets"]
    return state[start + begin : start + end]


def _judged(store: Store, records: list[dict[str, Any]]) -> dict[str, Any]:
    done = records[-1]
    state = json.loads(store.read_bytes(f"{done['folder']}/training_state.json"))
    folder = done["published"] or done["folder"]
    assert folder in done["kept"]
    steps = {record["step"] for record in records if record["files"] and record["folder"] == folder}
    return {"validations": state.get("validations"), "published": steps}


def _curves(store: Store) -> dict[str, list[tuple[int, float]]]:
    """All points, of all files; one that is told twice stays twice."""
    curves: dict[str, list[tuple[int, float]]] = {tag: [] for tag in CURVES}
    for info in store.list_files("runs"):
        for event in _events(store.read_bytes(info.path)):
            for value in event.summary.value:
                if value.tag in CURVES or value.tag.startswith(BY_LEVEL):
                    curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: sorted(points) for tag, points in curves.items()}


def _events(data: bytes) -> Iterator[Event]:
    """TFRecord: the length in 8 bytes, 4 of a checksum, the event, 4 of a checksum."""
    place = 0
    while place < len(data):
        size = struct.unpack("<Q", data[place : place + 8])[0]
        yield Event.FromString(data[place + 12 : place + 12 + size])
        place += 16 + size
