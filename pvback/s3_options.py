"""How an S3 service is spoken to, as a frozen value, and how it is read from names and texts. Pure.

Credentials are not among the options: the AWS client finds them where it always does.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pvback import limits
from pvback.errors import UsageError

__all__ = [
    "STORAGE_CLASS_AREAS",
    "Addressing",
    "LockMode",
    "S3Options",
    "is_written_once",
    "parse_s3_options",
    "parse_size",
    "render_s3_options",
]

Addressing = Literal["auto", "path", "virtual"]

STORAGE_CLASS_AREAS = ("data", "meta", "index", "refs")
"""Folders of a scope whose objects are written once. What is small and changes stays in the default class."""


LockMode = Literal["governance", "compliance"]

_WRITTEN_ONCE = frozenset(("data", "meta", "index", "refs", "records", "keys", "copies"))


def is_written_once(key: str) -> bool:
    """Whether what lies under a key is locked, where there are locks: all but registers and `gc/`.

    `config`, `keys/` and `copies/` are among them: they change seldom, and what they were stays a version.
    """
    return key == "config" or not _WRITTEN_ONCE.isdisjoint(key.split("/")[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """How to speak to a service. None leaves a thing to the AWS environment, or to the service."""

    region: str | None = None
    profile: str | None = None
    addressing: Addressing = "auto"
    """Where the bucket's name stands; `auto`: in the path with an endpoint of one's own, else in the host."""
    ca_bundle: Path | None = None
    """Certificates to trust in place of the system's."""
    storage_class: tuple[tuple[str, str], ...] = ()
    """(area, class) for areas of `STORAGE_CLASS_AREAS`; others get the bucket's default."""
    sse: str | None = None
    """Encryption by the service: `AES256`, `aws:kms` or `aws:kms:dsse`. Beside ours, not in its place."""
    sse_kms_key_id: str | None = None
    object_lock: int | None = None
    """Seconds for which what is written once is locked by the service; None: not at all."""
    object_lock_mode: LockMode = "governance"
    """Whether somebody with a special right may lift a lock (`governance`) or nobody at all."""
    multipart_bytes: int = limits.S3_MULTIPART_BYTES
    """Objects larger than this go up in parts."""
    part_bytes: int = limits.S3_PART_BYTES
    part_parallel: int = limits.S3_PARTS_IN_FLIGHT
    """Parts of one object on their way at once."""
    connections: int = limits.S3_CONNECTIONS
    """Connections kept; as many as requests may be in flight."""
    connect_seconds: float = limits.S3_CONNECT_SECONDS
    read_seconds: float = limits.S3_READ_SECONDS
    """How long a connection may stand still before it is given up."""
    retry_seconds: float = limits.RETRY_DEADLINE_SECONDS
    """How long one request is repeated, all attempts and pauses together."""
    list_lag_seconds: float = 0.0
    """How long a list of this service may miss what was written; 0: not at all."""
    checksums: bool = True
    """Send a CRC32 with what is written and ask for it back. Off for services that refuse the headers."""

    def class_of(self, key: str) -> str | None:
        """The storage class of a new object: by the first folder in its key that has one."""
        classes = dict(self.storage_class)
        folders = key.split("/")[:-1]
        return next((classes[folder] for folder in folders if folder in classes), None)


def parse_s3_options(values: Mapping[str, tuple[object, str]]) -> S3Options:
    """Options from (value, where it came from) by name; `storage_class.AREA` names one area.

    Raises UsageError that names the place.
    """
    made: dict[str, object] = {}
    classes: dict[str, str] = {}
    for name, (value, source) in values.items():
        base, _, area = name.partition(".")
        if base == "storage_class":
            classes |= _parse_classes(area, value, source)
        elif name in _PARSERS:
            made[name] = _PARSERS[name](value, source)
        else:
            known = ", ".join(item.name for item in fields(S3Options))
            raise UsageError(f"{source}: no such option for S3: `{name}`", hint=f"options are {known}")
    options = S3Options(**made, storage_class=tuple(sorted(classes.items())))  # type: ignore[arg-type] # by _PARSERS
    _check(options)
    return options


def render_s3_options(options: S3Options) -> dict[str, str]:
    """What is not as it is by default, as `parse_s3_options` reads it."""
    found: dict[str, str] = {}
    for one in fields(S3Options):
        value = getattr(options, one.name)
        if value == one.default:
            continue
        if one.name == "storage_class":
            found[one.name] = ",".join(f"{area}={name}" for area, name in value)
        elif one.name == "object_lock":
            found[one.name] = f"{-(-value // 3600)}h"
        else:
            found[one.name] = str(value)
    return found


