"""A stand-in on this machine for the APIs of those who rent machines out."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "token-not-to-be-seen"
RUNPOD = {"RUNPOD_POD_ID": "pod/1", "RUNPOD_API_KEY": TOKEN}
VAST = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": TOKEN}


@dataclass
class StandIn:
    """What it was asked, and what it answers."""

    url: str = ""
    answers: list[int] = field(default_factory=list)  # then 200
    reason: str | None = None  # that it gives for them
    asked: list[tuple[str, str, str | None, Any]] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)  # seconds, between the tries


@contextmanager
def provider() -> Iterator[StandIn]:
    """It listens while the `with` block runs."""
    known = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known.asked.append((self.command, self.path, self.headers["Authorization"], json.loads(body)))
            code = known.answers.pop(0) if known.answers else 200
            self.send_response(code, known.reason)
            if 300 <= code < 400:
                self.send_header("Location", f"{known.url}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:  # as a redirected POST comes
            known.asked.append((self.command, self.path, self.headers["Authorization"], None))
            self.send_response(200)
            self.end_headers()

        do_PUT = do_DELETE = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.url = f"http://127.0.0.1:{server.server_port}/api"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
