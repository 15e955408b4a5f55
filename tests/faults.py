"""A server on the loopback interface that fails as real ones do, and otherwise passes on what it gets."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ACCESS_DENIED = b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class FaultyServer:
    """In front of the server at `behind`. The next requests meet `faults`, one each, and those after none."""

    behind: str
    endpoint: str = ""
    faults: list[str] = field(default_factory=list)  # a status, "drop" or "cut"
    refuses: tuple[str, ...] = ()  # methods that this user may not use


@contextmanager
def faulty_server(behind: str) -> Iterator[FaultyServer]:
    faulty = FaultyServer(behind)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            with lock:
                fault = faulty.faults.pop(0) if faulty.faults else ""
                fault = "403" if self.command in faulty.refuses else fault
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault == "drop":
                self.close_connection = True
            elif fault.isdigit():
                body = ACCESS_DENIED if fault == "403" else SLOW_DOWN
                self.send(int(fault), {"Content-Type": "application/xml"}, body)
            else:
                connection = http.client.HTTPConnection(urlsplit(behind).netloc, timeout=10)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                content = found.read()
                self.send(found.status, dict(found.getheaders()), content, cut=fault == "cut")
                connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def send(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    faulty.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield faulty
    finally:
        server.shutdown()
        server.server_close()