def _check(options: S3Options) -> None:
    if options.part_bytes < limits.S3_PART_BYTES_MIN:
        raise UsageError("S3 option part_bytes is too small", hint="S3 takes parts of at least 5 MiB")
    if options.multipart_bytes > limits.S3_PUT_BYTES_MAX:
        raise UsageError("S3 option multipart_bytes is too large", hint="S3 takes at most 5 GiB in one piece")
    if options.object_lock and not options.checksums:
        raise UsageError("Object Lock without checksums", hint="S3 refuses it: leave the option checksums on")
    if options.sse_kms_key_id and not (options.sse or "").startswith("aws:kms"):
        raise UsageError("an S3 key id without encryption by KMS", hint="set the S3 option sse to aws:kms")


def _text(value: object, source: str) -> str:
    if isinstance(value, str) and value and value.isprintable():
        return value
    raise UsageError(f"{source} has to be a text")


def _choice(*choices: str) -> Callable[[object, str], str]:
    def parse(value: object, source: str) -> str:
        if value in choices:
            return str(value)
        raise UsageError(f"{source} is not one of {', '.join(choices)}")

    return parse


def _path(value: object, source: str) -> Path:
    return Path(_text(value, source)).expanduser()


def _count(value: object, source: str) -> int:
    if not isinstance(value, bool) and re.fullmatch(r"[1-9]\d{0,3}", str(value)):
        return int(str(value))
    raise UsageError(f"{source} is not a count from 1 to 9999")


def _seconds(value: object, source: str) -> float:
    if not isinstance(value, bool) and re.fullmatch(r"\d{1,6}(\.\d+)?", str(value)) and float(str(value)) > 0:
        return float(str(value))
    raise UsageError(f"{source} is not a number of seconds")


def _span(value: object, source: str) -> int:
    match = re.fullmatch(r"([1-9]\d{0,4})([hdwy])", str(value))
    seconds = int(match[1]) * {"h": 3600, "d": 86400, "w": 604800, "y": 31557600}[match[2]] if match else 0
    if limits.LOCK_SECONDS_MIN <= seconds <= limits.LOCK_SECONDS_MAX:
        return seconds
    raise UsageError(f"{source} is no span from 1d to 10y: {value!r}", hint="for example 30d")


def _truth(value: object, source: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if (found := words.get(str(value).lower())) is not None:
        return found
    raise UsageError(f"{source} is neither true nor false")


def _size(value: object, source: str) -> int:
    return parse_size(value, what=source)


def _parse_classes(area: str, value: object, source: str) -> dict[str, str]:
    """One area, or several: a table, or `AREA=CLASS,AREA=CLASS` from a variable."""
    if area:
        pairs: dict[str, object] = {area: value}
    elif isinstance(value, Mapping):
        pairs = {str(name): one for name, one in value.items()}
    else:
        parts = [part.partition("=") for part in _text(value, source).split(",")]
        pairs = {name.strip(): one.strip() for name, _, one in parts}
    for name in pairs:
        if name not in STORAGE_CLASS_AREAS:
            areas = ", ".join(STORAGE_CLASS_AREAS)
            raise UsageError(f"{source}: no storage class for `{name}`", hint=f"areas are {areas}")
    return {name: _text(one, source) for name, one in pairs.items()}


_PARSERS: dict[str, Callable[[object, str], object]] = {
    "region": _text,
    "profile": _text,
    "addressing": _choice("auto", "path", "virtual"),
    "ca_bundle": _path,
    "sse": _choice("AES256", "aws:kms", "aws:kms:dsse"),
    "sse_kms_key_id": _text,
    "object_lock": _span,
    "object_lock_mode": _choice("governance", "compliance"),
    "multipart_bytes": _size,
    "part_bytes": _size,
    "part_parallel": _count,
    "connections": _count,
    "connect_seconds": _seconds,
    "read_seconds": _seconds,
    "retry_seconds": _seconds,
    "list_lag_seconds": _seconds,
    "checksums": _truth,
}


def parse_size(value: object, *, what: str = "a size") -> int:
    """Bytes from `512`, `64k`, `64KiB`, `1.5G`: letters mean powers of 1024. UsageError unless positive."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
    result = 0
    if match and not isinstance(value, bool):
        exponent = ("", "K", "M", "G", "T").index(match[2].upper())
        result = int(float(match[1]) * 1024**exponent)
    if result <= 0:
        raise UsageError(f"{what} is not a size: {value!r}", hint="for example 512MiB or 2G")
    return result
