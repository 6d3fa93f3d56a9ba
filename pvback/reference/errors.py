"""What can go wrong while reading, as four kinds.

    ReadError
    ├── DamagedError       bytes that do not match their seal, signature, id or layout
    ├── WrongKeyError      no key file opens with this secret, or its role does not hold the key needed
    ├── UnsupportedError   a format version, feature or suite that this reader does not know
    └── NotFoundError      an object, snapshot or path that is not there

Nothing else leaves this package for reasons that lie in the repository; `OSError` does for reasons
that lie in the machine (a full disk).
"""


class ReadError(Exception):
    """Base of all errors of the reference reader. `kind` is stable and short, for scripts."""

    kind = "error"
    exit_code = 1


class DamagedError(ReadError):
    """Stored bytes contradict their seal, signature, id or layout."""

    kind = "damaged"
    exit_code = 20


class WrongKeyError(ReadError):
    """The secret opens no key file, or the role that it opens does not hold the key needed."""

    kind = "wrong key"
    exit_code = 12


class UnsupportedError(ReadError):
    """Written by a newer format, with a feature or cipher suite that this reader does not know."""

    kind = "unsupported"
    exit_code = 13


class NotFoundError(ReadError):
    """An object, a snapshot or a path is not there."""

    kind = "not found"
    exit_code = 1
