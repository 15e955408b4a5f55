"""Giving a rented machine back when the job has ended: `runtime.on_exit`, by the API of its provider.

A provider is known by the variables that it sets in every container of its own:
https://docs.runpod.io/pods/templates/environment-variables
https://docs.vast.ai/documentation/instances/templates/docker-environment
"""

import json
import logging
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote

from sidestep.config.glimpse import glimpse
from sidestep.runtime import http
from sidestep.runtime.errors import MachineError, Rerun, SideStepError
from sidestep.storage.retry import Retry

log = logging.getLogger(__name__)

TIMEOUT = 20  # seconds, for one call
RETRY = Retry(tries=4, seconds=0, first_pause=3, longest_pause=12)  # the machine is paid for by the hour


@dataclass(frozen=True)
class Call:
    """One HTTP request of a provider's API; `path` is relative, and {id} in it is the machine's."""

    method: str
    path: str
    body: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Provider:
    """One that rents machines out, and the calls that give one back."""

    name: str
    api: str
    id_variable: str
    token_variable: str
    calls: Mapping[str, Call]  # by what runtime.on_exit says
    console: str  # where a person does the same


PROVIDERS = (
    Provider(
        name="RunPod",
        api="https://api.runpod.io/v2",
        id_variable="RUNPOD_POD_ID",
        token_variable="RUNPOD_API_KEY",  # noqa: S106 - a name
        calls={
            "stop": Call("POST", "pods/{id}/action", {"action": "stop"}),
            "terminate": Call("POST", "pods/{id}/action", {"action": "terminate"}),
        },
        console="https://console.runpod.io/pods",
    ),
    Provider(
        name="Vast.ai",
        api="https://console.vast.ai/api/v0",
        id_variable="CONTAINER_ID",
        token_variable="CONTAINER_API_KEY",  # noqa: S106 - a name
        calls={
            "stop": Call("PUT", "instances/{id}/", {"state": "stopped"}),
            "terminate": Call("DELETE", "instances/{id}/", {}),
        },
        console="https://cloud.vast.ai/instances/",
    ),
)


class RentedMachine:
    """The machine this process runs on. Leaving the `with` block gives it back, if that is wanted.

    It is wanted by `keep_or_release`, from the spec; where that is wrong, by what can be seen of it all the
    same. A job that is to be run again, code 75, keeps its machine. Where a guard stands above this
    process (see `platforms.guard`), the guard does it.
    """

    def __init__(self, words: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        """
        Args:
            words: what stands behind the command: its flags, and the spec's file.
        """
        environ = os.environ if environ is None else environ
        self._words, self._environ = words, environ
        self._provider = next((one for one in PROVIDERS if environ.get(one.id_variable, "").strip()), None)
        self._on_exit: str | None = None  # as the spec has it, once it is read
        self._id = environ.get(self._provider.id_variable, "").strip() if self._provider else ""
        self._token = environ.get(self._provider.token_variable, "").strip() if self._provider else ""
        self._guard: int | None = None  # the process that sees to it

    def keep_or_release(self, on_exit: str) -> None:
        """Say what becomes of the machine. Raises MachineError where nothing can: better now than unseen."""
        self._on_exit = on_exit
        if on_exit != "none" and self._provider is None:
            known = " or ".join(f"{one.name} ({one.id_variable})" for one in PROVIDERS)
            raise MachineError(
                f"runtime.on_exit is {on_exit}, and this machine is not rented from {known}. "
                "Here it must be none; SkyPilot, dstack and Kubernetes give their machines back themselves."
            )

    @property
    def goes_back(self) -> bool:
        """Whether it is rented, and to be given back."""
        return self._provider is not None and self._on_exit in self._provider.calls

    def leave_to(self, guard: int) -> None:
        """The process `guard`, the parent of this one, gives it back while it lives: once is enough."""
        self._guard = guard

    def __enter__(self) -> "RentedMachine":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        again = isinstance(error, SideStepError) and error.exit_code.rerun is Rerun.AGAIN
        if again or isinstance(error, SystemExit | KeyboardInterrupt):  # the first: --help
            return
        if self._provider and self._on_exit is None:
            self._on_exit = glimpse(self._words, self._environ).runtime.on_exit
        self.release()

    def release(self) -> None:
        """Give the machine back now, where that is wanted. For a process that ends within the block."""
        if os.getppid() == self._guard:
            return
        provider = self._provider
        call = provider.calls.get(self._on_exit or "none") if provider else None
        if provider is None or call is None:
            return
        log.info(
            "The job has ended: %s is told to %s this machine (%s)", provider.name, self._on_exit, self._id
        )
        trouble = self._told(provider, call)
        if trouble:
            log.warning(
                "THIS MACHINE IS STILL RENTED, AND PAID FOR: %s was to %s %s, and %s. Do it by hand: %s",
                *(provider.name, self._on_exit, self._id, trouble, provider.console),
            )

    def _told(self, provider: Provider, call: Call) -> str:
        """Make the call; what went wrong in the end, or an empty text."""
        if not self._token:
            return f"{provider.token_variable} is not set"
        request = urllib.request.Request(  # noqa: S310 - the address is the provider's, by https
            f"{provider.api}/{call.path.format(id=quote(self._id, safe=''))}",
            method=call.method,
            data=None if call.body is None else json.dumps(call.body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            RETRY.call(lambda: http.send(request, TIMEOUT), _may_pass)
        except HTTPError as error:
            trouble = f"its answer was {error.code} {error.reason}"
        except (OSError, HTTPException) as error:  # the latter: an answer that is not HTTP
            trouble = f"it was not reached: {error}"
        else:
            return ""
        return trouble.replace(self._token, "***")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code == 429
    return isinstance(error, OSError | HTTPException)
