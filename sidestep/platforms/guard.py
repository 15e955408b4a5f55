"""A guard above the job on a rented machine: it gives the machine back however the job ends, or hangs.

A process that is killed for its memory, crashes in native code, or hangs there with Python's lock held, can
do nothing any more, and the machine is paid for until somebody looks. So the command forks before it loads
anything large. The child is the job. The parent, the guard, passes signals on, waits, and ends as the job.

The job tells that it is alive in a page of memory that both have: no file, no descriptor, which would be
standard output where that was closed.
"""

import logging
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import NoReturn

from sidestep.config.schema import RuntimeSpec
from sidestep.platforms.release import RentedMachine
from sidestep.runtime import liveness
from sidestep.runtime.errors import OTHERS, ExitCode, Rerun, rerun_after
from sidestep.runtime.interrupts import SIGNALS
from sidestep.runtime.words import duration

log = logging.getLogger(__name__)

LOOKS_EVERY = 1.0  # seconds; the job beats as often
SECONDS_TO_DIE = 30.0  # after SIGKILL; one that a driver or a dead disk holds in the kernel never does
PASSED_ON = (*SIGNALS, signal.SIGQUIT)

_BEAT, _AWAITS_FIRST_STEP = range(2)  # the bytes of the page


def stand_guard(machine: RentedMachine, runtime: RuntimeSpec) -> None:
    """Fork where the machine is to be given back. This returns in the job alone; the guard ends with it.

    Call it while there is one thread, as no other would be in the job. Where there is no process to be had,
    the job goes on without a guard, and gives the machine back by itself if it can.
    """
    if not machine.goes_back:
        return
    guard, heard = os.getpid(), {*PASSED_ON, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, a child's code could not be asked for
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        page = mmap.mmap(-1, 2)
        page[_AWAITS_FIRST_STEP] = True
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # what comes from now on waits for the guard
        job = os.fork()
        if job:
            _Guard(job, page, runtime, heard).end_with_the_job(machine)
    except OSError as error:
        log.warning(
            "No guard stands above the job (%s): if it is killed, or hangs in native code, nobody gives "
            "this machine back",
            error.strerror,
        )
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    machine.leave_to(guard)
    threading.Thread(target=_beat, args=[page], name="pulse", daemon=True).start()


def _beat(page: mmap.mmap) -> NoReturn:
    """In the job: a beat while anything advances, or somebody waits for a store or a lease.

    It is a thread of its own, so that who waits need not think of it. Where Python's lock is held for good,
    or the process is stopped, it does not run.
    """
    signs = liveness.signs()
    while True:
        time.sleep(LOOKS_EVERY)
        before, signs = signs, liveness.signs()
        page[_AWAITS_FIRST_STEP] = liveness.awaits_first_step()
        if signs != before or liveness.is_waiting():
            page[_BEAT] = (page[_BEAT] + 1) % 256


class _Guard:
    """What the parent does. The signals that it hears are blocked: it asks for them, one after the other."""

    def __init__(
        self,
        job: int,
        page: mmap.mmap,
        runtime: RuntimeSpec,
        heard: Collection[signal.Signals],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._page, self._runtime, self._heard, self._clock = job, page, runtime, heard, clock
        self._looked, self._last_beat, self._still = clock(), page[_BEAT], 0.0
        self._kill_at: float | None = None  # once it hangs

    def end_with_the_job(self, machine: RentedMachine) -> NoReturn:
        """Wait for the job, give the machine back unless it is to be run again here, end with its code.

        Signals that come meanwhile are late: the calls end by themselves, within two minutes.
        """
        code = int(ExitCode.BUG)
        try:
            code = self._code()
            if rerun_after(code) is not Rerun.AGAIN:
                machine.release()
            logging.shutdown()
        except Exception:
            log.exception("The guard fails, and the job goes on without one")
        finally:
            os._exit(code)  # nothing of the command's own end, which is the job's

    def _code(self) -> int:
        """Wait for the job, passing on what comes. Its code, 128 + n after signal n, 76 where it hung."""
        while (ended := self._ended()) is None:
            came = signal.sigtimedwait(self._heard, LOOKS_EVERY)
            if came and came.si_signo != signal.SIGCHLD:
                os.kill(self._job, came.si_signo)
            self._look()
            if self._cannot_be_killed():
                log.error("The job does not even die: the kernel holds it, in a driver or at a dead disk")
                return ExitCode.STALLED
        code = ended if ended >= 0 else 128 - ended
        if ended < 0 and self._kill_at is None:
            log.error("A signal has ended the job (code %d): %s", code, OTHERS.get(code, "it was killed"))
        return code if self._kill_at is None or code == ExitCode.DONE else ExitCode.STALLED

    def _ended(self) -> int | None:
        """Bury who has died, as a first process must, others' children too: how the job ended, if it has."""
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == self._job:
                return os.waitstatus_to_exitcode(status)
            if not process:
                return None

    def _look(self) -> None:
        """See whether the job lives. Time in which this process, too, was paused does not count."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, 2 * LOOKS_EVERY), now
        if self._kill_at is not None:
            if now >= self._kill_at:
                os.kill(self._job, signal.SIGKILL)
            return
        if (beat := self._page[_BEAT]) != self._last_beat:
            self._last_beat, self._still = beat, 0.0
        else:
            self._still += passed
        setting, minutes = self._bound()
        if minutes is None or self._still < 60 * minutes:
            return
        grace = self._runtime.grace_seconds
        log.error(
            "THE JOB HANGS: nothing has advanced for %s, and it does not end itself. It is told to end, and "
            "killed after %g s\n"
            "  it is stopped, or in a library that does not come back; runtime.%s (%g) says how long is too "
            "long\n"
            "  the same command goes on from the newest checkpoint",
            *(duration(self._still), grace, setting, minutes),
        )
        self._kill_at = now + grace
        os.kill(self._job, signal.SIGTERM)
        os.kill(self._job, signal.SIGCONT)  # one that was stopped hears of it now, and can save

    def _cannot_be_killed(self) -> bool:
        return self._kill_at is not None and self._clock() >= self._kill_at + SECONDS_TO_DIE

    def _bound(self) -> tuple[str, float | None]:
        """The setting in force and its minutes: the job's own watchdog, where it can, ends it before."""
        name = "first_step_minutes" if self._page[_AWAITS_FIRST_STEP] else "stall_minutes"
        hung, own = self._runtime.hung_minutes, getattr(self._runtime, name)
        if hung is None or own is None:
            return name, None
        return ("hung_minutes", hung) if hung >= own else (name, own)
