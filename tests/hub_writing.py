"""How the stand-in for the Hugging Face Hub is written to: as huggingface_hub 2.4 does it without Xet."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from sidestep.config.card import LICENSES

if TYPE_CHECKING:
    from tests.hub import Hub

OVERSIZE = 10 * 2**20
HANG = 30  # seconds, at the most


def git_digest(data: bytes) -> str:
    """Of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_large(path: str) -> bool:
    """As .gitattributes of a new repository says."""
    return path.endswith((".safetensors", ".flac", ".wav", ".bin"))


class Writing(BaseHTTPRequestHandler):
    """The requests that write."""

    hub: "Hub"

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def do_PUT(self) -> None:
        data = self.body()
        match = re.fullmatch(r"/upload/(\w+)(?:/(\d+))?", urlsplit(self.path).path)
        assert match and "Authorization" not in self.headers, "a signed address takes no token"
        oid, part = match.groups()
        if self.is_refused("upload", f"upload {oid}"):
            return
        if part:
            self.parts.setdefault(oid, {})[int(part)] = data
        else:
            assert sha256(data) == oid
            self.hub.large[oid] = data
        self.answer(200, b"", {"ETag": f'"{oid[:8]}-{part}"'})

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path, self.body()
        if path == "/api/validate-yaml":
            if not self.is_refused("validate"):
                self.validate(json.loads(data)["content"])
        elif path == "/api/repos/create":
            self.create(json.loads(data))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            if not self.may_write(match[1]):
                self.answer(403, json.dumps({"error": "You may not write here"}).encode())
            elif match[2] == "preupload":
                if not self.is_refused("preupload"):
                    self.preupload(match[1], json.loads(data)["files"])
            else:
                self.commit(match[1], [json.loads(line) for line in data.splitlines()])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            assert self.may_write(match[1])
            self.batch(json.loads(data))
        elif match := re.fullmatch(r"/complete/(\w+)", path):
            parts = self.parts.pop(match[1])
            whole = b"".join(parts[number] for number in sorted(parts))
            assert sha256(whole) == match[1] and len(json.loads(data)["parts"]) == len(parts)
            self.hub.large[match[1]] = whole
            self.answer(200, b"{}")
        else:
            self.answer(404, b"a page", kind="text/html")

    @property
    def parts(self) -> dict[str, dict[int, bytes]]:
        found: dict[str, dict[int, bytes]] = self.hub.__dict__.setdefault("_parts", {})
        return found

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def may_write(self, name: str) -> bool:
        return name.partition("/")[0] in self.hub.writers.get(self.token(), set())

    def is_refused(self, word: str, written: str = "") -> bool:
        """Whether the test has this request refused, and it has been. "lost" is not here."""
        refusals = self.hub.refusals.get(word, [])
        refusal = refusals.pop(0) if refusals and refusals[0] != "lost" else None
        if refusal is None:
            if written:
                self.hub.writes.append(written)
            return False
        if refusal == "hang":
            time.sleep(HANG)
        elif refusal == "page":
            self.answer(200, b"<html>Sign in</html>", kind="text/html")
        elif refusal == "cut":
            self.close_connection = True
        else:
            assert not isinstance(refusal, str)
            status, said = refusal
            self.answer(int(status), json.dumps({"error": said}).encode())
        return True

    def done(self, word: str, answer: dict[str, Any]) -> None:
        """The answer to what has been done, unless it gets lost."""
        refusals = self.hub.refusals.get(word, [])
        if refusals and refusals[0] == "lost":
            refusals.pop(0)
            self.answer(500, b"{}")
        else:
            self.answer(200, json.dumps(answer).encode())

    def validate(self, content: str) -> None:
        """Refuses null, and licenses that it does not know."""
        found = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else None
        errors = [f'"{key}" must be a string' for key, value in (found or {}).items() if value is None]
        if found and found.get("license", "mit") not in LICENSES:
            errors.append('"license" must be one of …')
        warnings = [] if found else [{"message": "empty or missing yaml metadata"}]
        answer = {"errors": [{"message": error} for error in errors], "warnings": warnings}
        self.answer(400 if errors else 200, json.dumps(answer).encode())

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if self.token() not in self.hub.writers:
            self.answer(401, b'{"error": "Invalid username or password."}')
        elif not self.may_write(name):
            self.answer(403, json.dumps({"error": "You do not have the rights to create a model"}).encode())
        elif ("models", name) in self.hub.revisions:
            self.answer(409, json.dumps({"error": "You already created this model repo"}).encode())
        elif not self.is_refused("create", f"create {name}"):
            if asked.get("visibility") != "public":
                self.hub.private.add(name)
            self.hub.push(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.done("create", {"url": f"{self.hub.endpoint}/{name}"})

    def preupload(self, name: str, files: list[dict[str, Any]]) -> None:
        there = self.hub.head(name)
        told = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) or file["size"] > OVERSIZE else "regular",
                "shouldIgnore": False,
                "oid": git_digest(there[file["path"]]) if file["path"] in there else None,
            }
            for file in files
        ]
        self.answer(200, json.dumps({"files": told}).encode())

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            oid, size = each["oid"], each["size"]
            if refusal := self.hub.refusals.get("batch"):
                first = refusal.pop(0)
                assert not isinstance(first, str)
                code, said = first
                objects.append({**each, "error": {"code": code, "message": said}})
                continue
            if oid in self.hub.large:
                objects.append(each)
                continue
            upload: dict[str, Any] = {"href": f"{self.hub.endpoint}/upload/{oid}"}
            if self.hub.part and size > self.hub.part:
                count = -(-size // self.hub.part)
                parts = {str(n): f"{self.hub.endpoint}/upload/{oid}/{n}" for n in range(1, count + 1)}
                upload = {
                    "href": f"{self.hub.endpoint}/complete/{oid}",
                    "header": {"chunk_size": str(self.hub.part), **parts},
                }
            objects.append({**each, "actions": {"upload": upload}})
        self.answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode())

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        header, *operations = lines
        newest = self.hub.revisions["models", name]["main"]
        if self.is_refused("commit"):
            return
        if header["value"].get("parentCommit", newest) != newest:
            self.answer(412, json.dumps({"error": "A commit has happened since"}).encode())
            return
        files = dict(self.hub.files[newest])
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                assert kind == "deletedFile"
                del files[value["path"]]
        self.hub.writes.append(f"commit {name}")
        commit = self.hub.push(name, files)
        self.done("commit", {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def answer(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str] = MappingProxyType({}),
        kind: str = "application/json",
        is_cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        self.close_connection = self.close_connection or is_cut
