"""Opening a place as a store. Only this file knows which kinds of store there are.

boto3 and fsspec take 0.2 to 0.4 s to import, so each kind is imported where a place of it is opened.
"""

import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sidestep.config.place import SCHEMES
from sidestep.config.schema import StorageSpec
from sidestep.runtime.credentials import check_no_credentials, hide_in_place
from sidestep.runtime.errors import BadSpecError, MachineError
from sidestep.storage.clients import Clients
from sidestep.storage.retry import LIMITS, Limits
from sidestep.storage.store import Store

PACKAGES = {"gs": "gcsfs", "az": "adlfs"}  # not installed by default


def open_store(
    place: str, options: StorageSpec, *, follow_links: bool = False, limits: Limits = LIMITS
) -> Store:
    """Return the store at a place: a path, or a URI with one of `SCHEMES`. Nothing is read or written yet.

    Args:
        follow_links: let symbolic links lead out of a local folder, such as those in a model hub's cache.
            Only for places that nobody but the user fills: elsewhere a link could show any file.
        limits: how long a store elsewhere is waited for.

    Raises BadSpecError where the place or the endpoint is not one, MachineError where the package for this
    kind of place is not installed.
    """
    try:
        check_no_credentials(place)
    except ValueError as error:
        raise BadSpecError(f"{hide_in_place(place)} {error}.") from None
    if (path := local_path(place)) is not None:
        from sidestep.storage.local import LocalStore

        return LocalStore(path, options, follow_links)
    scheme, _, rest = place.partition("://")
    scheme, rest = scheme.lower(), rest.strip("/")
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise BadSpecError(f"{scheme}:// is not a known kind of place. Use a path, or one of {allowed}.")
    if ".." in rest.split("/") or (not rest and scheme != "memory"):
        raise BadSpecError(f"{place!r} is not a place. It looks like {scheme}://bucket/folder, without '..'.")
    if options.endpoint_url and not urlsplit(options.endpoint_url).hostname:
        raise BadSpecError(
            f"storage.endpoint_url {options.endpoint_url!r} names no host. It looks like https://host:port."
        )
    if scheme == "s3":
        from sidestep.storage.s3 import open_s3

        return open_s3(rest, options, limits)
    if scheme == "hf":
        from sidestep.storage.hub import open_hub

        return open_hub(rest, options, limits)
    return _open_remote(scheme, rest, options, limits)


def _open_remote(scheme: str, root: str, options: StorageSpec, limits: Limits) -> Store:
    """The store at scheme://root, through fsspec."""
    import fsspec

    from sidestep.storage.remote import MemoryStore, RemoteStore
    from sidestep.storage.remote_errors import no_credentials

    try:
        backend = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = PACKAGES[scheme]
        raise MachineError(
            f"{scheme}:// places need the package {package}, which is not installed: pip install {package}"
        ) from error
    if scheme in PACKAGES:  # what fails is said here, once and without the server's own words
        logging.getLogger(PACKAGES[scheme]).setLevel(logging.CRITICAL)
    kind: type[RemoteStore] = MemoryStore if scheme == "memory" else RemoteStore
    settings: dict[str, Any] = {}
    if scheme in ("http", "https"):
        from sidestep.storage.http import HttpStore, http_settings

        kind, settings = HttpStore, http_settings(limits)

    def connect() -> Any:
        try:
            return backend(use_listings_cache=False, skip_instance_cache=True, **settings)
        except ValueError as error:  # adlfs, where it finds no credentials
            raise no_credentials(scheme) from error

    return kind(scheme, root, options, Clients(connect), limits)


def local_path(place: str) -> Path | None:
    """Return the absolute path of a place on this machine; None if the place is elsewhere.

    Raises BadSpecError where its file:// URI is none, or it begins with ~ and an unknown user.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", place, re.DOTALL)
    if match and match[1].lower() != "file":
        return None
    path = Path(_file_uri_path(match[2]) if match else place)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise BadSpecError(
            f"{place!r} begins with the home folder of a user whom this machine does not know. Write the "
            "whole path."
        ) from None


def _file_uri_path(rest: str) -> str:
    """RFC 8089: file:///an%20absolute/path, with no host or localhost."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise BadSpecError(f"file://{rest} is not a place. It looks like file:///absolute/path.")
    return "/" + unquote(path)
