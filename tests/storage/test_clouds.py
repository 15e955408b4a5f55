"""How gs:// and az:// fail. Their packages are not installed by default: stand-ins fail as they do.

What is raised when was seen with gcsfs 2026.10.1 and adlfs 2026.8.0 on servers that answer with these codes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import AccessError, MissingInputError, SideStepError, StorageError
from sidestep.storage.open import open_store


def of(module: str, name: str, base: type[Exception] = Exception) -> type[Exception]:
    """An exception class as that module has one."""
    return type(name, (base,), {"__module__": module})


GcsHttpError = of("gcsfs.retry", "HttpError")
AzureError = of("azure.core.exceptions", "AzureError")
GoogleAuthError = of("google.auth.exceptions", "GoogleAuthError")


def answered(kind: type[Exception], **status: int) -> Exception:
    error = kind("the server's words")
    vars(error).update(status)
    return error


FAILURES: list[tuple[str, Exception, type[SideStepError], str]] = [
    (
        "gs",
        OSError("Forbidden: b/studio/o\nthe server's words"),
        AccessError,
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    ("gs", answered(GcsHttpError, code=401), AccessError, "GOOGLE_APPLICATION_CREDENTIALS"),
    ("gs", answered(GcsHttpError, code=503), StorageError, "the store answered with 503"),
    ("gs", FileNotFoundError("b/studio/o"), MissingInputError, "that the bucket or container is there"),
    ("gs", of("google.auth.exceptions", "RefreshError", GoogleAuthError)(), AccessError, "refuses access"),
    ("gs", of("google.auth.exceptions", "TransportError", GoogleAuthError)(), StorageError, "out of reach"),
    (
        "az",
        answered(of("azure.core.exceptions", "ClientAuthenticationError", AzureError), status_code=403),
        AccessError,
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
    (
        "az",
        answered(of("azure.core.exceptions", "ResourceNotFoundError", AzureError), status_code=404),
        MissingInputError,
        "that the bucket or container is there",
    ),
    (
        "az",
        of("azure.core.exceptions", "ServiceRequestError", AzureError)(),
        StorageError,
        "the store is out of reach (ServiceRequestError)",
    ),
]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the client of every cloud be a folder in memory in which all that is asked for raises `error`."""

    def install(error: Exception | None = None, at_once: bool = False) -> None:
        class Client(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
            def __init__(self, **settings: Any) -> None:
                if at_once and error:
                    raise error
                super().__init__()

            def fail(self, *given: Any, **named: Any) -> Any:
                if error:
                    raise error
                return [given[0]]  # adlfs' answer to find, where it is a file that is asked about

            find = info = cat_file = pipe_file = get_file = put_file = rm_file = fail

        monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: Client)

    return install


@pytest.mark.parametrize(("scheme", "error", "kind", "message"), FAILURES)
def test_a_cloud_s_failure_is_told_apart(
    cloud: Callable[..., None],
    tmp_path: Path,
    scheme: str,
    error: Exception,
    kind: type[SideStepError],
    message: str,
) -> None:
    cloud(error)
    store = open_store(f"{scheme}://studio/songs", StorageSpec())
    for use in (
        store.list_files,
        lambda: store.read_bytes("a"),
        lambda: store.create("a", b""),
        lambda: store.upload(tmp_path / "a", "a"),
        lambda: store.download("a", tmp_path / "b"),
    ):
        with pytest.raises(kind) as refused:
            use()
        assert message in str(refused.value) and f"{scheme}://studio/songs" in str(refused.value)
        assert "the server's words" not in str(refused.value)


def test_no_credentials_for_azure(cloud: Callable[..., None]) -> None:
    cloud(ValueError("Must provide either a connection_string or account_name with credentials!!"), True)
    with pytest.raises(AccessError, match=r"az://: no usable credentials were found \(AZURE_STORAGE_"):
        open_store("az://box/songs", StorageSpec()).list_files()


def test_a_file_has_nothing_below_it(cloud: Callable[..., None]) -> None:
    cloud()
    assert open_store("az://box/song.mp3", StorageSpec()).list_files() == []


def test_a_bug_stays_a_bug(cloud: Callable[..., None]) -> None:
    cloud(KeyError("name"))
    with pytest.raises(KeyError):
        open_store("gs://studio/songs", StorageSpec()).list_files()
