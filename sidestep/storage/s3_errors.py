"""What a failure of S3 means for the user, and what to do. Never shows a secret."""

import os
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from sidestep.runtime import diskerrors
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MachineError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.storage.s3_client import NoS3Error, is_unknown_host

FAILURES = (
    *(boto.BotoCoreError, boto.ClientError, ResponseParserError),
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
CONFIGURATION = (
    *(boto.ConfigParseError, boto.ConfigNotFound, boto.InvalidConfigError, boto.InvalidChecksumConfigError),
    *(boto.InvalidS3AddressingStyleError, boto.InvalidRegionError, boto.NoRegionError),
    *(boto.InvalidProxiesConfigError, boto.EndpointProviderError, boto.EndpointVariantError),
    *(boto.UnsupportedS3ConfigurationError, boto.UnsupportedS3AccesspointConfigurationError),
    *(boto.UnsupportedS3ArnError, boto.UnsupportedOutpostResourceError),
)
"""What botocore says of a setting, a variable or a profile before it sends anything."""

WRONG_CREDENTIALS = (
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "MissingSecurityHeader"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidClientTokenId"),
)
NOT_ALLOWED = ("AccessDenied", "Forbidden", "Unauthorized", "403", "401")
CLOCK = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture", "RequestTimeSkewed")
_REFUSED = ("400", "403", "Forbidden", "AccessDenied", "SignatureDoesNotMatch")
ALLOWED_SKEW = timedelta(minutes=15)  # between the clocks of a client and of AWS
FULL = 507
WRONG_REGION = (
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
)
DAMAGED = ("RequestTimeout", "IncompleteBody", "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch")
"""What became of a request on its way, and says nothing of what it asked for."""

_IDENTITY = "AWS_WEB_IDENTITY_TOKEN_FILE"
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE with ~/.aws, or a role of the machine"


def error_code(error: BaseException) -> str:
    """Return the code that an S3 server answered with, such as NoSuchBucket; "" if it was no such answer."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, boto.ClientError) else ""


def may_lack_conditions(error: boto.ClientError) -> bool:
    """Whether a refused `If-None-Match` may mean that the server knows no conditional writes.

    Servers answer with 405, 501, or with 400 and whatever code. Where a proxy takes the header away, as nginx
    does for its cache, the signature is wrong, for this request alone.
    """
    code, status = error_code(error), _status(error)
    if status == 400:
        return code not in (*WRONG_CREDENTIALS, *CLOCK, *WRONG_REGION, *DAMAGED)
    return status in (405, 501) or code == "SignatureDoesNotMatch"


def forbids_deleting(error: boto.ClientError) -> bool:
    """Whether a refused DELETE is about that: by the user's rights, a retention period or a lock."""
    if error_code(error) in (*WRONG_CREDENTIALS, *CLOCK) or _skew(error):
        return False
    return _status(error) in (403, 405, 409, 451, 501) or error_code(error) in (
        "InvalidRequest",
        "ObjectLocked",
    )


def to_user_error(error: BaseException, where: str, place: str) -> SideStepError:
    """Return what a failure at `where` in the store `place` means for the user.

    The server's own words are left out: they can repeat what was sent to it.
    """
    if isinstance(error, NO_CREDENTIALS):
        return AccessError(
            f"{where}: no usable credentials were found ({type(error).__name__}). Set {CREDENTIALS}; "
            "for a bucket that anyone may read, set storage.anonymous."
        )
    if isinstance(error, boto.ParamValidationError):
        return _no_bucket_name(place)
    if isinstance(error, CONFIGURATION):
        return BadSpecError(f"{place}: its settings, AWS_… variables or ~/.aws do not fit: {error}")
    if isinstance(error, NoS3Error):
        return BadSpecError(
            f"{place}: what answers{_address(error)} is no S3 server: it sends a web page or the like "
            f"({error.kwargs['status']}). Set storage.endpoint_url (or AWS_ENDPOINT_URL) to the address of "
            "the server's S3 interface, which is not that of its console; or a proxy or login is in between."
        )
    if isinstance(error, boto.ClientError):
        return _from_response(error, where, place)
    if is_unknown_host(error):
        return StorageError(
            f"{where}: the host{_address(error, 'of the store,')} is not known: its name cannot be resolved. "
            "Check storage.endpoint_url (or AWS_ENDPOINT_URL), storage.region and the network. A server "
            "whose buckets are no host names needs storage.path_style."
        )
    if isinstance(error, OSError) and error.filename and error.filename == os.environ.get(_IDENTITY):
        return AccessError(
            f"{where}: {error.filename}, which {_IDENTITY} names, cannot be read ({error.strerror}). Check "
            "what is mounted, or unset it."
        )
    if isinstance(error, OSError) and error.errno:
        return diskerrors.to_user_error(error, where)
    return StorageError(
        f"{where}: the store{_address(error)} is out of reach ({type(error).__name__}), after several tries. "
        "Check the network and storage.endpoint_url, then run the same command again."
    )


def _from_response(error: boto.ClientError, where: str, place: str) -> SideStepError:
    code, status = error_code(error), _status(error)
    if code == "NoSuchBucket":
        return MissingInputError(
            f"{place}: there is no such bucket. Check its name, storage.endpoint_url and storage.region."
        )
    if code in WRONG_REGION:
        region = _headers(error).get("x-amz-bucket-region") or error.response["Error"].get("Region")
        named = f", {region}," if region else ""
        return BadSpecError(
            f"{place}: the bucket is in another region{named} ({code}). Set storage.region to that one."
        )
    if code == "InvalidBucketName":
        return _no_bucket_name(place)
    if code in CLOCK or _skew(error):
        return MachineError(
            f"{where}: this machine's clock and the store's are too far apart ({code}): here it is "
            f"{_in_words(datetime.now(UTC))}, there {_server_time(error)}. Set this machine's clock; no "
            "credentials are valid otherwise."
        )
    if code == "InvalidObjectState":
        return MissingInputError(
            f"{where} is archived and cannot be read ({code}). Restore it first, such as with `aws s3api "
            "restore-object`, or take it out of the place."
        )
    if status == FULL or "quota" in code.lower() or code.endswith(("StorageFull", "InsufficientStorage")):
        return StorageError(
            f"{where}: the store is full, or a quota is used up ({code or status}). Make room there, or have "
            "the quota raised, then run the same command again."
        )
    if code.startswith("KMS"):
        return AccessError(
            f"{where}: the key that the bucket encrypts with cannot be used ({code}). Enable it, or have its "
            "owner let this user encrypt and decrypt with it."
        )
    if code in WRONG_CREDENTIALS or (status in (401, 403) and code in NOT_ALLOWED):
        payer = "; one whose requesters pay needs storage.request_payer" if code in NOT_ALLOWED else ""
        return AccessError(
            f"{where}: the store refuses access ({code}). Check the credentials "
            f"({CREDENTIALS}), that they have not expired, and that they may do this in the bucket{payer}."
        )
    if status in (401, 403):
        return AccessError(
            f"{where}: the store refuses this ({code}). Ask who runs it, or whose account it is."
        )
    if code in ("NoSuchKey", "404"):
        return MissingInputError(f"{where} does not exist. Check the place and the name.")
    return StorageError(
        f"{where}: the store answered with {code or status}. If that does not pass, ask who runs it."
    )


def _status(error: boto.ClientError) -> int | None:
    status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _headers(error: boto.ClientError) -> dict[str, str]:
    headers: dict[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _skew(error: boto.ClientError) -> bool:
    """Whether the clocks must be why: an answer to HEAD, and some servers', show it by their date alone."""
    said = _date(error)
    is_refused = _status(error) in (400, 403) and error_code(error) in _REFUSED
    return bool(is_refused and said and abs(said - datetime.now(UTC)) > ALLOWED_SKEW)


def _date(error: boto.ClientError) -> datetime | None:
    try:
        said = parsedate_to_datetime(_headers(error).get("date", ""))
    except ValueError:
        return None
    return said if said.tzinfo else said.replace(tzinfo=UTC)


def _server_time(error: boto.ClientError) -> str:
    """The store's time, as it says it in the answer or its header."""
    if said := str(error.response["Error"].get("ServerTime", "")):
        return said[:40]
    date = _date(error)
    return _in_words(date) if date else "is another time, which it does not say"


def _in_words(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _no_bucket_name(place: str) -> BadSpecError:
    return BadSpecError(
        f"{place}: this cannot be a bucket's name. It has 3 to 63 letters, digits, '.', '-'; an access point "
        "is named by its ARN, as in s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/folder."
    )


def _address(error: BaseException, word: str = "at") -> str:
    """Host and port alone: a URL in the environment may carry a password."""
    netloc = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).netloc
    return f" {word} {netloc.rpartition('@')[2]}" if netloc else ""
