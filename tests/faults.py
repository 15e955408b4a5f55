"""A proxy on the loopback interface, for S3 and for websites, that fails as real servers and networks do.

It streams, serves many connections at a time, and is reached by its URL, also from other processes. What it
does is set on the object that the tests have, at any time:

    with faulty_server(endpoint) as proxy:
        proxy.faults[:] = ["503", "lost"]      # the next two requests; those after them are passed on
        proxy.only = lambda method, path: method == "PUT"
        proxy.up = 1_000_000                   # bytes a second, over all connections
        with proxy.gone():                     # connections are refused
            ...
"""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

BLOCK = 2**14
RESET_WHEN_CLOSED = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
ERRORS = {
    "403": b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>",
    "404": b"<Error><Code>NoSuchUpload</Code><Message>The upload may have been completed.</Message></Error>",
    "409": b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>",
    "429": b"<Error><Code>TooManyRequests</Code><Message>Not so many.</Message></Error>",
    "500": b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "503": b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
}
FAULTS = {
    **{status: f"answers {status} without passing the request on" for status in ERRORS},
    "drop": "reads the request, then hangs up",
    "cut": "passes the request on, then hangs up in the middle of the answer's body",
    "cut short": "as `cut`, of an answer that does not say how long it is",
    "short": "passes the request on, and answers with half of the body as if that were all",
    "cut upload": "resets the connection in the middle of the request's body",
    "lost": "passes the request on, and hangs up instead of answering",
    "silent": "reads the request, and neither answers nor hangs up",
    "": "passes the request on",
}


