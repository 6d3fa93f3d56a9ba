"""Reading JSON bodies of stored objects: every field is checked before it is used."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pvback.errors import DamagedError, UnsupportedFormatError

__all__ = ["Body", "dump_body", "format_time", "parse_body", "parse_time"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object of the object `key`, with typed access to its fields. All raise DamagedError."""

    raw: dict[str, Any]
    key: str

    def fail(self, field: str, why: str) -> DamagedError:
        """The error that says what is wrong with a field."""
        return DamagedError(f"field `{field}` {why}", key=self.key)

    def text(self, field: str) -> str:
        """A string."""
        value = self.raw.get(field)
        if not isinstance(value, str):
            raise self.fail(field, "is not a string")
        return value

    def hex(self, field: str, bytes_count: int) -> str:
        """A string of so many bytes in hex."""
        value = self.text(field)
        if not re.fullmatch(f"[0-9a-f]{{{2 * bytes_count}}}", value):
            raise self.fail(field, f"is not {bytes_count} bytes in hex")
        return value

    def base64(self, field: str) -> bytes:
        """Bytes in standard base64."""
        try:
            return base64.b64decode(self.text(field), validate=True)
        except ValueError as exc:
            raise self.fail(field, "is not base64") from exc

    def integer(self, field: str) -> int:
        """A whole number that is not negative and fits 64 bits."""
        value = self.raw.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
            raise self.fail(field, "is not a whole number")
        return value

    def items(self, field: str) -> list[Any]:
        """A list."""
        value = self.raw.get(field)
        if not isinstance(value, list):
            raise self.fail(field, "is not a list")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of strings."""
        values = self.items(field)
        if not all(isinstance(value, str) for value in values):
            raise self.fail(field, "is not a list of strings")
        return values

    def inner(self, field: str) -> "Body":
        """An object."""
        value = self.raw.get(field)
        if not isinstance(value, dict):
            raise self.fail(field, "is not an object")
        return Body(value, self.key)

    def inner_or_none(self, field: str) -> "Body | None":
        """An object, or None for null."""
        return None if self.raw.get(field) is None else self.inner(field)

    def inners(self, field: str) -> Iterator["Body"]:
        """A list of objects."""
        for value in self.items(field):
            if not isinstance(value, dict):
                raise self.fail(field, "holds something that is not an object")
            yield Body(value, self.key)

    def time(self, field: str) -> datetime:
        """A time in UTC; digits below a microsecond are dropped."""
        value = parse_time(self.text(field))
        if value is None:
            raise self.fail(field, "is not a time")
        return value


def parse_body(data: bytes, key: str, *, version: int | None = 1) -> Body:
    """A JSON object whose `v` is `version`. Raises DamagedError, UnsupportedFormatError for a later one."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise DamagedError("not JSON", key=key) from exc
    if not isinstance(raw, dict):
        raise DamagedError("not a JSON object", key=key)
    body = Body(raw, key)
    if version is not None and body.integer("v") != version:
        raise UnsupportedFormatError(
            f"version {body.integer('v')} is not known", key=key, hint="use a newer pvback"
        )
    return body


def dump_body(raw: dict[str, Any]) -> bytes:
    """JSON on one line; strings from undecodable bytes keep their surrogates as escapes."""
    return json.dumps(raw, separators=(",", ":")).encode()


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with nine digits."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "000Z"


def parse_time(text: str) -> datetime | None:
    """What `format_time` wrote; None for anything else."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    micros = (match[2] or "").ljust(9, "0")[:6]
    try:
        return datetime.fromisoformat(f"{match[1]}.{micros}+00:00")
    except ValueError:
        return None
