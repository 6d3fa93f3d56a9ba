"""Restoring with the reference reader: slow, and without the native module."""

import os
from pathlib import Path

from pvback import reference
from pvback.config import Config
from pvback.datapath import UnlockMethod
from pvback.errors import (
    DamagedError,
    FileError,
    PartlyDone,
    PvbackError,
    UnsupportedFormatError,
    UsageError,
    WrongKeyError,
)
from pvback.model import LocalAddress
from pvback.repository.unlocking import try_secrets

__all__ = ["restore_by_reference"]

_ERRORS: tuple[tuple[type[reference.ReadError], type[PvbackError]], ...] = (
    (reference.DamagedError, DamagedError),
    (reference.WrongKeyError, WrongKeyError),
    (reference.UnsupportedError, UnsupportedFormatError),
    (reference.ReadError, PvbackError),
)


def restore_by_reference(
    config: Config,
    snapshot: str,
    *,
    target: str | os.PathLike[str],
    source: str | None = None,
    scope: str | None = None,
) -> list[str]:
    """Restore `SNAP[:PATH]` to a place that is empty or not there, from a repository in a directory.

    Returns what could not be set and what had changed while it was read. Raises PartlyDone when files are
    not whole, FileError when the target cannot take what comes, and what opening a repository raises.
    """
    address = config.require_repository()
    if not isinstance(address, LocalAddress):
        raise UsageError("the reference reader reads directories only", hint="copy the repository to one")
    name, _, path = snapshot.partition(":")
    try:
        store = reference.DirectoryStore(address.path)
        objects = [(key, store.get(key)) for key in store.list("keys/")]
        repository = try_secrets(
            config, lambda method, secret: _open(store, scope, method, secret), key_objects=objects
        )
        found = repository.snapshot(_latest_of(repository, source) if name == "latest" else name)
        summary = reference.restore(repository, found, os.fspath(Path(target).absolute()), os.fsencode(path))
    except reference.ReadError as exc:
        raise _translate(exc) from exc
    except OSError as exc:
        raise FileError(f"target: {exc.strerror or exc}", key=os.fspath(target)) from exc
    if summary.lost:
        some = "; ".join(summary.lost[:5])
        raise PartlyDone(f"{len(summary.lost)} files could not be restored; the rest was: {some}")
    notes = [f"not set on {count} nodes: {what}" for what, count in sorted(summary.notes.items())]
    return [
        *repository.warnings,
        *notes,
        *summary.warned,
        f"restored {summary.nodes} nodes, {summary.content_bytes} bytes",
    ]


def _latest_of(repository: reference.Repository, source: str | None) -> str:
    """The id of the newest snapshot of a source, named by its string, path or name."""
    fitting = []
    for one in repository.snapshots(lambda _: None):
        described = one.detail["source"]
        if source is None or source in (described["string"], described.get("path"), described.get("name")):
            fitting.append(one)
    if not fitting:
        raise PvbackError("there is no such snapshot", hint="`pvback snapshots` lists what there is")
    if len({one.source_string for one in fitting}) > 1:
        raise UsageError("there are snapshots of several sources", hint="say which one with `--source`")
    return fitting[-1].id.hex()


def _open(
    store: reference.DirectoryStore, scope: str | None, method: UnlockMethod, secret: bytes
) -> reference.Repository:
    unlocker: reference.Passphrase | reference.PrivateKey | reference.RawSecret
    if method == "passphrase":
        unlocker = reference.Passphrase(secret.decode())
    else:
        unlocker = reference.PrivateKey(secret) if method == "x25519" else reference.RawSecret(secret)
    try:
        return reference.Repository.open(store, unlocker, scope)
    except reference.WrongKeyError as exc:
        raise _translate(exc) from exc


def _translate(exc: reference.ReadError) -> PvbackError:
    return next(ours for theirs, ours in _ERRORS if isinstance(exc, theirs))(str(exc))
