"""The page for a scraper: real clients that ask, hang, drip, send garbage and flood; and its end."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.error import HTTPError

import pytest

from sidestep.runtime import endpoint as module
from sidestep.runtime.endpoint import AT_ONCE, BETWEEN, Endpoint


class Page:
    """Counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> bytes:
        self.made += 1
        return b"step 3\n"


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def endpoint(page: Page) -> Iterator[Endpoint]:
    endpoint = Endpoint(0, page, "text/plain; version=0.0.4")
    yield endpoint
    endpoint.close()


def client(endpoint: Endpoint, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=5)
    connection.sendall(sent)
    return connection


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    return b"".join(parts)


def is_sent_away(connection: socket.socket) -> bool:
    """Whether the other end closes within two seconds, and says nothing before."""
    connection.settimeout(2)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


def asked(endpoint: Endpoint, path: str = "/metrics", host: str = "127.0.0.1") -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://{host}:{endpoint.port}{path}", timeout=5) as response:
        return response.headers["Content-Type"], response.read()


def test_the_page_and_nothing_else(endpoint: Endpoint) -> None:
    assert asked(endpoint) == ("text/plain; version=0.0.4", b"step 3\n")
    assert asked(endpoint, "/metrics?name=x")[1] == b"step 3\n"
    with pytest.raises(HTTPError, match="404") as refused:
        asked(endpoint, "/etc/passwd")
    refused.value.close()


def test_on_ipv6_too_where_there_is_any(endpoint: Endpoint) -> None:
    try:
        socket.create_connection(("::1", endpoint.port), timeout=5).close()
    except OSError:
        with pytest.raises(OSError):  # noqa: PT011 - this machine has none
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return
    assert asked(endpoint, host="[::1]")[1] == b"step 3\n"


def test_those_who_hang_in_mid_request_hold_up_nobody(endpoint: Endpoint) -> None:
    """More of them than are answered at a time: the oldest go."""
    with ExitStack() as stack:
        hanging = [stack.enter_context(client(endpoint, b"GET /metr")) for _ in range(2 * AT_ONCE)]
        started = time.monotonic()
        assert asked(endpoint)[1] == b"step 3\n"
        assert time.monotonic() - started < 2
        assert is_sent_away(hanging[0])


def test_one_that_is_silent_is_sent_away(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.1)
    endpoint = Endpoint(0, page, "text/plain")
    with client(endpoint, b"GET /metrics HTTP/1.1\r\n") as silent:
        assert is_sent_away(silent)
    assert page.made == 0
    endpoint.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff" * 200 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"DELETE /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_garbage_is_refused_and_the_next_one_served(endpoint: Endpoint, garbage: bytes, page: Page) -> None:
    with client(endpoint, garbage) as connection:
        try:
            said = answer(connection)
        except ConnectionResetError:
            said = b""
    assert b"step 3" not in said and page.made == 0
    assert asked(endpoint)[1] == b"step 3\n"


def test_one_who_goes_before_the_answer_is_no_trouble(endpoint: Endpoint) -> None:
    for _ in range(5):
        client(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n").close()
    assert asked(endpoint)[1] == b"step 3\n"


def test_a_flood_takes_little_of_the_interpreter(endpoint: Endpoint, page: Page) -> None:
    """However many come, no more are answered in a second than that."""
    started = time.monotonic()
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(client(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n"))
        time.sleep(0.1)
        assert 1 <= page.made <= (time.monotonic() - started) / BETWEEN + 2


def test_a_page_that_fails_costs_one_client_its_answer(page: Page) -> None:
    def failing() -> bytes:
        if page.made == 0:
            page()
            raise RuntimeError("oops")
        return page()

    endpoint = Endpoint(0, failing, "text/plain")
    with client(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") as connection:
        assert answer(connection) == b""
    assert asked(endpoint)[1] == b"step 3\n"
    endpoint.close()


def test_the_end_waits_for_nobody(endpoint: Endpoint) -> None:
    port = endpoint.port
    with client(endpoint, b"GET /metr"):
        asked(endpoint)
        started = time.monotonic()
        endpoint.close()
        assert time.monotonic() - started < 0.5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    Endpoint(port, Page(), "text/plain").close()  # it is free at once


def test_a_port_in_use(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint(endpoint.port, Page(), "text/plain")
