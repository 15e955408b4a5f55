"""Messages about a job: to webhooks, and through apprise to whatever it knows (mail, Telegram, Teams, …).

Their URLs are secrets, as tokens are in them: nothing here says more of one than its host.
"""

import json
import logging
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from sidestep.lifecycle.status import Status, now
from sidestep.runtime import http
from sidestep.runtime.outbox import Outbox, RefusedError
from sidestep.runtime.secrets import hide

Event = Literal["begin", "preempted", "stalled", "failed", "done"]
News = Mapping[str, Any]

TIMEOUT = 5.0  # seconds
MAY_PASS = (408, 425, 429)  # of the codes from 400 to 499, as all from 500 on may


def news_of(event: Event, status: Status, place: str, price_per_hour: float | None) -> News:
    """What a webhook is sent: the fields for programs, and the same as `text` and `content` for people.

    Slack, Mattermost and Rocket.Chat show `text`, Discord shows `content`; each ignores the rest.
    """
    hours = sum(status.spent.seconds.values()) / 3600
    fields = {
        "event": event,
        "name": status.name,
        "task": status.task,
        "attempt": status.attempt or None,
        "phase": status.phase,
        "step": status.step,
        "steps": status.steps,
        "loss": status.loss,
        "exit_code": status.exit_code,
        "message": hide(status.message),
        "hours": round(hours, 4),
        "cost": None if price_per_hour is None else round(hours * price_per_hour, 4),
        "output": place,
        "time": now().isoformat(),
    }
    text = hide("\n".join(_lines(fields)))
    return {"text": text, "content": text[:2000], **fields}  # Discord refuses more


def outbox_to(url: str) -> Outbox[News]:
    """An outbox for news, to the webhook at an http(s) URL, or to where an apprise URL leads."""
    scheme, _, _ = url.partition("://")
    if scheme.lower() in ("http", "https"):
        return Outbox(f"The webhook at {urlsplit(url).hostname}", _webhook(url))
    return Outbox(f"The notification by {scheme}://", _apprise(url))


def _lines(fields: Mapping[str, Any]) -> list[str]:
    code = f" (code {fields['exit_code']})" if fields["exit_code"] else ""
    what = f"attempt {fields['attempt']} has begun" if fields["event"] == "begin" else fields["event"]
    lines = [f"{fields['name']}: {what}{code}"]
    if fields["message"]:
        lines.append(fields["message"])
    step = f"{fields['phase']}, step {fields['step']} of {fields['steps']}" if fields["step"] else None
    cost = f"cost {fields['cost']:g}" if fields["cost"] is not None else None
    lines.append(", ".join(filter(None, [step or fields["phase"], f"{fields['hours']:.2f} hours", cost])))
    return [*lines, fields["output"]]


def _webhook(url: str) -> Callable[[News], None]:
    headers = {"Content-Type": "application/json", "User-Agent": "side-step"}
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if user:  # which urllib would take for a part of the host
        headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
    address = parts._replace(netloc=host).geturl()

    def send(news: News) -> None:
        request = urllib.request.Request(address, json.dumps(news).encode(), headers)  # noqa: S310 - as configured
        try:
            http.send(request, TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code < 400:
                raise RefusedError(
                    f"{error.code} {error.reason}, which is not followed: give the URL that it leads to"
                ) from error
            if error.code < 500 and error.code not in MAY_PASS:
                raise RefusedError(f"{error.code} {error.reason}") from error
            raise

    return send


def _apprise(url: str) -> Callable[[News], None]:
    def send(news: News) -> None:
        try:
            from apprise import Apprise, AppriseAsset
        except ModuleNotFoundError as error:
            raise RefusedError("the package apprise is missing: pip install 'side-step[notify]'") from error
        with _kept_from_logs() as said:
            # Its own threads would be waited for as the process ends, however long a server hangs.
            service = Apprise(asset=AppriseAsset(async_mode=False, service_timeout=0))
            if not service.add(url):
                raise RefusedError("apprise knows no such URL; see https://appriseit.com/services/")
            title, _, body = str(news["text"]).partition("\n")
            if not service.notify(title=title, body=body):
                raise OSError(said[-1] if said else "apprise could not send it")

    return send


@contextmanager
def _kept_from_logs() -> Iterator[list[str]]:
    """What apprise and its client say in this thread goes into no log, as it has the URL; yields warnings."""
    here, said = threading.get_ident(), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread != here:
            return True  # a program that runs a job may use them, too
        if record.levelno >= logging.WARNING:
            said.append(hide(record.getMessage()))
        return False

    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3.connectionpool")]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield said
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
