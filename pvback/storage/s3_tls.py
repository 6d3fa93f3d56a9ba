"""What is wrong with TLS to a service, told apart by what there is to do. Pure but for the file it reads.

The client knows one exception for all of it, also for what never left this machine; what it was stands in the
causes.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path

from pvback import limits
from pvback.errors import StorageError, UsageError

__all__ = ["require_certificates", "translate_tls"]

# The numbers of OpenSSL, from its x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)  # of a host, of an address

_BUNDLE_BYTES_MAX = 64 * limits.KIB
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_UNKNOWN_HINT = "name the file with the service's authority: `--s3-option ca_bundle=FILE`"
_TIME_HINT = "have the service's certificate renewed; if it is good, set this machine's clock"
_NAME_HINT = "write the endpoint with a name that is in the certificate, or have that made for this one"


def require_certificates(path: Path) -> None:
    """Raises UsageError, which names the file, when it is missing or holds no certificates."""
    hint = "name a file of PEM certificates, or none: then the system's are trusted"
    what = "the S3 option ca_bundle, or AWS_CA_BUNDLE, names a file"
    try:
        if path.stat().st_size > _BUNDLE_BYTES_MAX:
            # All authorities of a system take the client 25 ms, which it will spend on its own anyway.
            with path.open("rb") as file:
                is_one = _BEGIN in file.read(_BUNDLE_BYTES_MAX)
            if is_one:
                return
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as exc:
        raise UsageError(f"{what} that holds no certificates", key=str(path), hint=hint) from exc
    except OSError as exc:
        raise UsageError(f"{what} that cannot be read: {exc.strerror}", key=str(path), hint=hint) from exc


def translate_tls(exc: BaseException, key: str) -> StorageError | None:
    """What lasts of TLS's failures, by an exception and its causes; None: it may have been the network."""
    for cause in _causes(exc):
        words = str(cause)
        code, why = _verdict(cause)
        # The client's own look at names comes after OpenSSL's at the rest, and has words only.
        if code in _OTHER_NAME or "doesn't match" in words:
            return StorageError("the service's certificate is for another name", key=key, hint=_NAME_HINT)
        if code == _EXPIRED:
            return StorageError("the service's certificate has expired", key=key, hint=_TIME_HINT)
        if code == _NOT_YET_VALID:
            return StorageError("the service's certificate is not valid yet", key=key, hint=_TIME_HINT)
        if code is not None:
            what = f"the service's certificate is not to be trusted: {why}"
            return StorageError(what, key=key, hint=_UNKNOWN_HINT)
        if "WRONG_VERSION_NUMBER" in words or "HTTP_REQUEST" in words:
            return StorageError("the service speaks no TLS", key=key, hint="write the endpoint as http://")
    return None


def _verdict(cause: BaseException) -> tuple[int | None, str]:
    """OpenSSL's number for what is wrong with a certificate, and its words."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_code, cause.verify_message
    return None, ""


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception, what it came from, and so on; innermost first, for the outer ones only repeat words."""
    chain = [exc]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None and deeper not in chain:
        chain.append(deeper)
    return reversed(chain)
