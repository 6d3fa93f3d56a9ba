"""Bytes on their way up and down without a copy: a caller's buffer as a file, and answers read into one."""

import base64
import zlib
from typing import Any

__all__ = ["BufferReader", "fill_from", "plan_parts", "stop_body", "sum_crc32"]


class BufferReader:
    """A seekable, readable view of a buffer. `read` hands out views that live as long as the buffer does.

    Not of `io`'s classes: what reads it takes views as well as bytes, and theirs would make copies.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int | None = -1) -> memoryview:
        """Up to `size` bytes from here on; all that are left when it is negative or None."""
        end = len(self._view) if size is None or size < 0 else self._position + size
        part = self._view[self._position : end]
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as files do; not before the beginning."""
        base = (0, self._position, len(self._view))[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def seekable(self) -> bool:
        """Yes."""
        return True


def sum_crc32(view: memoryview) -> str:
    """CRC32 as S3's headers have it: big-endian, in base64."""
    return base64.b64encode(zlib.crc32(view).to_bytes(4, "big")).decode("ascii")


def plan_parts(size: int, *, part_bytes: int, count_max: int) -> list[tuple[int, int]]:
    """(begin, end) of each part: equal but for the last, larger than asked for where they are too many."""
    step = max(part_bytes, -(-size // count_max))
    return [(begin, min(begin + step, size)) for begin in range(0, size, step)]


def fill_from(body: Any, view: memoryview) -> int:  # noqa: ANN401 - the client's own
    """Read an answer's body into `view` until that is full or the body ends; returns how much that was.

    Goes below two layers of the client that would each make a copy, down to the standard library's response,
    and through them where they are not as they used to be.
    """
    raw: Any = getattr(body, "_raw_stream", None)
    plain: Any = getattr(raw, "_fp", None)
    is_plain = hasattr(plain, "readinto")
    read_into = plain.readinto if is_plain else body.readinto
    done = 0
    while done < len(view):
        with view[done:] as rest:
            count = read_into(rest)
        if not count:
            break
        done += count
    if is_plain and plain.isclosed():
        # Read to its end: the connection can serve another request.
        raw.release_conn()
    return done


def stop_body(body: Any) -> None:  # noqa: ANN401 - the client's own
    """Make a read of the body that is under way in another thread fail soon."""
    shutdown = getattr(getattr(body, "_raw_stream", None), "shutdown", None)
    if shutdown is not None:
        shutdown()
