"""What a failure of S3 means for the user, and what to do. Never shows a secret."""

from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from sidestep.runtime import diskerrors
from sidestep.runtime.errors import AccessError, BadSpecError, MissingInputError, SideStepError, StorageError

FAILURES = (
    *(boto.BotoCoreError, boto.ClientError, ResponseParserError),
    *(RetriesExceededError, S3DownloadFailedError),
    OSError,  # the local end of a copy
)

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
REFUSED_WITH_400 = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
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
    """Return the code that an S3 server answered with, such as NoSuchBucket; "" if it was no such answer."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, boto.ClientError) else ""


def to_user_error(error: BaseException, where: str, place: str) -> SideStepError:
    """Return what a failure at `where` in the store `place` means for the user.

    The server's own words are left out: they can repeat what was sent to it.
    """
    if isinstance(error, RetriesExceededError):
        error = error.last_exception
    if isinstance(error, NO_CREDENTIALS):
        return AccessError(
            f"{where}: no usable credentials were found ({type(error).__name__}). Set {CREDENTIALS}; "
            "for a bucket that anyone may read, set storage.anonymous."
        )
    if isinstance(error, boto.ParamValidationError):
        return _no_bucket_name(place)
    if isinstance(error, boto.ClientError):
        return _from_response(error, where, place)
    if isinstance(error, S3DownloadFailedError):
        return StorageError(f"{where} changed while it was read. Run again when nobody writes there.")
    if isinstance(error, OSError) and error.errno:
        return diskerrors.to_user_error(error, where)
    return StorageError(
        f"{where}: the store{_address(error)} is out of reach ({type(error).__name__}), after several tries. "
        "Check the network and storage.endpoint_url, then run the same command again."
    )


def _from_response(error: boto.ClientError, where: str, place: str) -> SideStepError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return MissingInputError(
            f"{place}: there is no such bucket. Check its name, storage.endpoint_url and storage.region."
        )
    if code in WRONG_REGION:
        return BadSpecError(
            f"{place}: the bucket is in another region ({code}). Set storage.region to that one."
        )
    if code == "InvalidBucketName":
        return _no_bucket_name(place)
    if status in (401, 403) or code in REFUSED_WITH_400:
        return AccessError(
            f"{where}: the store refuses access ({code}). Check the credentials "
            f"({CREDENTIALS}), that they have not expired, and that they may do this in the bucket."
        )
    if code in ("NoSuchKey", "404"):
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    return StorageError(
        f"{where}: the store answered with {code or status}. If that does not pass, ask who runs it."
    )


def _no_bucket_name(place: str) -> BadSpecError:
    return BadSpecError(f"{place}: this cannot be a bucket's name. It has 3 to 63 letters, digits, '.', '-'.")


def _address(error: BaseException) -> str:
    """Host and port alone: a URL in the environment may carry a password."""
    netloc = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).netloc
    return f" at {netloc.rpartition('@')[2]}" if netloc else ""
