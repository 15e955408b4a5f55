"""What a failure of a remote store means for the user, and what to do. Never shows a secret."""

from urllib.parse import urlsplit

import aiohttp
from botocore import exceptions as boto

from sidestep.runtime.errors import AccessError, BadSpecError, MissingInputError, SideStepError, StorageError
from sidestep.storage import local

FAILURES = (OSError, TimeoutError, boto.BotoCoreError, boto.ClientError, aiohttp.ClientError)

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
    boto.LoginError,
)
WRONG_REGION = (
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
)
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE with ~/.aws, or a role of the machine"


def error_code(error: BaseException) -> str:
    """The code that an S3 server answered with, such as NoSuchBucket; "" when it was no such answer."""
    answer = _answer(error)
    return str(answer.response["Error"].get("Code", "")) if answer else ""


def explained(error: BaseException, where: str, place: str) -> SideStepError:
    """The user's message for a failure at `where` in the store `place`.

    The server's own words are left out: they can repeat what was sent to it. The log file has them.
    """
    code = error_code(error)
    if isinstance(error, NO_CREDENTIALS):
        return AccessError(
            f"{where}: no usable credentials were found ({type(error).__name__}). Set {CREDENTIALS}; "
            "for a bucket that anyone may read, set storage.anonymous."
        )
    if code == "NoSuchBucket":
        return MissingInputError(
            f"{place}: there is no such bucket. Check its name, storage.endpoint_url and storage.region."
        )
    if code in WRONG_REGION:
        return BadSpecError(
            f"{place}: the bucket is in another region ({code}). Set storage.region to that one."
        )
    if isinstance(error, boto.ParamValidationError) or code == "InvalidBucketName":
        return BadSpecError(
            f"{place}: this cannot be a bucket's name. It has 3 to 63 letters, digits, '.', '-'."
        )
    if isinstance(error, aiohttp.ClientResponseError):
        return _of_a_web_server(error, where)
    if isinstance(error, PermissionError) and (code or not error.errno):
        return AccessError(
            f"{where}: the store refuses access ({code or 'permission denied'}). Check the credentials "
            f"({CREDENTIALS}), that they have not expired, and that they may do this in the bucket."
        )
    if isinstance(error, FileNotFoundError) and (code or not error.errno):
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    is_web = isinstance(error, aiohttp.ClientError)  # its failures to connect have an errno too
    if isinstance(error, OSError) and error.errno and not code and not is_web:
        return local.explained(error, where)  # the other end of a copy
    if code:
        return StorageError(
            f"{where}: the store answered with {code}. If that does not pass, ask who runs it."
        )
    return StorageError(
        f"{where}: the store{_address(error)} is out of reach ({type(error).__name__}), after several tries. "
        "Check the network and storage.endpoint_url, then run the same command again."
    )


def _of_a_web_server(error: aiohttp.ClientResponseError, where: str) -> SideStepError:
    if error.status in (401, 403, 407):
        return AccessError(
            f"{where}: the web server refuses access ({error.status}). Files are read there without "
            "credentials: use what anyone may read, or another place."
        )
    if error.status in (404, 410):
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    return StorageError(
        f"{where}: the web server answered with {error.status}, after several tries. "
        "If that does not pass, ask who runs it."
    )


def _answer(error: BaseException | None) -> boto.ClientError | None:
    """s3fs translates a server's answer to an OSError, and keeps it as its cause or its context."""
    while error is not None:
        if isinstance(error, boto.ClientError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _address(error: BaseException) -> str:
    """Host and port alone: a URL in the environment may carry a password."""
    netloc = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).netloc
    return f" at {netloc.rpartition('@')[2]}" if netloc else ""
