"""Notice that stands in the machine's metadata: so AWS, Google Cloud and Azure say that a spot machine goes.

A container sees no signal of it before the machine shuts down, if at all. Each cloud's service is asked every
few seconds, in a thread of its own:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
"""

import logging
import os
import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import HTTPError

from sidestep.runtime.errors import BadDataError
from sidestep.runtime.parsing import parse_as
from sidestep.runtime.preemption import Preemption

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
TIMEOUT = 1.0  # seconds: from a container, AWS's answer may not get through, and then none comes at all
TRIES = 3  # without any answer, before it is given up
FIRST_EVENTS_TIMEOUT = 130.0  # seconds: Azure may take two minutes to answer the first time
LEAST_SECONDS = 5.0  # a date that is over is no reason to save nothing
SHORT_SECONDS = 10.0  # in fewer, a step, a save and an upload often do not fit
GOOGLE_SECONDS = 30.0 - EVERY_SECONDS  # from the notice on, which may be as old as the question before
MOST_BYTES = 65536
ADDRESS = "http://169.254.169.254"
IDENTITY = Path("/sys/class/dmi/id")

Get = Callable[..., bytes]
"""get(path, method="GET", timeout=TIMEOUT, **headers): the answer's body. Raises OSError or HTTPException."""


@dataclass(frozen=True)
class Notice:
    """The machine goes: what says so, and the seconds until then."""

    why: str
    seconds: float


@dataclass(frozen=True)
class _Action:
    action: str
    time: datetime


@dataclass(frozen=True)
class _Event:
    EventType: str
    EventStatus: str = ""
    NotBefore: str = ""
    Resources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Events:
    Events: tuple[_Event, ...] = ()


class Aws:
    """EC2: `spot/instance-action` is there from two minutes before the end on. IMDSv2 asks for a token."""

    name = "AWS"
    address_variables = ("AWS_EC2_METADATA_SERVICE_ENDPOINT",)  # as AWS's own SDKs call it

    def __init__(self) -> None:
        self._token = ""

    def ask(self, get: Get, now: datetime) -> Notice | None:
        """The notice, None where there is none. Raises what `get` does where there is no answer."""
        if not self._token:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
            self._token = get("/latest/api/token", "PUT", **ttl).decode("ascii")
        try:
            body = get("/latest/meta-data/spot/instance-action", **{"X-aws-ec2-metadata-token": self._token})
        except HTTPError as error:
            if error.code == 401:  # it is too old
                self._token = ""
            if error.code == 404:
                return None
            raise
        said = parse_as(_Action, body, "spot/instance-action")
        return Notice(f"{said.action} at {said.time:%H:%M:%S} UTC", (said.time - now).total_seconds())


class AwayError(OSError):
    """The service is there, and has no answer right now."""


class Google:
    """Compute Engine: `preempted` becomes TRUE thirty seconds before the end. Now and then the service is
    restarted and answers 503, or nothing: that is no answer."""

    name = "Google Cloud"
    address_variables = ("GCE_METADATA_HOST", "GCE_METADATA_IP")  # as Google's own libraries call it

    def ask(self, get: Get, now: datetime) -> Notice | None:
        """As Aws.ask."""
        said = get("/computeMetadata/v1/instance/preempted", **{"Metadata-Flavor": "Google"}).strip().upper()
        if not said:
            raise AwayError("it answered nothing")
        if said not in (b"TRUE", b"FALSE"):
            raise OSError(f"it answered {said[:20]!r}")
        return Notice("preempted", GOOGLE_SECONDS) if said == b"TRUE" else None


class Azure:
    """Scheduled events, of which Preempt alone ends the machine. They are those of a whole scale set, and may
    come less than `NotBefore`'s usual thirty seconds before the end."""

    name = "Azure"
    address_variables = ("AZURE_POD_IDENTITY_AUTHORITY_HOST",)  # as Azure's own SDK calls it

    def __init__(self) -> None:
        self._machine = ""
        self._has_answered = False

    def ask(self, get: Get, now: datetime) -> Notice | None:
        """As Aws.ask."""
        header = {"Metadata": "true"}
        if not self._machine:  # a question that is answered at once: is this Azure?
            path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            self._machine = get(path, **header).decode()
        timeout = TIMEOUT if self._has_answered else FIRST_EVENTS_TIMEOUT
        body = get("/metadata/scheduledevents?api-version=2020-07-01", timeout=timeout, **header)
        self._has_answered = True
        for event in parse_as(_Events, body, "scheduledevents").Events:
            is_ours = not event.Resources or self._machine in event.Resources
            if event.EventType == "Preempt" and is_ours and event.EventStatus != "Canceled":
                date = parsedate_to_datetime(event.NotBefore) if event.NotBefore else now  # "": it has begun
                return Notice(f"preempt at {date:%H:%M:%S} UTC", (date - now).total_seconds())
        return None


