"""The one exception tree. A class exists because somebody catches it or has an exit code of its own.

```
PvbackError                       1   failed
├── FileError                     1   a source, target or cache file
├── UsageError                    2   the request makes no sense
├── PartlyDone                    3   the rest was done
├── RepositoryNotFound           10
├── ConflictError                11   somebody else is at it
│   └── SessionFencedError       11   prune ended a backup that did not answer
├── WrongKeyError                12
├── UnsupportedFormatError       13   made by a newer pvback
├── DamagedError                 20   stored bytes are not what was written
├── StorageError                 30   the object store said no; asking again does not help
│   ├── StorageUnavailable       30   it may: timeouts, 503, lost connections
│   ├── ObjectNotFound           30
│   ├── ObjectExists             30   a create lost
│   └── ObjectChanged            30   a compare-and-swap lost
├── ClusterError                 40
│   ├── ClusterObjectExists      40   under that name, or in another version
│   ├── ClusterObjectMissing     40   or its kind is
│   ├── ClusterUnavailable       40   nobody answers; asking again may help
│   └── ClusterRefusal           40   rights, quota, admission, validation
├── InternalError                70   a bug
└── Interrupted                 130
```

Damage that `check` finds is a `Finding`, not an exception. The native module raises these classes too.
"""

from typing import ClassVar

__all__ = [
    "ClusterError",
    "ClusterObjectExists",
    "ClusterObjectMissing",
    "ClusterRefusal",
    "ClusterUnavailable",
    "ConflictError",
    "DamagedError",
    "FileError",
    "InternalError",
    "Interrupted",
    "ObjectChanged",
    "ObjectExists",
    "ObjectNotFound",
    "PartlyDone",
    "PvbackError",
    "RepositoryNotFound",
    "SessionFencedError",
    "StorageError",
    "StorageUnavailable",
    "UnsupportedFormatError",
    "UsageError",
    "WrongKeyError",
]


class PvbackError(Exception):
    """Something that pvback expects to go wrong, went wrong.

    Args:
        what: What happened, in words, without secrets: "repository not found".
        key: The object key or path that it happened to.
        offset: The byte offset in that object or file.
        hint: What to do about it, in the imperative: "run `pvback init` first".
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, key: str | None = None, offset: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.key = key
        self.offset = offset
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.key}: " if self.key is not None else ""
        offset = f" at offset {self.offset}" if self.offset is not None else ""
        return f"{place}{self.what}{offset}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default, and errors cross process boundaries.
        return _rebuild, (type(self), self.what, self.key, self.offset, self.hint)

    def as_dict(self) -> dict[str, str | int]:
        """The same facts for `--json`; fields that are not known are left out."""
        facts = {"what": self.what, "key": self.key, "offset": self.offset, "hint": self.hint}
        known = {name: value for name, value in facts.items() if value is not None}
        return {"error": type(self).__name__, "exit_code": self.exit_code, **known}


def _rebuild(
    kind: type[PvbackError], what: str, key: str | None, offset: int | None, hint: str | None
) -> PvbackError:
    return kind(what, key=key, offset=offset, hint=hint)


class FileError(PvbackError):
    """A file system operation on a source, a target or the cache failed."""


class UsageError(PvbackError):
    """The arguments, the configuration or the environment make no sense."""

    exit_code = 2


class PartlyDone(PvbackError):
    """Most was done and recorded; what was not has been reported one by one."""

    exit_code = 3


class RepositoryNotFound(PvbackError):
    """There is no repository at that address."""

    exit_code = 10


class ConflictError(PvbackError):
    """Another operation is in the way: a fenced session, a lost race, a repository that exists already."""

    exit_code = 11


class SessionFencedError(ConflictError):
    """The register is no longer this session's to write; nothing of it will ever be committed."""


class WrongKeyError(PvbackError):
    """The password or key does not open this, or its role does not allow it."""

    exit_code = 12


class UnsupportedFormatError(PvbackError):
    """Valid, but of a version, suite or feature that this program does not know."""

    exit_code = 13


class DamagedError(PvbackError):
    """Stored bytes are not what was written: truncated, flipped, swapped, malformed or missing."""

    exit_code = 20


class StorageError(PvbackError):
    """The object store refused or failed, and the same request would fail again."""

    exit_code = 30


class StorageUnavailable(StorageError):
    """No answer, or one that says to try again. A write may have happened, or may happen yet.

    Attributes:
        pause_seconds: The least pause before asking again, where the store says that it is asked too much.
    """

    def __init__(
        self,
        what: str,
        *,
        key: str | None = None,
        offset: int | None = None,
        hint: str | None = None,
        pause_seconds: float | None = None,
    ) -> None:
        super().__init__(what, key=key, offset=offset, hint=hint)
        self.pause_seconds = pause_seconds


class ObjectNotFound(StorageError):
    """No object has that key."""


class ObjectExists(StorageError):
    """A create found an object under its key."""


class ObjectChanged(StorageError):
    """A compare-and-swap found another object, or none, under its key."""


class ClusterError(PvbackError):
    """Kubernetes refused, or something in the cluster is not as it has to be."""

    exit_code = 40


class ClusterObjectMissing(ClusterError):
    """The object, or the kind, is not there."""


class ClusterObjectExists(ClusterError):
    """An object of that name exists, or the object has changed since it was read."""


class ClusterRefusal(ClusterError):
    """The cluster answered, and does not want it: rights, quota, admission, validation."""


class ClusterUnavailable(ClusterError):
    """No answer of the API server, or not to its end: whether it has done as it was asked is unknown."""


class InternalError(PvbackError):
    """A bug in pvback. Says what was believed; the traceback says where."""

    exit_code = 70


class Interrupted(PvbackError):
    """The user or the system asked to stop, and the work stopped in order."""

    exit_code = 130
