"""A TCP proxy that is a link: so many bytes a second in each direction, and so long a round trip.

All connections share the two directions, as they share a wire. Each direction hands on what it gets after
half a round trip, no faster than a token bucket allows, and a new connection waits one whole round trip, as
its handshake would. What is on its way is bounded by the rate times the round trip and a little more, so that
a sender is held back as by a full socket buffer. Lost packets and slow starts are not imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 64 << 10
BURST_SECONDS = 0.02
"""What a direction that was idle may send at once, in seconds of its rate."""


@dataclass(kw_only=True)
class Direction:
    """One way of the link. Touched by the proxy's thread only, but for its counters."""

    bytes_per_second: float
    delay_seconds: float
    bytes_moved: int = 0
    is_shaped: bool = True
    """False: everything passes at once, and is counted."""
    _free_at: float = 0.0
    """When everything that was admitted will have been sent."""

    async def admit(self, count: int) -> float:
        """Wait for this many bytes to be sent; the time at which the last one arrives."""
        loop = asyncio.get_running_loop()
        self.bytes_moved += count
        if not self.is_shaped:
            return loop.time()
        start = max(self._free_at, loop.time() - BURST_SECONDS)
        self._free_at = start + count / self.bytes_per_second
        if (wait := self._free_at - loop.time()) > 0:
            await asyncio.sleep(wait)
        return loop.time() + self.delay_seconds


@dataclass(kw_only=True)
class Link:
    """What a running proxy is like, and what it has moved."""

    address: str
    up: Direction
    down: Direction
    connection_count: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def is_shaped(self) -> bool:
        """Whether rate and round trip hold at the moment."""
        return self.up.is_shaped

    def shape(self, is_shaped: bool) -> None:
        """Let them hold from now on, or let everything pass at once."""
        self.up.is_shaped = self.down.is_shaped = is_shaped


@contextlib.contextmanager
def run_link(target: str, *, bytes_per_second: float, round_trip_seconds: float) -> Iterator[Link]:
    """A link to `host:port`, from the moment it accepts connections until the body ends."""
    half = round_trip_seconds / 2
    up, down = (Direction(bytes_per_second=bytes_per_second, delay_seconds=half) for _ in range(2))
    link = Link(address="", up=up, down=down)
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(
            lambda reader, writer: _connect(link, target, reader, writer), "127.0.0.1"
        )
        host, port = server.sockets[0].getsockname()[:2]
        link.address = f"{host}:{port}"
        started.set()
        async with server:
            await ended.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="link", daemon=True)
    thread.start()
    try:
        assert started.wait(10), "the proxy does not start"
        yield link
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


async def _connect(
    link: Link, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    link.connection_count += 1
    host, _, port = target.rpartition(":")
    if link.is_shaped:
        await asyncio.sleep(link.up.delay_seconds + link.down.delay_seconds)
    with contextlib.closing(writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        except OSError as exc:
            link.failures.append(str(exc))
            return
        with contextlib.closing(inner_writer):
            await asyncio.gather(
                _carry(reader, inner_writer, link.up), _carry(inner_reader, writer, link.down)
            )


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
    """One direction of one connection to its end, which is passed on."""
    in_flight = way.bytes_per_second * way.delay_seconds
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(2 + int(in_flight // PIECE_BYTES))
    delivery = asyncio.create_task(_deliver(pieces, writer))
    with contextlib.suppress(OSError):
        while (piece := await reader.read(PIECE_BYTES)) and not delivery.done():
            await pieces.put((await way.admit(len(piece)), piece))
    if not delivery.done():
        await pieces.put((await way.admit(0), b""))
    await delivery


async def _deliver(pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    """Write each piece when it is due, up to the empty one. For a receiver that is gone, they are lost."""
    loop, is_there = asyncio.get_running_loop(), True
    while True:
        due, piece = await pieces.get()
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        try:
            if not piece:
                writer.write_eof()
                return
            if is_there:
                writer.write(piece)
                await writer.drain()
        except (OSError, RuntimeError):
            if not piece:
                return
            is_there = False
