"""Frames of WebSockets: however they are cut, and what no server may send."""

import random
import socket
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback.cluster.frames import FrameReader, Piece, client_frame
from pvback.errors import ClusterError
from tests.support.exec_server import Peer, frame


def messages(pieces: list[Piece]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    open_message: bytes | None = None
    for one in pieces:
        if one.kind != "data":
            found.append((one.kind, one.payload))
            continue
        assert one.is_first == (open_message is None)
        open_message = (open_message or b"") + one.payload
        if one.is_last:
            found.append(("data", open_message))
            open_message = None
    return found


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([0, 1, 125, 126, 300, 66000]))),
    st.integers(1, 70000),
    st.booleans(),
)
def test_however_it_is_cut(sent: list[tuple[int, int]], step: int, with_pings: bool) -> None:
    data, expected = b"", []
    for count, size in sent:
        parts = [bytes([at]) * size for at in range(count)]
        for at, part in enumerate(parts):
            data += frame(part, opcode=2 if at == 0 else 0, final=at == count - 1)
            if with_pings:
                # Control frames may come between the frames of a message.
                data += frame(b"are you there", opcode=9)
                expected.append(("ping", b"are you there"))
        expected.insert(len(expected) - (1 if with_pings else 0), ("data", b"".join(parts)))
    reader = FrameReader()
    pieces = [piece for at in range(0, len(data), step) for piece in reader.feed(data[at : at + step])]
    assert messages(pieces) == expected
    assert reader.is_between


@given(st.binary(max_size=70000), st.binary(min_size=4, max_size=4))
def test_what_a_client_sends(payload: bytes, mask: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(client_frame("data", payload, mask=mask))
        ours.close()
        peer = Peer(theirs, "", "")
        assert peer.read() == (2, payload)
        assert peer.read() is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xc2\x00", "reserved bits"),
        (b"\x82\x80\0\0\0\0", "masks"),
        (frame(b"x", opcode=1), "opcode 1"),
        (frame(b"x", opcode=3), "opcode 3"),
        (frame(b"x", opcode=0), "without a beginning"),
        (frame(b"x", final=False) + frame(b"y"), "within another"),
        (frame(b"x", opcode=9, final=False), "control frame"),
        (frame(b"x" * 126, opcode=9), "control frame"),
    ],
)
def test_what_no_server_sends(data: bytes, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        list(FrameReader().feed(data))


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    """Pieces or our own error, and never more bytes than came in."""
    reader = FrameReader()
    size = 0
    try:
        for piece in reader.feed(data):
            size += len(piece.payload)
    except ClusterError:
        pass
    assert size <= len(data)


def test_a_frame_that_never_ends_takes_no_memory() -> None:
    reader = FrameReader()
    list(reader.feed(b"\x82\x7f" + (1 << 62).to_bytes(8)))
    part = random.Random(1).randbytes(1 << 16)
    tracemalloc.start()
    try:
        for _ in range(1000):
            (piece,) = reader.feed(part)
            assert piece.payload == part
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