@dataclass
class FaultyServer:
    """In front of the server at `behind`."""

    behind: str
    endpoint: str = ""
    faults: list[str] = field(default_factory=list)  # see `FAULTS`; one request meets one of them
    only: Callable[[str, str], bool] = lambda method, path: True  # the requests that meet faults
    refuses: tuple[str, ...] = ()  # methods that this user may not use
    up: float = 0  # bytes a second that uploads move at, all together; 0: as fast as they can
    down: float = 0  # of downloads
    listings_lag: float = 0  # seconds until a listing shows what was written, and hides what was deleted
    requests: list[str] = field(default_factory=list)  # "PUT /bucket/key" of all that came, without queries
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = {"up": 0.0, "down": 0.0}
        self._server: ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()
        self._changes: dict[str, tuple[float, bytes | None]] = {}  # path → when, and its listing if deleted

    def start(self, port: int = 0) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self), bind_and_activate=False)
        # Small, or else the buffers of the loopback interface would swallow a whole upload at once.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        server.server_bind()
        server.server_activate()
        self._server, self.endpoint = server, f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> int:
        """Refuse connections, and reset those that there are. Returns the port."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the other end was faster
                    connection.setsockopt(*RESET_WHEN_CLOSED)
                    connection.shutdown(socket.SHUT_RDWR)
        return self._server.server_port

    @contextmanager
    def gone(self) -> Iterator[None]:
        """The server's process is away for this block."""
        port = self.stop()
        try:
            yield
        finally:
            self.start(port)

    def next_fault(self, method: str, path: str) -> str:
        with self._lock:
            self.requests.append(f"{method} {path.partition('?')[0]}")
            if method in self.refuses:
                return "403"
            return self.faults.pop(0) if self.faults and self.only(method, path) else ""

    def pace(self, way: str, size: int) -> None:
        """Waits as long as `size` bytes take on this way, behind those of all other connections."""
        rate = getattr(self, way)
        if rate:
            with self._lock:
                self._free_at[way] = max(self._free_at[way], time.monotonic()) + size / rate
                pause = self._free_at[way] - time.monotonic()
            time.sleep(max(pause, 0))

    def set_free(self) -> None:
        """End the pace of uploads, also for those that wait already for their turn."""
        self.up = 0
        with self._lock:
            self._free_at["up"] = 0

    def note_change(self, path: str, before: http.client.HTTPMessage | None) -> None:
        """A file was written or deleted: a listing that lags does not know yet."""
        entry = None
        if before is not None:
            key = quote(unquote(urlsplit(path).path).split("/", 2)[2])
            entry = (
                f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{before['ETag']}</ETag><Size>{before['Content-Length']}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            ).encode()
        with self._lock:
            self._changes[unquote(urlsplit(path).path)] = (time.monotonic(), entry)

    def as_it_was(self, path: str, listing: bytes) -> bytes:
        """A listing without the newest files, and with those that were just deleted."""
        bucket, query = urlsplit(path).path.strip("/"), parse_qs(urlsplit(path).query)
        prefix = f"/{bucket}/{query.get('prefix', [''])[0]}"
        with self._lock:
            young = {
                path: entry
                for path, (when, entry) in self._changes.items()
                if time.monotonic() - when < self.listings_lag and path.startswith(prefix)
            }

        def unless_young(found: re.Match[bytes]) -> bytes:
            return b"" if f"/{bucket}/{unquote(found[1].decode())}" in young else found[0]

        listing = re.sub(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", unless_young, listing, flags=re.S)
        ghosts = b"".join(entry for entry in young.values() if entry)
        return listing.replace(b"</ListBucketResult>", ghosts + b"</ListBucketResult>")


@contextmanager
def faulty_server(behind: str) -> Iterator[FaultyServer]:
    proxy = FaultyServer(behind)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.stop()


def _handler(proxy: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with proxy._lock:
                proxy._connections.add(self.connection)

        def finish(self) -> None:
            with proxy._lock:
                proxy._connections.discard(self.connection)
            super().finish()

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the other end is gone: that is what these tests are about
                self.close_connection = True

        def answer(self) -> None:
            fault = proxy.next_fault(self.command, self.path)
            size = int(self.headers.get("Content-Length", 0))
            if fault == "cut upload":
                for _ in self.body(size // 2):
                    pass
                self.reset()
            elif fault in ("", "cut", "cut short", "short", "lost"):
                self.pass_on(self.body(size), fault)
            else:
                for _ in self.body(size):
                    pass
                self.close_connection = True
                if fault in ERRORS:
                    self.send(int(fault), {"Content-Type": "application/xml"}, [ERRORS[fault]])
                elif fault == "silent":
                    proxy.closing.wait(60)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def body(self, size: int) -> Iterator[bytes]:
            while size > 0:
                block = self.rfile.read(min(BLOCK, size))
                if not block:
                    raise ConnectionResetError
                size -= len(block)
                proxy.pace("up", len(block))
                yield block

        def pass_on(self, body: Iterator[bytes], fault: str) -> None:
            before = self.head() if self.command == "DELETE" and proxy.listings_lag else None
            with self.behind() as connection:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        connection.putheader(name, value)
                connection.endheaders()
                for block in body:
                    connection.send(block)
                found = connection.getresponse()
                is_write = self.command in ("PUT", "DELETE") and "partNumber" not in self.path
                if found.status < 300 and (is_write or (self.command == "POST" and "uploadId" in self.path)):
                    proxy.note_change(self.path, before)
                headers = dict(found.getheaders())
                if fault == "lost":
                    found.read()
                    self.reset()
                elif "list-type=2" in self.path and proxy.listings_lag:
                    listing = proxy.as_it_was(self.path, found.read())
                    self.send(found.status, headers | {"Content-Length": str(len(listing))}, [listing])
                else:
                    self.send(found.status, headers, iter(lambda: found.read(BLOCK), b""), fault)

        def head(self) -> http.client.HTTPMessage | None:
            with self.behind() as connection:
                connection.request("HEAD", self.path, headers=dict(self.headers))
                found = connection.getresponse()
                return found.headers if found.status == 200 else None

        @contextmanager
        def behind(self) -> Iterator[http.client.HTTPConnection]:
            connection = http.client.HTTPConnection(urlsplit(proxy.behind).netloc, timeout=60)
            with closing(connection):
                yield connection

        def send(
            self, status: int, headers: dict[str, str], body: Iterator[bytes] | list[bytes], fault: str = ""
        ) -> None:
            plain = {name.lower(): value for name, value in headers.items()}
            is_bodiless = self.command == "HEAD" or status in (204, 304)
            if "content-length" not in plain and not is_bodiless:
                body = [b"".join(body)]
                plain["content-length"] = str(len(body[0]))
            left = int(plain.get("content-length", 0))
            if fault.startswith("cut"):
                left //= 2
                self.close_connection = True
            if fault == "short" and not is_bodiless:
                left //= 2
                plain["content-length"] = str(left)
            if fault == "cut short":
                plain.pop("content-length", None)
            self.send_response(status)
            for name, value in plain.items():
                if name not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            if is_bodiless:
                return
            for block in body:
                proxy.pace("down", len(block))
                self.wfile.write(block[:left])
                left -= len(block[:left])
                if fault and not left:
                    break

        def reset(self) -> None:
            """The other end sees its connection reset, not closed in order."""
            self.connection.setsockopt(*RESET_WHEN_CLOSED)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    return Handler
