"""A bucket for benchmarks: the least that S3's clients ask for, with as little work of its own as possible.

A process of its own: `python -m tests.bench.bucket FOLDER`, which prints its address. Files are sent by the
kernel (sendfile); what is sent to it is read and dropped, but for its length. Nothing is checked.
"""

import hashlib
import os
import re
import socket
import sys
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME = "2026-01-01T00:00:00.000Z"


class Handler(BaseHTTPRequestHandler):
    """One connection. The first part of a path is the bucket, which is the folder whatever its name."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    folder: Path
    etags: dict[str, str]
    sent: dict[str, int]  # what came, by key, with its size

    def handle_expect_100(self) -> bool:
        is_expected = super().handle_expect_100()
        self.wfile.flush()
        return is_expected

    def do_HEAD(self) -> None:
        if key := self.key:
            self.send_file(key, with_body=False)
        else:
            self.answer(200)

    def do_GET(self) -> None:
        if key := self.key:
            self.send_file(key, with_body=True)
        elif "location" in self.query:
            self.answer(200, f"<LocationConstraint {NAMESPACE}/>".encode())
        else:
            prefix = self.query.get("prefix", [""])[0]
            found = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified><ETag>{etag}</ETag>"
                f"<Size>{(self.folder / key).stat().st_size}</Size></Contents>"
                for key, etag in sorted(self.etags.items())
                if key.startswith(prefix)
            )
            self.answer(200, f"<ListBucketResult {NAMESPACE}>{found}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        size = self.swallow()
        self.sent[self.key] = size + (self.sent.get(self.key, 0) if "partNumber" in self.query else 0)
        self.answer(200, etag='"made-1"')

    def do_POST(self) -> None:
        self.swallow()
        if "uploads" in self.query:
            self.sent[self.key] = 0
            kind, more = "InitiateMultipartUploadResult", "<UploadId>1</UploadId>"
        else:
            kind, more = "CompleteMultipartUploadResult", "<ETag>&quot;made-1&quot;</ETag>"
        self.answer(200, f"<{kind} {NAMESPACE}><Bucket>b</Bucket><Key>k</Key>{more}</{kind}>".encode())

    def do_DELETE(self) -> None:
        self.answer(204)

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def swallow(self) -> int:
        size = left = int(self.headers.get("Content-Length", 0))
        block = memoryview(bytearray(2**20))
        while left > 0:
            left -= self.rfile.readinto1(block[: min(left, len(block))]) or left
        return size

    def send_file(self, key: str, with_body: bool) -> None:
        if key not in self.etags:
            if key not in self.sent:
                self.answer(404)
            else:
                self.send_headers(200, self.sent[key], etag='"made-1"')
            return
        with (self.folder / key).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end, part = 0, size, {}
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(asked[1]), min(size, int(asked[2] or size) + 1)
                part = {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
            self.send_headers(206 if part else 200, end - start, etag=self.etags[key], more=part)
            if with_body:
                self.connection.sendfile(file, start, end - start)

    def answer(self, status: int, body: bytes = b"", etag: str = "") -> None:
        self.send_headers(status, len(body), etag)
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def send_headers(
        self, status: int, size: int, etag: str = "", more: dict[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        headers = {"Content-Length": str(size), "Date": formatdate(usegmt=True), "x-amz-request-id": "1"}
        headers |= {"ETag": etag} if etag else {}
        if self.key:
            headers |= {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was done has hung up."""


def main() -> None:
    folder = Path(sys.argv[1])
    Handler.folder, Handler.sent = folder, {}
    Handler.etags = {
        str(path.relative_to(folder)): f'"{hashlib.md5(path.read_bytes()).hexdigest()}"'
        for path in folder.rglob("*")
        if path.is_file()
    }
    server = Server(("127.0.0.1", 0), Handler)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
