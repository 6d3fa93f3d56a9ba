"""Object storage: bytes under keys. Knows nothing of what they mean.

`ObjectStore` in `base` is the seam; everything else implements it or wraps it.
"""

import gc
import sys

from pvback.errors import RepositoryNotFound, StorageError, UsageError
from pvback.model import LocalAddress, RepositoryAddress, S3Address
from pvback.retrying import Patience
from pvback.s3_options import S3Options
from pvback.storage.base import (
    Capabilities,
    ObjectInfo,
    ObjectStore,
    ObjectVersion,
    ReadBuffer,
    StoredObject,
    VersionedStore,
    WriteBuffer,
    check_key,
    check_prefix,
)
from pvback.storage.local import LocalStore

__all__ = [
    "Capabilities",
    "ObjectInfo",
    "ObjectStore",
    "ObjectVersion",
    "ReadBuffer",
    "StoredObject",
    "VersionedStore",
    "WriteBuffer",
    "check_key",
    "check_prefix",
    "open_store",
    "open_versions",
]


def open_store(address: RepositoryAddress, *, make: bool = False, s3: S3Options | None = None) -> ObjectStore:
    """The store at `address`, without retries or metering; a bucket is asked for nothing yet.

    With `make`, a local directory is made if its parent exists. Without, RepositoryNotFound is raised when
    there is none. Raises StorageError when it cannot be made or entered.
    """
    match address:
        case LocalAddress():
            return _open_local(address, make=make)
        case S3Address():
            return _open_s3(address, s3)


def open_versions(
    address: RepositoryAddress, *, s3: S3Options | None = None, patience: Patience | None = None
) -> VersionedStore:
    """The versions of what is at `address`, with retries. Raises UsageError where there are none."""
    if not isinstance(address, S3Address):
        raise UsageError("only a bucket keeps versions", hint="give a repository as s3://bucket/prefix")
    # Loaded here: see `_open_s3`, which says what is missing.
    _open_s3(address, s3).close()
    from pvback.storage.s3_versions import S3Versions  # noqa: PLC0415

    return S3Versions(address, s3 or S3Options(), patience=patience)


def _open_s3(address: S3Address, options: S3Options | None) -> ObjectStore:
    if "pvback.storage.s3_store" in sys.modules:
        return _make_s3(address, options)
    # What the client brings stays until the program ends: it is not to be looked through for cycles while it
    # is loaded, nor afterwards.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        return _make_s3(address, options)
    finally:
        gc.freeze()
        if is_collecting:
            gc.enable()


def _make_s3(address: S3Address, options: S3Options | None) -> ObjectStore:
    try:
        # Loaded here: with its client it takes longer to load than all else, and most runs need none of it.
        from pvback.storage.s3_store import S3Store  # noqa: PLC0415
    except ImportError as exc:
        raise UsageError(
            f"S3 needs a package that is not installed: {exc.name}",
            key=str(address),
            hint="install pvback with its extra: pip install 'pvback[s3]'",
        ) from exc
    return S3Store(address, options)


def _open_local(address: LocalAddress, *, make: bool) -> LocalStore:
    try:
        if make:
            address.path.mkdir(exist_ok=True)
        if not address.path.is_dir():
            raise RepositoryNotFound(f"repository not found at `{address}`", hint="run `pvback init` first")
        return LocalStore(address.path, is_new=make)
    except FileNotFoundError as exc:
        raise StorageError(
            "the directory above does not exist",
            key=str(address),
            hint="make it, or mount what should be there: it is not made, so that a missing mount is seen",
        ) from exc
    except FileExistsError as exc:
        raise StorageError("there is a file of that name", key=str(address)) from exc
    except OSError as exc:
        raise StorageError(exc.strerror or "not accessible", key=str(address)) from exc
