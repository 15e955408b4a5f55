"""A page over HTTP that whoever asks for it cannot hold up anything with: for a scraper of metrics.

A client may hang in mid-request, send garbage, or come a thousand times a second. Each has a few seconds, a
new one takes the place of the oldest of many, and those that come too fast wait in the kernel's queue: the
training in this process loses next to nothing. At the end nobody is waited for.
"""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

log = logging.getLogger(__name__)

AT_ONCE = 8  # clients; for another one the oldest is sent away
SECONDS = 5.0  # that a client may be silent
BETWEEN = 0.01  # seconds between two clients, as each takes the interpreter from the training for a moment
AFTER_A_FAILURE = 1.0  # seconds; with no file descriptor left, the next try would fail at once

Page = Callable[[], bytes]


class Endpoint:
    """Serves one page, /metrics, on all interfaces until it is closed.

    Raises OSError where the port cannot be had.
    """

    def __init__(self, port: int, page: Page, content_type: str) -> None:
        """
        Args:
            port: 0 for any that is free.
            page: makes the page; called in a client's thread.
        """
        self._listener = _listen(port)
        self._handler = _handler(page, content_type)
        self._over, self._clients = threading.Event(), deque[socket.socket]()
        threading.Thread(target=self._accept, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Listen no more, at once. Who is being answered goes with the process."""
        self._over.set()
        _hang_up(self._listener)  # wakes the thread that waits for a client
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.wait(BETWEEN):
            try:
                client, address = self._listener.accept()
            except OSError as error:
                if not self._over.wait(AFTER_A_FAILURE):
                    log.debug("The metrics' endpoint could not take a client: %s", error)
                continue
            self._clients.append(client)
            if len(self._clients) > AT_ONCE:
                _hang_up(self._clients.popleft())
            threading.Thread(target=self._answer, args=[client, address], name="client", daemon=True).start()

    def _answer(self, client: socket.socket, address: object) -> None:
        try:
            with client:
                self._handler(client, address, None)  # type: ignore[arg-type]  # it needs no server
        except Exception as error:  # noqa: BLE001 - a client that goes, or anything else: it is its trouble
            log.debug("A client of the metrics' endpoint was not answered: %s", error)
        finally:
            with suppress(ValueError):  # it was sent away
                self._clients.remove(client)


def _listen(port: int) -> socket.socket:
    """On IPv6 and IPv4; on IPv4 alone where the machine has no other."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:
            pass  # switched off; or the port is in use, as the next line finds, too
    return socket.create_server(("", port))


def _hang_up(end: socket.socket) -> None:
    """Whoever waits at this end of a connection, in whatever thread, waits no more."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _handler(page: Page, content_type: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS
        server_version, sys_version = "side-step", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND, "the metrics are at /metrics")
                return
            content = page()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """What a client asks for is no news of the job."""

    return Handler
