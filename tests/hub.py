"""A stand-in for the Hugging Face Hub on loopback. How it is written to is in `tests.hub_writing`."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from tests.hub_writing import Writing, git_digest, is_large, sha256

TOKEN = "hf_of-the-tests-and-nobody-s"
PAGE = 3  # files in an answer of a tree


class Hub:
    """Repositories by kind and name, each with commits that revisions name.

    Attributes:
        files: commit → path → content.
        revisions: ("models", "owner/name") → revision → commit.
        private, gated: names of repositories.
        faults: what answers come to, first of all: a status, or "cut" in the middle.
        asked: paths of all requests to read, with their Range.
        writers: token → the owners in whose repositories it may write.
        large: sha256 → content that has been uploaded, whether a commit has it or not.
        writes: all requests that change anything: "create NAME", "upload SHA256", "commit NAME".
        part: in parts of so many bytes large files are uploaded; 0: as a whole.
        refusals: what requests that write come to, by the first word in `writes`, and "validate", "preupload"
            and "batch"; each for one request. A status and what is said, or "lost": it is done, and the
            answer is 500; "hang": there is never an answer; "page": a web page; "cut": no answer at all.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[tuple[str, str], dict[str, str]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.faults: list[int | str] = []
        self.asked: list[tuple[str, str]] = []
        self.endpoint = ""
        self.writers: dict[str, set[str]] = {TOKEN: {"me"}}
        self.large: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.part = 0
        self.refusals: dict[str, list[tuple[int, str] | str]] = {}

    def head(self, name: str) -> dict[str, bytes]:
        """The files of a model repository's newest commit."""
        return self.files[self.revisions["models", name]["main"]]

    def push(self, name: str, files: dict[str, bytes], revision: str = "main", kind: str = "models") -> str:
        """Make a commit of these files, which the revision is then; return it."""
        revisions = self.revisions.setdefault((kind, name), {})
        commit = hashlib.sha1(repr((kind, name, sorted(files.items()), revision)).encode()).hexdigest()
        self.files[commit] = dict(files)
        revisions[revision] = revisions[commit] = commit
        return commit


class Handler(Writing):
    """Answers as huggingface.co does."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.asked.append((unquote(url.path), self.headers.get("Range", "")))
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?()", url.path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", url.path)
        found = api or file
        if isinstance(fault, int) or found is None:
            self.answer(fault if isinstance(fault, int) else 404, b"a page", kind="text/html")
            return
        kind, name, what, revision, path = found.groups()
        kind = kind if api else "datasets" if kind else "models"
        may_read = self.token() in self.hub.writers
        revisions = self.hub.revisions.get((kind, name), {})
        commit = revisions.get(unquote(revision or "main"))
        if not revisions or (name in self.hub.private and not may_read):
            self.refuse(404 if may_read else 401, "RepoNotFound")
        elif commit is None:
            self.refuse(404, "RevisionNotFound")
        elif what == "tree":
            self.tree(self.hub.files[commit], url.query)
        elif what != "resolve":
            info: dict[str, object] = {
                "id": name,
                "sha": commit,
                "siblings": [],
                "private": name in self.hub.private,
            }
            self.answer(200, json.dumps(info).encode())
        elif name in self.hub.gated and not may_read:
            self.refuse(403, "GatedRepo")
        elif (data := self.hub.files[commit].get(unquote(path))) is None:
            self.refuse(404, "EntryNotFound")
        else:
            self.file(data, fault == "cut")

    def tree(self, files: dict[str, bytes], query: str) -> None:
        start = int((re.search(r"cursor=(\d+)", query) or [0, 0])[1])
        entries: list[dict[str, object]] = [
            {"type": "file", "path": path, "size": len(data), "oid": git_digest(data)}
            | (
                {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 130}}
                if is_large(path)
                else {}
            )
            for path, data in sorted(files.items())
        ]
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        path = self.path.partition("?")[0]
        more = f'<{self.hub.endpoint}{path}?recursive=true&cursor={start + PAGE}>; rel="next"'
        headers = {"Link": more} if len(entries) > start + PAGE else {}
        self.answer(200, json.dumps(entries[start : start + PAGE]).encode(), headers)

    def file(self, data: bytes, is_cut: bool) -> None:
        status, headers = 200, {}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            status, data = 206, data[first : last + 1]
        self.answer(status, data, headers, "application/octet-stream", is_cut)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code})

    def log_message(self, *args: object) -> None:
        """Nothing on the tests' screen."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub that HF_ENDPOINT names; no token is set."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfTheTest", (Handler,), {"hub": made}))
    made.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()
