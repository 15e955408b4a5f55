"""A proxy on the loopback interface before a real S3 server, that behaves as one of another make does.

    with odd_server(s3_server.endpoint) as odd:
        odd.answer = lambda request: refusal(501, "NotImplemented") if request.is_conditional else None
        odd.change = lambda request, headers: {**headers, "etag": "other"}
        S3Server(odd.endpoint).store("songs").list_files()
        assert odd.requests[0].headers["host"]

As an HTTP proxy (`HTTP_PROXY`) it is asked for any host, and passes all on to the one behind.
"""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Headers = dict[str, str]


@dataclass(frozen=True)
class Request:
    """What came, with the names of its headers in lower case."""

    method: str
    path: str  # with its query; of a proxy's requests the whole URL
    headers: Headers

    @property
    def is_conditional(self) -> bool:
        return "if-none-match" in self.headers

    @property
    def is_listing(self) -> bool:
        return "list-type=2" in self.path or (self.method == "GET" and "prefix=" in self.path)

    @property
    def is_file(self) -> bool:
        return self.method in ("GET", "HEAD") and not self.is_listing

    @property
    def has_checksum(self) -> bool:
        names = ("x-amz-checksum", "x-amz-trailer", "x-amz-sdk-checksum")
        return any(name.startswith(names) for name in self.headers)


@dataclass(frozen=True)
class Answer:
    """What is sent instead of passing a request on."""

    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=dict)


def refusal(status: int, code: str, more: str = "") -> Answer:
    """An error as S3 words it."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message>{more}</Error>'
    return Answer(status, body.encode(), {"content-type": "application/xml"})


@dataclass
class OddServer:
    """In front of the server at `behind`."""

    behind: str
    endpoint: str = ""
    answer: Callable[[Request], Answer | None] = lambda request: None
    change: Callable[[Request, Headers], Headers] = lambda request, headers: headers
    forward: Callable[[Request], Request] = lambda request: request  # what is passed on in its place
    requests: list[Request] = field(default_factory=list)


@contextmanager
def odd_server(behind: str) -> Iterator[OddServer]:
    odd = OddServer(behind)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(odd))
    odd.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield odd
    finally:
        server.shutdown()
        server.server_close()


def _handler(odd: OddServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers)
            odd.requests.append(request)
            body = self.rfile.read(int(headers.get("content-length", 0)))
            if (said := odd.answer(request)) is None:
                said = self.ask(odd.forward(request), body)
            self.send_response_only(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if self.command != "HEAD" and said.status != 204:
                self.send_header("content-length", str(len(said.body)))
            self.end_headers()
            if self.command != "HEAD" and said.status != 204:
                self.wfile.write(said.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

        def ask(self, request: Request, body: bytes) -> Answer:
            headers = {
                name: value for name, value in request.headers.items() if name not in ("expect", "connection")
            }
            connection = http.client.HTTPConnection(urlsplit(odd.behind).netloc, timeout=60)
            with closing(connection):
                connection.request(request.method, request.path, body, headers)
                found = connection.getresponse()
                plain = {name.lower(): value for name, value in found.getheaders()}
                left_out = {"transfer-encoding", "connection", "server"}
                if request.method != "HEAD":
                    left_out.add("content-length")
                kept = {name: value for name, value in plain.items() if name not in left_out}
                return Answer(found.status, found.read(), odd.change(request, kept))

        def log_message(self, *args: object) -> None:
            """Nothing on the tests' screen."""

    return Handler
