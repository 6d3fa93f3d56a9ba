"""A store that holds on to a buffer after its answer, as a read does that was given up for a faster one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvback.config import Secret, load_config
from pvback.ops.facade import Repository, init_repository
from pvback.repository.repository import open_repository_access
from pvback.storage.local import LocalStore
from pvback.storage.metered import MeteredStore

if TYPE_CHECKING:
    from pathlib import Path

    from pvback.storage.base import WriteBuffer

PASSWORD = "correct horse"


class HoldingStore(MeteredStore):
    """Keeps a view of each buffer that it was given to fill."""

    def __init__(self, inner: LocalStore) -> None:
        super().__init__(inner)
        self.held: list[memoryview] = []

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        self.held.append(memoryview(buffer))
        return super().read_into(key, buffer, offset=offset)


def test_what_was_read_counts_although_a_view_is_left(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "repository"
    source.mkdir()
    (source / "file").write_bytes(bytes(range(256)) * 4096)
    with init_repository(root, PASSWORD, cache_dir=tmp_path / "cache") as repository:
        repository.backup(source)
    config = load_config(
        {"repository": str(root), "password": Secret(PASSWORD), "cache_dir": str(tmp_path / "cache")}
    )
    store = HoldingStore(LocalStore(root))
    with Repository(open_repository_access(config, store=store)) as repository:
        assert repository.restore("latest", tmp_path / "target").error_count == 0
    assert store.held
    assert (tmp_path / "target" / "file").read_bytes() == (source / "file").read_bytes()
