"""Streams that last longer than the time between two checkpoints."""

import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from pvback import limits
from pvback.config import Config
from pvback.model import LocalAddress
from pvback.ops.backup import backup
from pvback.ops.sources import stdin_source
from pvback.repository.repository import open_repository_access
from pvback.repository.session import WriterSession
from tests.robust.world import World

PIECE_BYTES = 256 << 10
PIECES_MAX = 4000


def test_a_checkpoint_within_a_stream(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """It has no size before its end; what is stored of it so far is a file all the same."""
    rng = random.Random(seed)
    is_recorded = threading.Event()
    checkpoint = WriterSession.checkpoint

    def record(self: WriterSession, *given: Any, **named: Any) -> Any:
        done = checkpoint(self, *given, **named)
        is_recorded.set()
        return done

    monkeypatch.setattr(WriterSession, "checkpoint", record)
    monkeypatch.setattr(limits, "CHECKPOINT_SECONDS", 0.2)
    reader, writer = os.pipe()
    digest = hashlib.sha256()

    def feed() -> None:
        with os.fdopen(writer, "wb") as file:
            for _ in range(PIECES_MAX):
                piece = rng.randbytes(PIECE_BYTES)
                digest.update(piece)
                file.write(piece)
                if is_recorded.is_set():
                    break

    access = open_repository_access(
        Config(repository=LocalAddress(world.repository), key_file=world.key_file), is_writer=True
    )
    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with os.fdopen(reader, "rb"):
            done = backup(access, stdin_source("dump", descriptor=reader))
    finally:
        thread.join()
        access.close()
    assert is_recorded.is_set(), "the stream was long enough"
    assert done.snapshot is not None
    out = tmp_path / "out"
    world.good("restore", done.snapshot, "--target", out)
    (restored,) = [one for one in (out, *out.rglob("*")) if one.is_file()]
    assert hashlib.sha256(restored.read_bytes()).hexdigest() == digest.hexdigest()
