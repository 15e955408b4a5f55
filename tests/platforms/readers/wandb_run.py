"""Prints what wandb has kept offline below a folder, as lines of JSON: `python wandb_run.py FOLDER`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log format: no part of a record crosses a block; the file has a header of its own."""
    at, whole = HEADER, b""
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # a whole record, or its end
            yield whole
            whole = b""


def plain(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


for file in sorted(Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")):
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "history":
                print(json.dumps({"history": plain(record.history.item)}))
            case "run":
                print(json.dumps({"run": record.run.run_id, "name": record.run.display_name}))
            case "config":
                print(json.dumps({"config": plain(record.config.update)}))
            case "exit":
                print(json.dumps({"exit": record.exit.exit_code}))
            case "preempting":
                print(json.dumps({"preempting": True}))
