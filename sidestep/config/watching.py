"""The schema's part about who watches a job: none of it changes what the job makes."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from sidestep.config.section import Folder, Mark, Section, setting, split_blanks
from sidestep.config.trackers import TrackerNames
from sidestep.runtime.secrets import MASK, remember_url

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)


def _secret_url(url: str) -> str:
    remember_url(url)
    if not _URL.fullmatch(url) or not _has_host(url):
        raise ValueError("is no URL: it begins with https:// or http://, or with a scheme that apprise knows")
    return url


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return parts.scheme not in ("http", "https") or bool(parts.hostname)


def _split_urls(value: Any) -> Any:
    """As a list. A job.yaml in an output has *** in a secret's place, which leaves it to the variable."""
    urls = split_blanks(value)
    return [url for url in urls if url != MASK] if isinstance(urls, list | tuple) else urls


SecretUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_secret_url)], ...],
    Mark(is_secret=True),
    BeforeValidator(_split_urls),
    PlainSerializer(lambda urls: [MASK] * len(urls), when_used="json"),
]
"""URLs with tokens in them. As JSON, in which a spec is shown and stored, they are masked."""


def _is_read_by_a_collector(path: str) -> str:
    if not path.endswith(".prom"):
        raise ValueError("must end in .prom: node_exporter reads no other files")
    return path


MetricsFile = Annotated[Folder, AfterValidator(_is_read_by_a_collector)]
"""A file on this machine that is read by node_exporter."""


class WatchingFields(Section):
    """Of `runtime`: how those who are not there hear of a job."""

    log_format: Literal["text", "json"] = setting(
        "text",
        "Lines on standard error: text, or json (one object a line, with time, level, message, job, attempt, "
        "phase, step and loss). The log files are text.",
    )
    webhook: SecretUrls = setting(
        (),
        "URLs, with blanks between them, that hear when an attempt begins, is preempted, stalls, fails or is "
        "done: https:// ones by a POST of JSON, others through apprise. They are secrets, best given as "
        "SIDESTEP_RUNTIME__WEBHOOK.",
        repr=False,
    )
    metrics_port: int | None = setting(
        None,
        "Port of an endpoint for Prometheus, /metrics, on all interfaces while the job runs; by default, "
        "there is none.",
        ge=1,
        le=65535,
    )
    metrics_file: MetricsFile | None = setting(
        None,
        "The same as a file for the textfile collector of node_exporter, on this machine: written every 15 "
        "seconds and at the end. Its name ends in .prom.",
    )
    trackers: TrackerNames = setting(
        (),
        "Experiment trackers that get TensorBoard's curves, too: wandb, mlflow, trackio, each an extra to "
        "install. Key, project and address come from the tracker's own variables, such as WANDB_API_KEY.",
    )
