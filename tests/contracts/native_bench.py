"""The native bulk work over a repository that the tests' own writer makes by docs/format.md, in memory."""

import random
import struct
from pathlib import Path

from pvback.config import Config, Secret
from pvback.errors import ObjectNotFound
from pvback.model import LocalAddress
from pvback.ops.index_work import NativeIndexWork
from pvback.reference import RawSecret, Repository
from pvback.reference.errors import NotFoundError
from pvback.repository.index_work import IndexWork
from pvback.repository.repository import open_repository_access
from pvback.repository.sealed import Named
from pvback.storage.memory import MemoryStore
from tests.support.reference_writer import PackIndex, RepositoryWriter

__all__ = ["NativeBench"]

_PASSPHRASE = "open sesame"
_DATA, _REFERENCE_SET = 1, 4


class NativeBench:
    """See `Bench` in `test_index_work`. An owner does the work.

    Args:
        root: An empty directory; the writer keeps its objects there, too.
    """

    def __init__(self, root: Path) -> None:
        self._store = MemoryStore(page_count=3)
        self._writer = _Writer(root, self._store).init(passphrase=_PASSPHRASE)
        config = Config(repository=LocalAddress(root), password=Secret(_PASSPHRASE), cache_dir=None)
        access = open_repository_access(config, store=self._store)
        self.objects = access.objects
        self.work: IndexWork = NativeIndexWork(access)
        self._session = self._writer.session()
        self._texts: dict[bytes, str] = {}
        self._packs: dict[str, PackIndex] = {}
        self._parts = 0

    def pack(self, *texts: str) -> str:
        pack = self._session.write_pack(_DATA, {self._id(text): text.encode() for text in texts})
        self._packs[pack.name.hex()] = pack
        return pack.name.hex()

    def run(self, *packs: str, generation: int = 1) -> str:
        return self._writer.write_run([self._packs[pack] for pack in packs], gen=generation)

    def refs(self, *texts: str) -> Named:
        self._parts += 1
        name = f"refs/{'7' * 32}-{self._parts}"
        entries = sorted(self._id(text)[:16] + struct.pack("<H", place) for place, text in enumerate(texts))
        body = b"PVBKREF1" + struct.pack("<II", len(entries), 1) + b"".join(entries)
        return Named(name, self._writer.seal_signed(name, _REFERENCE_SET, body).hex())

    def listed(self, runs: tuple[str, ...]) -> list[tuple[str, str]]:
        scope = Repository.open(_Objects(self._store), RawSecret(self._writer.owner.secret)).scope
        entries = [one for name in runs for one in scope.run(name).entries]
        return sorted((self._texts[one], place.pack.hex()) for one, place in entries)

    def laid(self, pack: str) -> list[str]:
        scope = Repository.open(_Objects(self._store), RawSecret(self._writer.owner.secret)).scope
        entries = scope.pack(bytes.fromhex(pack), _DATA).entries
        return [self._texts[one.id[:16]] for one in entries]

    def _id(self, text: str) -> bytes:
        one = self._session.chunk(text.encode())
        self._texts[one[:16]] = text
        return one


class _Writer(RepositoryWriter):
    """Puts into a store what it writes."""

    def __init__(self, root: Path, store: MemoryStore) -> None:
        super().__init__(root, random.Random(7).randbytes)
        self._store = store

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self._store.put(key, data)

    def init(self, passphrase: str | None = None) -> "_Writer":
        super().init(passphrase)
        return self


class _Objects:
    """A store as the reference reader wants it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def get(self, key: str) -> bytes:
        try:
            return self._store.read(key).data
        except ObjectNotFound:
            raise NotFoundError(f"object `{key}` is not there") from None

    def list(self, prefix: str) -> list[str]:
        return [info.key for info in self._store.list_objects(prefix)]
