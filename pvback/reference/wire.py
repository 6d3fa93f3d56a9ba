"""Bounded parsing of untrusted bytes: integers, varints and strict JSON (section 1 of the format).

Every method either returns what it promises or raises `DamagedError`; nothing is read past the end,
and nothing is allocated for a length that the input does not hold.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from pvback.reference.errors import DamagedError, UnsupportedError

U64 = (1 << 64) - 1


class Cursor:
    """Reads forward through `data`. `what` names the data in messages."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def fail(self, why: str) -> NoReturn:
        """Raise `DamagedError` with the place where reading stands."""
        raise DamagedError(f"{self._what}: {why} (at byte {self._at})")

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        if not 0 <= count <= self.left:
            self.fail(f"{count} bytes wanted, {self.left} left")
        start = self._at
        self._at += count
        return self._data[start : self._at]

    def _integer(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def u8(self) -> int:
        """One byte."""
        return self._integer(1)

    def u16(self) -> int:
        """Two bytes, little-endian."""
        return self._integer(2)

    def u32(self) -> int:
        """Four bytes, little-endian."""
        return self._integer(4)

    def u64(self) -> int:
        """Eight bytes, little-endian."""
        return self._integer(8)

    def zero(self, count: int) -> None:
        """`count` bytes that must be zero."""
        if any(self.take(count)):
            self.fail("reserved bytes are not zero")

    def magic(self, value: bytes) -> None:
        """The fixed bytes `value`."""
        if self.take(len(value)) != value:
            self.fail("wrong magic")

    def varint(self) -> int:
        """LEB128 below 2^64 in its shortest form."""
        value = index = 0
        while index < 10:
            byte = self.u8()
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                if (index and not byte) or value > U64:
                    self.fail("varint not in shortest form or too large")
                return value
            index += 1
        return self.fail("varint longer than 10 bytes")

    def zigzag(self) -> int:
        """A signed 64-bit integer."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def counted(self, limit: int) -> bytes:
        """A varint length of at most `limit`, then so many bytes."""
        length = self.varint()
        if length > limit:
            self.fail(f"length {length} above {limit}")
        return self.take(length)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            self.fail(f"{self.left} bytes too many")


def wrap_i64(value: int) -> int:
    """`value` modulo 2^64 as a signed 64-bit integer."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json(data: bytes, what: str) -> Any:  # noqa: ANN401 (that is what JSON is)
    """JSON of `data`, which must be UTF-8; names that stand twice and NaN are refused."""
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise DamagedError(f"{what}: not the JSON that is expected: {exc}") from exc


class Fields:
    """Typed access to a JSON object; a missing or misshapen field is damage."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise DamagedError(f"{what}: not a JSON object")
        self._value: dict[str, Any] = value
        self._what = what

    def fail(self, name: str, why: str) -> NoReturn:
        """Raise `DamagedError` that names the field."""
        raise DamagedError(f"{self._what}: field `{name}` {why}")

    def raw(self, name: str) -> Any:  # noqa: ANN401 (that is what JSON is)
        """The value as JSON has it."""
        if name not in self._value:
            self.fail(name, "is missing")
        return self._value[name]

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._value

    def names(self) -> tuple[str, ...]:
        """All field names."""
        return tuple(self._value)

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null."""
        return self.raw(name) is None

    def text(self, name: str) -> str:
        """A string."""
        value = self.raw(name)
        if not isinstance(value, str):
            self.fail(name, "is not a string")
        return value

    def integer(self, name: str, low: int = 0, high: int = U64) -> int:
        """An integer in [low, high]."""
        value = self.raw(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"is not an integer in [{low}, {high}]")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            self.fail(name, "is not a boolean")
        return value

    def hex(self, name: str, length: int) -> bytes:
        """`length` bytes in lower-case hex."""
        return parse_hex(self.text(name), length, f"{self._what}: field `{name}`")

    def b64(self, name: str, length: int | None = None) -> bytes:
        """Bytes in standard base64 with padding, exactly `length` of them if that is given."""
        data = parse_b64(self.text(name), f"{self._what}: field `{name}`")
        if length is not None and len(data) != length:
            self.fail(name, f"is not {length} bytes")
        return data

    def list(self, name: str) -> list[Any]:
        """An array."""
        value = self.raw(name)
        if not isinstance(value, list):
            self.fail(name, "is not an array")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings."""
        value = self.list(name)
        if not all(isinstance(one, str) for one in value):
            self.fail(name, "is not an array of strings")
        return tuple(value)

    def object(self, name: str) -> "Fields":
        """A nested object."""
        return Fields(self.raw(name), f"{self._what}: `{name}`")

    def objects(self, name: str) -> Iterable["Fields"]:
        """An array of objects."""
        return [Fields(one, f"{self._what}: `{name}`") for one in self.list(name)]


def parse_hex(text: str, length: int, what: str) -> bytes:
    """`length` bytes from lower-case hex."""
    if len(text) != 2 * length or not re.fullmatch(r"[0-9a-f]*", text):
        raise DamagedError(f"{what}: not {length} bytes of lower-case hex")
    return bytes.fromhex(text)


def parse_b64(text: str, what: str) -> bytes:
    """Bytes from standard base64 in its canonical form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise DamagedError(f"{what}: not base64") from exc
    if base64.b64encode(data).decode() != text:
        raise DamagedError(f"{what}: base64 not in canonical form")
    return data


def parse_fields(data: bytes, what: str) -> Fields:
    """A JSON object, padded with spaces or not."""
    return Fields(parse_json(data, what), what)


def check_version(fields: Fields, what: str) -> None:
    """The `v` of a JSON body: 1, or this reader is too old."""
    if fields.integer("v", 1) != 1:
        raise UnsupportedError(f"{what}: version {fields.integer('v')}")
