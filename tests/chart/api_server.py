"""A stand-in for the Kubernetes API server, as far as `helm install` and `helm upgrade` reach.

It keeps objects in memory and merges what it is sent, as the real one does where no lists are merged:
strategic merge patches (null deletes), and server-side apply, which is refused where it would set a field
that another manager has set otherwise. The template of a Job that is not suspended cannot be changed.
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

Object = dict[str, Any]

KINDS = {"v1": {"configmaps": "ConfigMap"}, "batch/v1": {"jobs": "Job"}}
"""What of the API there is: the kinds of a job's objects by their plural."""

RECORDS = "secrets"
"""Helm's own records. Its client sends these as protobuf alone, and gets them back as it has sent them."""

PROTOBUF = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"
_PATH = re.compile(
    r"/(?:api|apis)/(?P<version>.+)/namespaces/default/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)


class ApiServer(ThreadingHTTPServer):
    """The objects by plural and name, every patch as it came, and what others than Helm have set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], Object] = {}
        self.records: dict[str, bytes] = {}
        self.patches: list[tuple[str, Object]] = []
        self.others: dict[tuple[str, str], Object] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def one(self, plural: str) -> Object:
        """The only object of its kind."""
        [found] = [found for (kind, _), found in self.objects.items() if kind == plural]
        return found

    def change(self, plural: str, change: Object) -> None:
        """Let another manager than Helm set fields of the only object of its kind."""
        [key] = [key for key in self.objects if key[0] == plural]
        merge(self.objects[key], change)
        merge(self.others.setdefault(key, {}), change)


def merge(into: Object, patch: Object) -> None:
    """Strategic merge, but for lists with a key: mappings are merged, null deletes, the rest is replaced."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def conflicts(applied: Any, others: Any, path: str = "") -> list[str]:
    """The fields that `applied` sets otherwise than `others`. A list is one field, as a nodeSelector is."""
    if isinstance(applied, dict) and isinstance(others, dict) and not path.endswith(".nodeSelector"):
        both = applied.keys() & others.keys()
        return [at for key in both for at in conflicts(applied[key], others[key], f"{path}.{key}")]
    return [] if applied == others else [path]


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        if self._discovered(urlsplit(self.path).path):
            return
        plural, name = self._target()
        if plural == RECORDS and not name:
            self._answer(200, _list_of(list(self.server.records.values())))
            return
        kept: dict[Any, Any] = self.server.records if plural == RECORDS else self.server.objects
        found = kept.get(name if plural == RECORDS else (plural, name))
        self._answer(*((404, _status("NotFound", 404)) if found is None else (200, found)))

    def do_POST(self) -> None:
        plural, _ = self._target()
        body = self._body()
        if plural == RECORDS:
            metadata = _field(_field(body.removeprefix(_MAGIC), 2), 1)
            self.server.records[_field(metadata, 1).decode()] = body
            self._answer(201, body)
        else:
            sent = json.loads(body)
            self.server.objects[plural, sent["metadata"]["name"]] = sent
            self._answer(201, sent)

    def do_PUT(self) -> None:
        plural, name = self._target()
        assert plural == RECORDS, "Helm replaces nothing of the chart's"
        self.server.records[name] = self._body()
        self._answer(200, self.server.records[name])

    def do_PATCH(self) -> None:
        plural, name = self._target()
        patch = YAML(typ="safe", pure=True).load(self._body())
        self.server.patches.append((plural, patch))
        is_applied = "apply-patch" in self.headers["Content-Type"]
        found = conflicts(patch, self.server.others.get((plural, name), {})) if is_applied else []
        was = self.server.objects.get((plural, name), {})
        merged = copy.deepcopy(was)
        merge(merged, patch)
        has_started = plural == "jobs" and was and not was["spec"].get("suspend")
        if found:
            self._answer(409, _status("Conflict", 409, f"conflict with kueue: {', '.join(found)}"))
        elif has_started and was["spec"]["template"] != merged["spec"]["template"]:
            self._answer(422, _status("Invalid", 422, "spec.template: field is immutable"))
        else:
            self.server.objects[plural, name] = merged
            self._answer(200, merged)

    def do_DELETE(self) -> None:
        plural, name = self._target()
        self.server.objects.pop((plural, name), None)
        self._answer(200, _status("", 200))

    def _discovered(self, path: str) -> bool:
        """Whether it was a question about the API itself, and is answered."""
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if path == "/version":
            self._answer(200, {"major": "1", "minor": "37", "gitVersion": "v1.37.1"})
        elif path == "/api":
            self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            batch = {"groupVersion": "batch/v1", "version": "v1"}
            group = {"name": "batch", "versions": [batch], "preferredVersion": batch}
            self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
        elif version in KINDS:
            resources = [
                {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get", "patch", "create"]}
                for plural, kind in KINDS[version].items()
            ]
            self._answer(200, {"kind": "APIResourceList", "groupVersion": version, "resources": resources})
        else:
            return False
        return True

    def _target(self) -> tuple[str, str]:
        """Plural and name."""
        found = _PATH.fullmatch(urlsplit(self.path).path)
        assert found, self.path
        return found["plural"], found["name"] or ""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, code: int, content: Object | bytes) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", PROTOBUF if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _list_of(records: list[bytes]) -> bytes:
    """A SecretList of them: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding"""
    items = (_bytes(2, _field(record.removeprefix(_MAGIC), 2)) for record in records)
    kind = _bytes(1, _bytes(1, b"v1") + _bytes(2, b"SecretList"))
    return _MAGIC + kind + _bytes(2, _bytes(1, b"") + b"".join(items))


def _bytes(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf."""
    size, length = len(content), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _field(message: bytes, number: int) -> bytes:
    """The first field `number` of a message, all of whose fields up to there are bytes."""
    at = 0
    while at < len(message):
        key, size, shift = message[at], 0, 0
        assert key & 7 == 2, "a field that is not bytes"
        while True:
            at += 1
            size |= (message[at] & 0x7F) << shift
            shift += 7
            if message[at] < 0x80:
                break
        if key >> 3 == number:
            return message[at + 1 : at + 1 + size]
        at += 1 + size
    raise AssertionError(f"there is no field {number}")


def _status(reason: str, code: int, message: str = "") -> Object:
    state = "Success" if code == 200 else "Failure"
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": state,
        "reason": reason,
        "code": code,
        "message": message,
    }


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """One that runs, on a port of its own."""
    with ApiServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
