"""The door to S3's client: the only importer of boto3 and botocore.

A door finds credentials, asks, and says in our errors what went wrong. The client's own repeats are off: one
call is one request, except where nothing has happened for certain and asking again is the only way on. That
is when credentials have expired, which are then found anew once, and when the service puts a conditional
write off because another one on the same key is under way (409).
"""

import base64
import hashlib
import http.client
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.session
import urllib3.exceptions
from botocore import exceptions as aws
from botocore.config import Config as ClientConfig

from pvback import limits
from pvback.errors import StorageError, StorageUnavailable, UsageError
from pvback.model import S3Address
from pvback.runtime import Clock, Random, SystemClock, SystemRandom
from pvback.s3_options import S3Options
from pvback.storage.s3_errors import CONFLICT_CODES, EXPIRED_CODES, Refusal, translate_refusal
from pvback.storage.s3_tls import require_certificates, translate_tls
from pvback.storage.wrap import Request

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["Passed", "S3Door"]

T = TypeVar("T")

_LOST = (aws.BotoCoreError, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""All that can go wrong and is no answer."""
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.SSOError,
    aws.TokenRetrievalError,
)
_ASSUME_ROLE = "AssumeRole"
"""What requests to the token service begin with: the client makes them where a role is what it has."""
_NO_CREDENTIALS_HINT = "set the AWS environment, a profile (`--s3-option profile=NAME`) or a service account"
_ELSEWHERE_HINT = "check the endpoint, `https` or `http` above all, and the region"


class Passed(Exception):
    """A refusal that the caller asked to see."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class S3Door:
    """Clients for one bucket. Raises UsageError for a profile, endpoint or authority that cannot be."""

    def __init__(
        self,
        address: S3Address,
        options: S3Options,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._address = address
        self._options = options
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._lock = threading.Lock()
        self._session, self._client = self._connect()

    def ask(
        self,
        kind: Request,
        key: str,
        *,
        act: Callable[["S3Client"], T],
        passes: frozenset[str] = frozenset(),
    ) -> T:
        """Return what `act` returns, which sends one request and reads its answer.

        A refusal whose code or status is in `passes` raises Passed; everything else raises StorageError.
        """
        has_new_credentials = False
        for attempt in count():
            client = self._client
            try:
                return act(client)
            except aws.ClientError as exc:
                if exc.operation_name.startswith(_ASSUME_ROLE):
                    # Its words might hold what cannot be scrubbed, for it is not known.
                    code = str(exc.response.get("Error", {}).get("Code", "unknown"))
                    raise _no_credentials(code, key) from None
                refusal = self._read_refusal(exc)
                if {refusal.code, str(refusal.status)} & passes:
                    raise Passed(refusal) from None
                if refusal.code in EXPIRED_CODES and not has_new_credentials:
                    has_new_credentials = True
                    self._reload(client)
                elif refusal.code in CONFLICT_CODES and attempt < limits.S3_CONFLICT_COUNT_MAX:
                    self._clock.sleep(self._random.fraction() * limits.RETRY_SECONDS_MIN * 2**attempt)
                else:
                    # Without what the service said before it was scrubbed, which a traceback would show.
                    raise translate_refusal(refusal, kind=kind, key=key) from None
            except RecursionError:
                # The client asks for the bucket's region, is sent elsewhere again, and asks for the region.
                raise StorageError(
                    "the service sends requests elsewhere", key=key, hint=_ELSEWHERE_HINT
                ) from None
            except _LOST as exc:
                raise _translate_loss(exc, key) from exc
        raise AssertionError("the last attempt returns or raises")

    def scrub(self, text: str) -> str:
        """`text` without the credentials in use; nothing of it when they are not known."""
        try:
            credentials = self._session.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        except (*_LOST, aws.ClientError):
            return ""
        for secret in (frozen.secret_key, frozen.token, frozen.access_key) if frozen else ():
            text = text.replace(secret, "***") if secret else text
        return text

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def _read_refusal(self, exc: aws.ClientError) -> Refusal:
        error: Any = exc.response.get("Error", {})
        facts: Any = exc.response.get("ResponseMetadata", {})
        return Refusal(
            status=facts.get("HTTPStatusCode", 0),
            code=str(error.get("Code", "unknown")),
            message=self.scrub(str(error.get("Message", ""))),
            retry_after=facts.get("HTTPHeaders", {}).get("retry-after"),
        )

    def _reload(self, old: "S3Client") -> None:
        """Find the credentials anew, unless another thread has."""
        with self._lock:
            if self._client is old:
                self._session, self._client = self._connect()

    def _connect(self) -> tuple[boto3.session.Session, "S3Client"]:
        """A client with credentials as they are now. Raises UsageError, StorageError."""
        options, address = self._options, self._address
        try:
            core = botocore.session.get_session()
            session = boto3.session.Session(
                profile_name=options.profile, region_name=options.region, botocore_session=core
            )
            # Variable and profile of AWS name one, too, and the client looks at none before it connects.
            if bundle := options.ca_bundle or core.get_config_variable("ca_bundle"):
                require_certificates(Path(bundle))
            client = session.client(
                "s3",
                endpoint_url=address.endpoint,
                verify=str(bundle) if bundle else None,
                config=_client_config(address, options),
            )
        except aws.ProfileNotFound as exc:
            raise UsageError(str(exc), hint="`aws configure list-profiles` shows which there are") from exc
        except _NO_CREDENTIALS as exc:
            raise _translate_loss(exc, str(address)) from exc
        except (*_LOST, ValueError) as exc:
            raise UsageError(f"S3 cannot be used like this: {exc}", key=str(address)) from exc
        client.meta.events.register("before-call.s3", _drop_expect)
        client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
        return session, client


def _client_config(address: S3Address, options: S3Options) -> ClientConfig:
    addressing = options.addressing
    if addressing == "auto" and address.endpoint is not None:
        addressing = "path"
    return ClientConfig(
        connect_timeout=options.connect_seconds,
        read_timeout=options.read_seconds,
        max_pool_connections=options.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": addressing},
        tcp_keepalive=True,
        user_agent_extra="pvback",
        # Ours are in headers; what the client adds by itself may come as a trailer.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _drop_expect(params: dict[str, Any], **_: object) -> None:
    """Send bodies at once: waiting for `100 Continue` costs a round trip, or a second where none comes."""
    params["headers"].pop("Expect", None)


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Deletes of many are the one request that older services want this old checksum for."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


def _no_credentials(why: str, key: str) -> StorageError:
    return StorageError(f"credentials for S3 could not be had: {why}", key=key, hint=_NO_CREDENTIALS_HINT)


def _translate_loss(exc: Exception, key: str) -> StorageError:
    """What the end of a request without an answer is. Doubt, unless it never left this machine."""
    if isinstance(exc, aws.NoCredentialsError | aws.PartialCredentialsError):
        return StorageError("there are no credentials for S3", key=key, hint=_NO_CREDENTIALS_HINT)
    if isinstance(exc, _NO_CREDENTIALS):
        return _no_credentials(type(exc).__name__, key)
    if isinstance(exc, FileNotFoundError | PermissionError):
        # Of connections neither comes: the file with a token, or another one that the environment names.
        return _no_credentials(f"{exc.filename}: {exc.strerror}", key)
    if isinstance(exc, aws.SSLError) and (lasting := translate_tls(exc, key)):
        return lasting
    if isinstance(exc, aws.FlexibleChecksumError):
        return StorageUnavailable("what was read is not what the service's checksum says", key=key)
    if isinstance(exc, aws.ReadTimeoutError | aws.ConnectTimeoutError | TimeoutError):
        return StorageUnavailable("no answer in time", key=key)
    if isinstance(exc, aws.EndpointConnectionError):
        return StorageUnavailable("no connection to the service", key=key, hint="check endpoint and network")
    return StorageUnavailable(f"the connection was lost ({type(exc).__name__})", key=key)
