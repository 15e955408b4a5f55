"""The processes of one training: how they meet, agree, and find out that one of them is gone.

All that is decided between them is decided by numbers that all of them have got by the same exchange, never
by what one of them knows alone. Each gives a sign of life every second; who gives none for `LOST_AFTER`
seconds is lost, and the others end. Gradients are `training.parallel`'s.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from sidestep.runtime import liveness
from sidestep.runtime.errors import ExitCode, MachineError, PeerLostError, SideStepError
from sidestep.runtime.preemption import RESERVE, Preemption
from sidestep.runtime.ranks import Rank, is_launched, lost_rank
from sidestep.runtime.words import one_or_many, some
from sidestep.training import meeting
from sidestep.training.numbers import Progress

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0  # between two signs of life
LOST_AFTER = 30.0  # seconds without one
SECONDS_TO_END = 12.0  # that a process has once it has lost another one: then it ends whatever it is doing
SECONDS_TO_HEAR = 1.0  # from the launcher, which process of this machine is gone
LAST_WORDS = 8.0  # seconds that it waits before it ends, so that the cause is seen first
POLL_SECONDS = 0.0005
BEGINS, OVER = "begins", b"over"
"""What rank 0 tells first: a checkpoint's numbers, nothing where there is none, or that all is done."""
FOR_EVER = timedelta(days=7)  # of a collective: rank 0 may upload or sample meanwhile; see LOST_AFTER


class Team:
    """A process that trains alone, which is the team that `Processes` is of several.

    Attributes:
        rank: this process's number.
        count: how many there are.
    """

    rank = 0
    count = 1

    def heard(self, preemption: Preemption, seconds: float = 0) -> tuple[float, float]:
        """What all ranks ask together: how many seconds are left after notice to any of them (infinity where
        none came), and the most `seconds` that any has taken."""
        return preemption.seconds_left(), seconds

    def is_any(self, answer: bool) -> bool:
        """Whether the `answer` is yes at any rank."""
        return answer

    def shared(self, losses: Mapping[int, float], count: int) -> list[float]:
        """All `count` losses, of which each rank has made those whose number is its own modulo `count`."""
        return [losses[number] for number in range(count)]

    def tell(self, what: str, content: bytes = b"") -> None:
        """Rank 0 tells the others something, once."""

    def send(self, files: Mapping[str, Path]) -> None:
        """Rank 0 sends the others a checkpoint's files; none: there is no checkpoint."""

    def check_same(self, what: Mapping[str, Any]) -> None:
        """Raise MachineError where `what` is not the same here as at rank 0."""

    def begin_with(self, progress: Progress) -> None:
        """Rank 0 says what else it goes on with: it alone knows what has changed since the checkpoint."""

    def say_pulled(self) -> None:
        """What the processes of this machine share is there."""

    def await_pulled(self) -> None:
        """Wait until the first process of this machine has said so."""

    def leave(self) -> None:
        """No rank depends on another one any more."""


