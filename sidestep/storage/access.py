"""What each kind of place is reached with: the one table of credentials.

Errors, rendered files and docs are made from it. Which platform brings what of it is in `platforms.access`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Way(StrEnum):
    """How credentials come to a job."""

    VARIABLES = "variables"
    FILE = "a key's file"
    IDENTITY = "the machine's own identity"


@dataclass(frozen=True)
class Access:
    """What a kind of place is reached with. Where all is empty, it is reached without credentials."""

    variables: tuple[str, ...] = ()  # all of them are enough
    instead: tuple[str, ...] = ()  # any of these is, too
    beside: tuple[str, ...] = ()  # what a shell may have besides, for either
    file: str | None = None  # the variable that names a key's file
    cloud: str | None = None  # whose machines reach it as themselves
    is_needed: bool = True  # else there is much that anyone may read without
    anonymous: Literal["never", "to read", "always"] = "never"  # when storage.anonymous stands in for them

    @property
    def ways(self) -> tuple[Way, ...]:
        has = {Way.VARIABLES: self.variables, Way.FILE: self.file, Way.IDENTITY: self.cloud}
        return tuple(way for way, what in has.items() if what)

    @property
    def said(self) -> str:
        """Where they come from, in words; "" where there are none."""
        ways = [
            " and ".join(self.variables),
            *self.instead,
            self.file and f"{self.file}, which names a key's file",
            self.cloud and f"the machine's own identity on {self.cloud}",
        ]
        return ", or ".join(filter(None, ways))


NONE = Access()

ACCESS: Mapping[str, Access] = {
    "s3": Access(
        variables=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        beside=("AWS_SESSION_TOKEN",),  # it ends within hours, so no platform keeps it
        cloud="AWS",
        anonymous="always",
    ),
    "gs": Access(file="GOOGLE_APPLICATION_CREDENTIALS", cloud="Google Cloud", anonymous="to read"),
    "az": Access(
        variables=("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
        instead=("AZURE_STORAGE_CONNECTION_STRING",),
        beside=(
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_STORAGE_TENANT_ID",
        ),
        cloud="Azure",
    ),
    "hf": Access(variables=("HF_TOKEN",), is_needed=False, anonymous="always"),
    "http": NONE,
    "https": NONE,
    "file": NONE,
    "memory": NONE,
}
"""A row for each of `config.place.SCHEMES`."""
