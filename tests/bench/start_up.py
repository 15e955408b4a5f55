"""How long does a person wait for the command?    make bench

Medians of whole processes. Each has a limit, within which a command feels like one; it is meant for a
machine that does nothing else. Ends with 1 where one is broken.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from sidestep.acestep.tiny import write_tiny_checkpoint
from tests.s3 import ACCESS_KEY, SECRET_KEY, strict_server
from tests.tasks.preprocessing import write_song

REPEATS = 7
COMMAND = str(Path(sys.executable).with_name("sidestep"))


def main() -> int:
    table = Table("command", "median", "limit", title=f"Start-up, median of {REPEATS}")
    is_slow = False
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tiny_checkpoint(folder / "buckets/studio/checkpoints", ["base"])
        songs = folder / "buckets/studio/songs"
        songs.mkdir()
        write_song(songs / "a.wav", seed=0)
        with strict_server(folder / "buckets") as server:
            local = check_of(folder / "buckets/studio", folder / "out")
            remote = [*check_of("s3://studio", "s3://studio/out"), "--endpoint-url", server.endpoint]
            for name, words, limit in (
                ("--help", ["--help"], 0.3),
                ("run --help", ["run", "--help"], 1.0),
                ("schema", ["schema"], 1.0),
                ("plan --check-only, local", local, 1.0),
                ("plan --check-only, S3 on loopback", remote, 2.0),
            ):
                seconds = median(words, folder)
                is_slow |= seconds > limit
                mark = " TOO SLOW" if seconds > limit else ""
                table.add_row(name, f"{seconds:.2f} s{mark}", f"{limit:.1f} s")
    Console().print(table)
    return int(is_slow)


def check_of(inputs: Path | str, output: Path | str) -> list[str]:
    places = ["--checkpoint-dir", f"{inputs}/checkpoints", "--audio-dir", f"{inputs}/songs"]
    return ["plan", "--check-only", *places, "--output-dir", str(output)]


def median(words: list[str], folder: Path) -> float:
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    environment = {**os.environ, **credentials, "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("AWS_CA_BUNDLE", None)  # it disturbs plain http
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([COMMAND, *words], check=True, capture_output=True, cwd=folder, env=environment)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one only fills the disk's cache


if __name__ == "__main__":
    sys.exit(main())
