"""A bucket for benchmarks that keeps what it is sent, and counts: `python -m tests.bench.keeping FOLDER`.

As `tests.bench.bucket`, with listings in pages of a thousand, as S3's. `GET /-/counts` says how many requests
of each kind came since it was asked last.
"""

import bisect
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.bucket import NAMESPACE, TIME, Handler, Server

PAGE = 1000
WORDY = "WORDY" in os.environ  # each request is printed


class Keeping(Handler):
    keys: list[str]
    sizes: dict[str, int]
    parts: dict[tuple[str, int], bytes]
    counts: Counter[str]

    def parse_request(self) -> bool:
        is_good = super().parse_request()
        if is_good and not self.path.startswith("/-/"):
            self.counts["LIST" if self.command == "GET" and not self.key else self.command] += 1
            if WORDY:
                print(self.command, self.path, file=sys.stderr)
        return is_good

    def do_GET(self) -> None:
        if self.path == "/-/counts":
            self.answer(200, json.dumps(self.counts).encode())
            self.counts.clear()
        elif self.key or "location" in self.query:
            super().do_GET()
        else:
            asked = {name: values[0] for name, values in self.query.items()}
            prefix, after = asked.get("prefix", ""), asked.get("continuation-token", "")
            start = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
            page = []
            for key in self.keys[start : start + min(PAGE, int(asked.get("max-keys", PAGE)))]:
                if not key.startswith(prefix):
                    break
                page.append(key)
            end = start + len(page)
            more = bool(page) and end < len(self.keys) and self.keys[end].startswith(prefix)
            found = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified>"
                f"<ETag>{self.etags[key]}</ETag><Size>{self.sizes[key]}</Size></Contents>"
                for key in page
            )
            said = f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
            said += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
            self.answer(200, f"<ListBucketResult {NAMESPACE}>{said}{found}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding", "").startswith("aws-chunked"):
            data = unchunked(data)
        if "partNumber" in self.query:
            self.parts[self.key, int(self.query["partNumber"][0])] = data
            self.answer(200, etag='"part"')
        elif self.headers.get("If-None-Match") == "*" and self.key in self.etags:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self.keep(self.key, data)
            self.answer(200, etag=self.etags[self.key])

    def do_POST(self) -> None:
        if "uploadId" in self.query:
            numbers = sorted(number for key, number in self.parts if key == self.key)
            self.keep(self.key, b"".join(self.parts.pop((self.key, number)) for number in numbers))
        super().do_POST()

    def do_DELETE(self) -> None:
        if self.key in self.etags:
            del self.etags[self.key], self.keys[bisect.bisect_left(self.keys, self.key)]
            (self.folder / self.key).unlink()
        self.answer(204)

    def keep(self, key: str, data: bytes) -> None:
        file = self.folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # it may be one of many names
        file.write_bytes(data)
        if key not in self.etags:
            bisect.insort(self.keys, key)
        self.etags[key], self.sizes[key] = f'"{hashlib.md5(data).hexdigest()}"', len(data)


def unchunked(data: bytes) -> bytes:
    """What was sent in chunks, each behind its size, with a checksum at the end."""
    found = b""
    while data:
        head, _, data = data.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            break
        found, data = found + data[:size], data[size + 2 :]
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    by_inode: dict[int, str] = {}
    Keeping.folder, Keeping.sent, Keeping.parts, Keeping.counts = folder, {}, {}, Counter()
    Keeping.etags, Keeping.sizes = {}, {}
    for path in folder.rglob("*"):
        if path.is_file():
            status, key = path.stat(), path.relative_to(folder).as_posix()
            if status.st_ino not in by_inode:
                by_inode[status.st_ino] = f'"{hashlib.md5(path.read_bytes()).hexdigest()}"'
            Keeping.etags[key], Keeping.sizes[key] = by_inode[status.st_ino], status.st_size
    Keeping.keys = sorted(Keeping.etags)
    shutil.rmtree(folder / "-", ignore_errors=True)
    server = Server(("127.0.0.1", 0), Keeping)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
