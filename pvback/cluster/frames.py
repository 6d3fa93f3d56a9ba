"""Frames of a WebSocket (RFC 6455), as a client reads and writes them. Pure: bytes in, pieces out.

What a frame announces is never waited for as a whole: its bytes are handed on as they come, so that memory is
bounded by what was read at once, and time is linear, whatever the other side says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pvback.errors import ClusterError

__all__ = ["FrameReader", "Piece", "client_frame"]

_KINDS: dict[int, Literal["close", "ping", "pong"]] = {8: "close", 9: "ping", 10: "pong"}
_OPCODES = {"data": 2, "close": 8, "ping": 9, "pong": 10}
_CONTROL_BYTES_MAX = 125
_MASK_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a message, or a control frame, which is whole."""

    kind: Literal["data", "close", "ping", "pong"]
    payload: bytes
    is_first: bool = True
    """Whether the message begins with it."""
    is_last: bool = True
    """Whether the message ends with it."""


def client_frame(kind: Literal["data", "close", "ping", "pong"], payload: bytes, *, mask: bytes) -> bytes:
    """A whole frame. Clients mask, with four new random bytes for each."""
    assert len(mask) == _MASK_BYTES, "a mask has four bytes"
    size = len(payload)
    if size <= _CONTROL_BYTES_MAX:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    repeated = int.from_bytes((mask * (size // _MASK_BYTES + 1))[:size])
    masked = (int.from_bytes(payload) ^ repeated).to_bytes(size)
    return bytes([0x80 | _OPCODES[kind]]) + length + mask + masked


class FrameReader:
    """Parses what a server sends, wherever it is cut."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = -1
        """Of the payload of the frame that is being read; -1 while it is its head."""
        self._opcode, self._is_final = 0, True
        self._control = bytearray()
        self._is_within = False
        """Whether a message has begun and not ended."""
        self._is_begun = False
        """Whether a piece of it was handed out."""

    @property
    def is_between(self) -> bool:
        """Whether no frame and no message is cut here."""
        return not self._head and self._left < 0 and not self._is_within

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that `data` holds. Raises ClusterError for what is no WebSocket of a server."""
        at, end = 0, len(data)
        while at < end:
            if self._left < 0:
                taken = min(end - at, _head_bytes(self._head) - len(self._head))
                self._head += data[at : at + taken]
                at += taken
                if len(self._head) == _head_bytes(self._head):
                    self._begin_frame()
                    if self._left == 0:
                        yield self._piece(b"")
                continue
            taken = min(end - at, self._left)
            part = data[at : at + taken]
            at += taken
            self._left -= taken
            if self._opcode < 8:
                yield self._piece(part)
                continue
            self._control += part
            if self._left == 0:
                yield self._piece(bytes(self._control))

    def _begin_frame(self) -> None:
        first, second = self._head[0], self._head[1]
        self._opcode, self._is_final = first & 0x0F, bool(first & 0x80)
        self._left = second if second <= _CONTROL_BYTES_MAX else int.from_bytes(self._head[2:])
        self._head.clear()
        self._control.clear()
        if first & 0x70:
            raise _broken("reserved bits are set")
        if second & 0x80:
            raise _broken("the server masks")
        if self._opcode in _KINDS:
            if not self._is_final or self._left > _CONTROL_BYTES_MAX:
                raise _broken("a control frame is in parts or too long")
        elif self._opcode not in (0, 2):
            raise _broken(f"opcode {self._opcode} is not expected")
        elif (self._opcode == 0) != self._is_within:
            raise _broken("a message begins within another, or goes on without a beginning")
        else:
            self._is_begun = self._is_begun and self._is_within
            self._is_within = True

    def _piece(self, payload: bytes) -> Piece:
        """The next of the message, or the control frame; the frame ends where nothing of it is left."""
        is_over = self._left == 0
        if is_over:
            self._left = -1
        if self._opcode in _KINDS:
            return Piece(kind=_KINDS[self._opcode], payload=payload)
        is_first, is_last = not self._is_begun, is_over and self._is_final
        self._is_begun, self._is_within = not is_last, not is_last
        return Piece(kind="data", payload=payload, is_first=is_first, is_last=is_last)


def _head_bytes(head: bytearray) -> int:
    """How long the head of a frame is, as far as its first bytes say."""
    more = {126: 2, 127: 8}
    return 2 + (more.get(head[1] & 0x7F, 0) if len(head) >= 2 else 0)


def _broken(how: str) -> ClusterError:
    return ClusterError(f"the stream is broken: {how}")
