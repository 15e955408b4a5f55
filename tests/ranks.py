"""A training by several processes, each a fork of this one, on one machine: what `sidestep launch` starts."""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidestep.config.job import JobSpec
from sidestep.runtime.errors import ExitCode, SideStepError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.ranks import LISTENER_VARIABLE
from sidestep.tasks import run


@dataclass
class Started:
    """The processes of a training, by rank."""

    pids: list[int]

    def codes(self) -> list[int]:
        """Wait for all. Each exit code, or minus the signal that it died of."""
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]


def start(spec: JobSpec, count: int, before: Callable[[int], object] = lambda rank: None) -> Started:
    """Train `spec` with `count` processes; each calls `before` with its rank first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Started([_fork(spec, rank, count, listener, before) for rank in range(count)])


def together(spec: JobSpec, count: int, before: Callable[[int], object] = lambda rank: None) -> Sequence[int]:
    """The same, to the end: the codes."""
    return start(spec, count, before).codes()


def _fork(
    spec: JobSpec, rank: int, count: int, listener: socket.socket, before: Callable[[int], object]
) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        names = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        names |= {"MASTER_PORT": listener.getsockname()[1], LISTENER_VARIABLE: listener.fileno()}
        os.environ.update({name: str(value) for name, value in names.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
        before(rank)
        with Preemption(is_command=True) as preemption:
            run(spec, preemption)
        code = ExitCode.DONE
    except SideStepError as error:
        sys.stderr.write(f"rank {rank} ends with {error.exit_code}: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        code = ExitCode.AGAIN
    except BaseException:  # noqa: BLE001 - it is shown, and no code of the table
        sys.stderr.write(f"rank {rank}: {traceback.format_exc()}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)
