"""Clients that give up in bounded time, and their errors as ours."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from spaceport_lab.errors import (
    InputError,
    SpaceportError,
    StoreBusyError,
    StoreCorruptError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreTimeoutError,
)

ATTEMPTS = 4
"""How often a request is made in all, with growing pauses between (at most 1, 2 and 4 s)."""
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
"""Silence after which an attempt has failed: a store that hangs costs ATTEMPTS times this, and the pauses."""
CONNECTIONS = 32

_DENIED = {
    "403", "401", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "InvalidAccessKeyId",
    "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired",
    "UnrecognizedClientException", "InvalidClientTokenId", "RequestTimeTooSkewed", "UnauthorizedOperation",
    "AuthFailure", "KMS.DisabledException", "KMS.NotFoundException", "KMS.InvalidStateException",
    "KMS.KMSInvalidStateException", "AuthorizationError",
}  # fmt: skip
_MISSING = {
    "404",
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchUpload",
    "NotFound",
    "ResourceNotFound",
    "ResourceNotFoundException",
}
_BUSY = {
    "429", "500", "502", "503", "504", "SlowDown", "InternalError", "InternalFailure", "ServiceUnavailable",
    "Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded",
    "BandwidthLimitExceeded", "OperationAborted", "ServiceUnavailableException", "InternalServerError",
}  # fmt: skip
_CORRUPT = {
    "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
    "IncompleteBody", "412", "PreconditionFailed",
}  # fmt: skip
_ELSEWHERE = {
    "301",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}


def client(service: str, region: str | None = None) -> Any:
    """A client of one service; endpoint, region and credentials come from where the AWS tools look for them.

    Raises:
        InputError: boto3 is not installed.
        StoreError: no region is set, for a service that needs one.
    """
    session = new_session()
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
    )
    with clear_errors(f"cannot speak to {service}"):
        return session.create_client(service, region_name=region, config=config)


def new_session() -> Any:
    """A session of botocore, new because none is made for several threads; the models of services are shared.

    Raises:
        InputError: boto3 is not installed.
    """
    try:
        import boto3  # noqa: F401  what is asked for by this name brings botocore and s3transfer
        from botocore.session import Session
    except ImportError as error:
        raise InputError(
            "this needs boto3, which is not installed", hint="pip install 'spaceport-lab[aws]'"
        ) from error
    session = Session()
    session.register_component("data_loader", _loader())
    return session


@functools.cache
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader(os.environ.get("AWS_DATA_PATH"))


@contextlib.contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """Turn what boto3 and its transport raise into a StoreError that starts with `what`.

    Raises:
        StoreDeniedError, StoreMissingError, StoreBusyError, StoreTimeoutError, StoreCorruptError, StoreError
    """
    try:
        yield
    except SpaceportError:
        raise
    except Exception as error:
        translated = translate(what, error)
        if translated is None:
            raise
        raise translated from error


def translate(what: str, error: BaseException) -> StoreError | None:
    """The StoreError that says what an error of boto3 means; None for errors that are not its."""
    import botocore.exceptions as botocore
    import urllib3.exceptions as urllib3
    from boto3.exceptions import Boto3Error
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, RetriesExceededError):
        return translate(what, error.last_exception) or _broken_off(what, error)
    if isinstance(error, botocore.ClientError):
        return _answered(what, error)
    got = f"{type(error).__name__}: {error}"
    timeouts = (botocore.ConnectTimeoutError, botocore.ReadTimeoutError, urllib3.TimeoutError, TimeoutError)
    if isinstance(error, timeouts):
        return StoreTimeoutError(
            what, got=got, expected=f"an answer within {READ_SECONDS:g} s, {ATTEMPTS} times", hint=_LATER
        )
    if isinstance(error, botocore.EndpointConnectionError):
        return StoreTimeoutError(what, got=got, hint="check the network, AWS_ENDPOINT_URL and the region")
    no_credentials = (
        botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.CredentialRetrievalError,
        botocore.TokenRetrievalError, botocore.ProfileNotFound, botocore.SSOError,
    )  # fmt: skip
    if isinstance(error, no_credentials):
        return StoreDeniedError(
            what,
            got=got,
            expected="credentials in the environment, a profile, or a role",
            hint="set AWS_PROFILE, or log in with `aws sso login`",
        )
    if isinstance(error, botocore.FlexibleChecksumError):
        return StoreCorruptError(what, got=got, hint="run it again")
    if isinstance(error, botocore.NoRegionError):
        return StoreError(what, got=got, hint="set AWS_DEFAULT_REGION, such as eu-central-1")
    broken = (botocore.HTTPClientError, urllib3.HTTPError, botocore.IncompleteReadError, ConnectionError)
    if isinstance(error, broken):
        return _broken_off(what, error)
    if isinstance(error, (botocore.BotoCoreError, Boto3Error)):
        return StoreError(what, got=got)
    return None


_LATER = "run it again: what was moved already is not moved again"


def _broken_off(what: str, error: BaseException) -> StoreError:
    return StoreBusyError(
        what,
        got=f"the connection broke off {ATTEMPTS} times ({type(error).__name__}: {error})",
        hint=_LATER,
    )


def _answered(what: str, error: Any) -> StoreError:
    """What the service itself answered, sorted by its code."""
    fault = error.response.get("Error", {})
    code = str(fault.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    got = f"{code or status}: {fault.get('Message') or 'no message'} ({error.operation_name})"
    if code in _DENIED:
        return StoreDeniedError(
            what,
            got=got,
            expected=f"the right to {error.operation_name}",
            hint="compare the role's policy with deploy/iam, and look at AWS_PROFILE",
        )
    if code in _MISSING:
        return StoreMissingError(what, got=got, hint="check bucket, prefix and region")
    if code in _CORRUPT:
        return StoreCorruptError(what, got=got, hint="run it again")
    if code in _ELSEWHERE:
        return StoreError(what, got=got, hint="set AWS_DEFAULT_REGION to the region of the bucket")
    if code in _BUSY or (status or 0) >= 500 or code == "RequestTimeout":
        return StoreBusyError(what, got=got, expected=f"an answer in {ATTEMPTS} attempts", hint=_LATER)
    if status in (401, 403):
        return StoreDeniedError(what, got=got, hint="compare the role's policy with deploy/iam")
    return StoreError(what, got=got)