CLOUDS: Mapping[str, type[Aws] | type[Google] | type[Azure]] = {"aws": Aws, "gcp": Google, "azure": Azure}


class SpotNotice:
    """Asks the machine's cloud for notice while its `with` block runs, and tells `preemption` of it.

    `cloud` is runtime.spot_notice. auto: the cloud that the machine's firmware names, or whose address a
    variable of its SDK sets; nothing is asked on other machines.
    """

    def __init__(
        self,
        cloud: str,
        preemption: Preemption,
        environ: Mapping[str, str] | None = None,
        every_seconds: float = EVERY_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        environ = os.environ if environ is None else environ
        kind = CLOUDS.get(cloud_here(environ) if cloud == "auto" else cloud)
        self._cloud = kind() if kind else None
        self._address = _address(kind, environ) if kind else ""
        self._preemption, self._every_seconds, self._now = preemption, every_seconds, now
        # What a proxy answers is another machine's.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._is_over = threading.Event()
        self._has_answered, self._failures = False, 0

    def __enter__(self) -> Self:
        if self._cloud:
            threading.Thread(target=self._run, name="spot notice", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()

    def _run(self) -> None:
        while self.look() and not self._is_over.wait(self._every_seconds):
            pass

    def look(self) -> bool:
        """Ask once; False where there is nothing more to ask for."""
        assert self._cloud is not None
        try:
            notice = self._cloud.ask(self._get, self._now())
        except (OSError, HTTPException, BadDataError, ValueError) as error:
            is_away = error.code >= 500 if isinstance(error, HTTPError) else isinstance(error, AwayError)
            self._failures += not is_away
            if self._has_answered or self._failures < TRIES:
                log.debug("%s's metadata service has not answered: %s", self._cloud.name, error)
                return True
            log.info(
                "%s's metadata service does not answer (%s), so no spot notice will be seen; "
                "runtime.spot_notice: none saves the asking",
                *(self._cloud.name, error),
            )
            return False
        self._has_answered = True
        if notice is None or self._is_over.is_set():
            return True
        why = f"Spot notice of {self._cloud.name} ({notice.why})"
        if notice.seconds < SHORT_SECONDS:
            why += ", too short to promise a save (the newest checkpoint stays)"
        self._preemption.announce(why, max(notice.seconds, LEAST_SECONDS))
        return False

    def _get(self, path: str, method: str = "GET", timeout: float = TIMEOUT, **headers: str) -> bytes:
        request = urllib.request.Request(self._address + path, method=method, headers=headers)  # noqa: S310
        with self._opener.open(request, timeout=timeout) as answer:
            body: bytes = answer.read(MOST_BYTES)
            return body


def cloud_here(environ: Mapping[str, str], identity: Path = IDENTITY) -> str:
    """Whose machine this is, as a key of CLOUDS; an empty text where it is none of them."""
    for name, cloud in CLOUDS.items():
        if any(environ.get(variable) for variable in cloud.address_variables):
            return name
    vendor = " ".join(
        _text(identity / file) for file in ("sys_vendor", "bios_vendor", "bios_version")
    ).lower()
    if "amazon" in vendor:
        return "" if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" else "aws"
    if "google" in vendor:
        return "gcp"
    # Hyper-V has the same vendor elsewhere; this is the number of Azure's chassis.
    return "azure" if _text(identity / "chassis_asset_tag") == "7783-7084-3265-9085-8269-3286-77" else ""


def _address(kind: type[Aws] | type[Google] | type[Azure], environ: Mapping[str, str]) -> str:
    address = next((value for name in kind.address_variables if (value := environ.get(name))), ADDRESS)
    return (address if "://" in address else f"http://{address}").rstrip("/")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""  # no such firmware, as in many sandboxes