class Processes(Team):
    """Those of `Rank.count` processes. All methods raise PeerLostError where one of them is gone."""

    def __init__(self, rank: Rank, preemption: Preemption, end: Callable[[int], object] = os._exit) -> None:
        """Meet the others. `end` ends the process where its main thread does not."""
        self.rank, self.count = rank.number, rank.count
        self._node, self._is_first_here = rank.number - rank.local, rank.local == 0
        self._preemption, self._end = preemption, end
        self._lost = ""  # who, and how that showed
        self._over = threading.Event()
        self._beat = 0
        self._store = meeting.meet(rank, hosts=rank.number == 0 and not rank.is_hosted)
        self._store.set(f"alive/{self.rank}", self._sign())
        self._check_counts()  # before threads that would end the process
        self._thread = threading.Thread(
            target=self._live, args=[meeting.meet(rank, hosts=False)], name="team", daemon=True
        )
        self._thread.start()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._await_all()
        self._connect()

    def heard(self, preemption: Preemption, seconds: float = 0) -> tuple[float, float]:
        found = self._gathered(torch.tensor([preemption.seconds_left(), seconds], dtype=torch.float64))
        left = float(found[:, 0].min())
        if left < inf and not preemption.requested:
            preemption.request("notice at another rank", left + RESERVE)
        return left, float(found[:, 1].max())

    def is_any(self, answer: bool) -> bool:
        return bool(self._gathered(torch.tensor([float(answer)])).any())

    def shared(self, losses: Mapping[int, float], count: int) -> list[float]:
        own = torch.zeros(count, dtype=torch.float64)
        for number, loss in losses.items():
            own[number] = loss
        found = self._gathered(own)
        return [float(found[number % self.count, number]) for number in range(count)]

    def tell(self, what: str, content: bytes = b"") -> None:
        with self._peers_may_go():
            self._store.set(f"told/{what}", content.decode())

    def say_over(self) -> None:
        """Rank 0 tells that nothing is left to be done."""
        self.tell(BEGINS, OVER)

    def told(self, what: str) -> bytes:
        """What rank 0 tells. Waits for as long as that one lives."""
        self._wait_for([f"told/{what}"])
        with self._peers_may_go():
            content: bytes = self._store.get(f"told/{what}")
        return content

    def send(self, files: Mapping[str, Path]) -> None:
        contents = {name: path.read_bytes() for name, path in files.items()}
        self.tell("files", json.dumps({name: len(content) for name, content in contents.items()}).encode())
        for content in contents.values():
            self._broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    def receive(self, folder: Path) -> bool:
        """Put what rank 0 sends into `folder`; False where there is no checkpoint."""
        sizes: dict[str, int] = json.loads(self.told("files"))
        for name, size in sizes.items():
            content = torch.empty(size, dtype=torch.uint8)
            self._broadcast(content)
            (folder / name).write_bytes(content.numpy().tobytes())
        return bool(sizes)

    def begin_with(self, progress: Progress) -> None:
        if self.rank == 0:
            self.tell("patience", str(progress.patient_from).encode())
        else:
            progress.patient_from = int(self.told("patience"))

    def say_pulled(self) -> None:
        if self._is_first_here:
            self.tell(f"pulled/{self._node}")

    def await_pulled(self) -> None:
        if not self._is_first_here:
            self._wait_for([f"told/pulled/{self._node}"])

    def check_same(self, what: Mapping[str, Any]) -> None:
        own = {key: json.dumps(value, sort_keys=True, default=str) for key, value in what.items()}
        if self.rank == 0:
            self.tell("same", json.dumps(own).encode())
            return
        first: dict[str, str] = json.loads(self.told("same"))
        differing = [key for key in sorted({*own, *first}) if own.get(key) != first.get(key)]
        if differing:
            key = differing[0]
            raise MachineError(
                f"rank {self.rank} is not as rank 0 is: {', '.join(differing)} differ, so that their weights "
                f"would part\n  {key} is {own.get(key)} here, and {first.get(key)} there\n"
                "  give all ranks the same kind of GPU, the same versions, settings and inputs"
            )

    def exchange(self, sent: Tensor, got: Tensor) -> None:
        """Row j of `sent`, [ranks, N], goes to rank j; row j of what is put into `got` is from rank j."""
        with self._peers_may_go():
            self._wait(dist.all_to_all_single(got, sent, async_op=True), sent)

    def joined(self, own: Tensor) -> Tensor:
        """The vectors of all ranks, [N] each, one behind the other: [ranks · N]."""
        whole = own.new_empty(self.count * len(own))
        with self._peers_may_go():
            self._wait(dist.all_gather(list(whole.view(self.count, -1)), own, async_op=True), own)
        return whole

    def add_up(self, values: Tensor) -> None:
        """Put the sum over all ranks into `values`, in no order that one could rely on."""
        with self._peers_may_go():
            self._wait(dist.all_reduce(values, async_op=True), values)

    def leave(self) -> None:
        """Wait for the others, and take leave: from now on each ends as it likes, rank 0 after its work."""
        if self._over.is_set():
            return
        self._gathered(torch.zeros(1))
        self._over.set()
        self._thread.join(2 * EVERY_SECONDS)
        dist.destroy_process_group()

    def outlast_rank_0(self) -> None:
        """After `leave`, on another machine than rank 0: wait until that one has ended, too.

        It saves what was done, and a platform ends it as soon as another machine has ended. After notice the
        time for that is bounded by `preemption`, which ends this process.
        """
        if self._node == 0:
            return
        with suppress(RuntimeError):  # its connections end with it
            while self._preemption.seconds_left() > 0:
                self._store.check(["count"])
                time.sleep(0.1)

    def part(self) -> None:
        """This process ends while the others go on: tell them, as far as that can be done."""
        if self._over.is_set():
            return
        self._over.set()
        with suppress(RuntimeError):
            self._store.set(f"alive/{self.rank}", self._sign(is_gone=True))

    def check(self) -> None:
        """Raise PeerLostError where another process is gone."""
        if self._lost:
            raise PeerLostError(
                f"rank {self.rank} ends, as {self._cause()}\n"
                "  what that process said last tells why; the same command goes on from the newest checkpoint"
            )

    def _cause(self) -> str:
        """What the launcher says of it: it sees a process end a moment after its connections are closed."""
        until = time.monotonic() + min(SECONDS_TO_HEAR, max(self._preemption.seconds_left(), 0))
        while not (cause := lost_rank(os.environ)) and is_launched(os.environ) and time.monotonic() < until:
            time.sleep(0.02)
        return cause or self._lost

    def _connect(self) -> None:
        """In a thread, as it hears no signal, and would wait for one that has died."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        failed: list[RuntimeError] = []

        def connect() -> None:
            store = PrefixStore("group", self._store)
            try:
                dist.init_process_group(backend, None, FOR_EVER, self.count, self.rank, store)
            except RuntimeError as error:
                failed.append(error)

        thread = threading.Thread(target=connect, name="connect", daemon=True)
        thread.start()
        while thread.is_alive():
            self.check()
            thread.join(0.02)
        with self._peers_may_go():
            if failed:
                raise failed[0]

    def _gathered(self, own: Tensor) -> Tensor:
        """The vectors of all ranks, [ranks, N], on the CPU."""
        return self.joined(own).view(self.count, -1)

    def _broadcast(self, content: Tensor) -> None:
        with self._peers_may_go():
            self._wait(dist.broadcast(content, 0, async_op=True), content)

    def _wait(self, work: Any, tensor: Tensor) -> None:
        """On a CPU in short waits, between which signals are heard. A GPU's stream waits by itself."""
        if tensor.device.type == "cpu":
            while not work.is_completed():
                self.check()
                time.sleep(POLL_SECONDS)
        work.wait()

    def _wait_for(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        while not self._are_there(keys):
            self.check()
            time.sleep(0.02)

    def _await_all(self) -> None:
        """Until each rank has come."""
        began, is_told = time.monotonic(), False
        missing: Sequence[int] = range(self.count)
        while missing := [rank for rank in missing if not self._are_there([f"alive/{rank}"])]:
            self.check()
            self._check_refused()
            waited = time.monotonic() - began
            who = f"{one_or_many(len(missing), 'ranks')} {some([str(rank) for rank in missing])}"
            if waited > meeting.MEET_WITHIN:
                raise PeerLostError(
                    f"not all of {self.count} ranks have come within {meeting.within()}: {who}"
                )
            if waited > meeting.QUIET_SECONDS and not is_told:
                log.info("Waiting for %s of %d, up to %s", who, self.count, meeting.within())
                is_told = True
            time.sleep(0.02)

    def _are_there(self, keys: list[str]) -> bool:
        with self._peers_may_go():
            return bool(self._store.check(keys))

    @contextmanager
    def _peers_may_go(self) -> Iterator[None]:
        """Of a process that ends, its connections say so first."""
        try:
            yield
        except RuntimeError as error:
            self._lost = self._lost or "another one has closed its connection"
            log.debug("A collective has failed: %s", error)
            self.check()

    def _check_counts(self) -> None:
        """Raise MachineError where another process counts differently; who waits for this one hears of it."""
        count: bytes = self._store.compare_set("count", "", str(self.count))
        if int(count) != self.count:
            self._store.set("refused", f"a rank is one of {self.count}, and another one of {int(count)}")
        self._check_refused()

    def _check_refused(self) -> None:
        if self._are_there(["refused"]):
            raise _own(
                MachineError(
                    f"{self._store.get('refused').decode()}\n"
                    "  give each node the same number of processes, by --processes or by its GPUs"
                )
            )

    def _sign(self, signs: int = 0, *, is_gone: bool = False) -> str:
        left = self._preemption.seconds_left()
        return json.dumps({"signs": signs, "left": left if left < inf else None, "gone": is_gone})

    def _live(self, store: Store) -> None:
        """Give signs of life, and look at those of the others.

        Whether any of them makes progress counts here, too: who waits for the others is not stalled.
        """
        others = [rank for rank in range(self.count) if rank != self.rank]
        seen, still = dict.fromkeys(others, ""), dict.fromkeys(others, 0.0)
        own, before, looked = 0, liveness.signs(), time.monotonic()
        while not self._over.wait(EVERY_SECONDS):
            own += int(liveness.signs() != before or liveness.is_waiting())
            self._beat += 1
            now = time.monotonic()
            passed, looked = min(now - looked, 2 * EVERY_SECONDS), now
            try:
                store.set(f"alive/{self.rank}", self._sign(own) + f" {self._beat}")
                keys = [f"alive/{rank}" for rank in others if store.check([f"alive/{rank}"])]
                found = dict(zip(keys, store.multi_get(keys), strict=True)) if keys else {}
            except RuntimeError as error:
                log.debug("The ranks' meeting place is gone: %s", error)
                self._lose("rank 0 has ended or cannot be reached")
                return
            moves = False
            for rank in others:
                text = found.get(f"alive/{rank}", b"").decode()
                if text == seen[rank]:
                    still[rank] += passed
                    if text and still[rank] >= LOST_AFTER:
                        self._lose(f"rank {rank} has given no sign of life for {LOST_AFTER:g} s")
                        return
                    continue
                sign, old = _read(text), _read(seen[rank])
                moves = moves or sign["signs"] != old.get("signs")
                seen[rank], still[rank] = text, 0.0
                if sign["left"] is not None and not self._preemption.requested and not self._over.is_set():
                    self._preemption.announce(f"notice at rank {rank}", sign["left"] + RESERVE)
                if sign["gone"]:
                    self._lose(f"rank {rank} has ended")
                    return
            if moves:
                liveness.sign_of_life()
            before = liveness.signs()

    def _listen(self) -> None:
        """Whether rank 0 still answers. Where it hangs, or its machine is cut off, `_live` waits for it for
        ever: a store's questions have no time-out."""
        before, still, looked = 0, 0.0, time.monotonic()
        while not self._over.wait(EVERY_SECONDS) and not self._lost:
            now = time.monotonic()
            passed, looked = min(now - looked, 2 * EVERY_SECONDS), now
            before, still = self._beat, still + passed if self._beat == before else 0.0
            if still >= LOST_AFTER:
                self._lose(f"rank 0 has given no answer for {LOST_AFTER:g} s")

    def _lose(self, who: str) -> None:
        """The main thread ends the process once it asks the others for anything. It may hang, or be long."""
        if self._over.is_set():
            return
        self._lost = self._lost or who
        log.error("Rank %d ends, as %s", self.rank, self._cause())
        if not self._over.wait(SECONDS_TO_END):
            logging.shutdown()
            self._end(ExitCode.PEER)


@contextmanager
def met(rank: Rank, preemption: Preemption) -> Iterator[Processes]:
    """The team of this process. However it ends, the others hear of it; and who ends as another one is gone
    waits before, so that the cause is seen first."""
    if rank.is_by_torchrun and rank.number == 0:
        log.warning(
            "Started by torchrun, which ends with 1 whatever happens: who starts it cannot tell what to do "
            "again. `sidestep launch` ends with the code that counts"
        )
    team = Processes(rank, preemption)
    try:
        yield team
        team.leave()
    except BaseException as error:
        team.part()
        if isinstance(error, SideStepError):
            _own(error)
        if isinstance(error, PeerLostError):
            with preemption.deferred():
                until = time.monotonic() + LAST_WORDS
                while time.monotonic() < until and not preemption.requested:
                    time.sleep(0.05)
        raise


def _own(error: SideStepError) -> SideStepError:
    """It is this process's, which has met another one: no other of its machine need say the same."""
    error.is_own = True
    return error


def _read(text: str) -> dict[str, Any]:
    return dict(json.loads(text.rpartition(" ")[0] if text[-1:].isdigit() else text)) if text else {}
