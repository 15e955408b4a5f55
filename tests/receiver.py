"""A receiver of webhooks on the loopback interface, which may be dead, refuse, or never answer.

with receiver() as hook:
    hook.status = 500
    send(hook.url)
    assert hook.got[0]["event"] == "begin"
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "canary0123456789canary"  # in the URL's path, as such services have it


@dataclass
class Receiver:
    """What has come, and what is answered."""

    url: str = ""
    status: int = 200
    leads_to: str = ""  # where a redirect does
    is_hanging: bool = False  # it accepts, and never answers
    got: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def events(self) -> list[str]:
        return [one["event"] for one in self.got]


@contextmanager
def receiver() -> Iterator[Receiver]:
    hook = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            hook.got.append(json.loads(body))
            hook.authorizations.append(self.headers["authorization"])
            if hook.is_hanging:
                hook.over.wait(60)
            self.send_response_only(hook.status)
            self.send_header("content-length", "0")
            if hook.leads_to:
                self.send_header("location", hook.leads_to)
            self.end_headers()

        def do_GET(self) -> None:  # as a redirected POST comes
            hook.got.append({"event": "GET"})
            self.send_response_only(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.url = f"http://127.0.0.1:{server.server_port}/services/{TOKEN}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hook
    finally:
        hook.over.set()
        server.shutdown()
        server.server_close()
