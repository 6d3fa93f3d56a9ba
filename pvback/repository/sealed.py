"""Sealed JSON objects of one scope: reading and writing them through a store and a keyring."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.body import Body, parse_body
from pvback.repository.layout import Area, ObjectType, ScopeLayout
from pvback.retrying import Patience, create_own
from pvback.runtime import Clock
from pvback.storage import ObjectInfo, ObjectStore, StoredObject

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = ["Named", "ScopeObjects", "SealedBody", "parse_named"]


@dataclass(frozen=True, slots=True)
class Named:
    """An object that another one names: its name and the BLAKE3 of its sealed bytes, in hex."""

    name: str
    hash: str

    def as_json(self) -> dict[str, str]:
        """As bodies hold it."""
        return {"name": self.name, "hash": self.hash}


def parse_named(body: Body, area: Area) -> Named:
    """An object in `area`; any other name is refused, so that nothing outside is ever read."""
    name = body.text("name")
    if ScopeLayout("").classify(ScopeLayout("").key(name)) is None or not name.startswith(f"{area}/"):
        raise body.fail("name", f"does not name an object in {area}/")
    return Named(name, body.hex("hash", 32))


@dataclass(frozen=True, slots=True)
class SealedBody:
    """A body that was read, with what the store called that version of it."""

    body: Body
    etag: str
    hash: str


@dataclass(frozen=True, slots=True)
class ScopeObjects:
    """The objects of one scope, opened and sealed with one keyring."""

    store: ObjectStore
    keyring: "Keyring"
    layout: ScopeLayout
    patience: Patience = field(default_factory=Patience, compare=False)
    """Of those who write here and repeat it themselves."""

    @property
    def scope(self) -> str:
        """The scope's id in hex."""
        return self.layout.scope

    def read(self, kind: ObjectType, name: str) -> SealedBody:
        """Open a JSON object. Raises ObjectNotFound, DamagedError, UnsupportedFormatError."""
        return self.open(kind, name, stored=self.store.read(self.layout.key(name)))

    def open(self, kind: ObjectType, name: str, *, stored: StoredObject) -> SealedBody:
        """The same of an object that was read. Raises DamagedError, UnsupportedFormatError."""
        key = self.layout.key(name)
        data = self.keyring.open_json(self.scope, kind, name, stored.data)
        return SealedBody(parse_body(data, key), stored.etag, datapath.blake3(stored.data))

    def read_named(self, kind: ObjectType, named: Named, *, twin: bytes = b"") -> bytes:
        """The plaintext of an object that must be there and have that hash. Raises DamagedError.

        A `twin` that has that hash is as good.
        """
        key = self.layout.key(named.name)
        if twin and datapath.blake3(twin) == named.hash:
            return self.keyring.open_json(self.scope, kind, named.name, twin)
        try:
            stored = self.store.read(key)
        except ObjectNotFound:
            raise DamagedError("the object is missing", key=key) from None
        if datapath.blake3(stored.data) != named.hash:
            raise DamagedError("the object is not the one that was recorded", key=key)
        return self.keyring.open_json(self.scope, kind, named.name, stored.data)

    def hash_of(self, name: str) -> str:
        """BLAKE3 of the bytes of an object. Raises ObjectNotFound."""
        return datapath.blake3(self.store.read(self.layout.key(name)).data)

    def seal(self, kind: ObjectType, *, name: str, data: bytes) -> bytes:
        """The bytes of a JSON object, signed and sealed; nothing is stored."""
        return self.keyring.seal_json(self.scope, kind, name, data)

    def create_own(self, name: str, *, data: bytes, clock: Clock) -> Named:
        """Create an object under a name that only this session uses. Raises as the function of that name."""
        create_own(self.store, self.layout.key(name), data=data, clock=clock, patience=self.patience)
        return Named(name, datapath.blake3(data))

    def list_area(self, area: Area) -> Iterator[tuple[str, ObjectInfo]]:
        """(last part of the name, info) of each object of an area, in key order, without foreign ones."""
        for info in self.store.list_objects(self.layout.area(area)):
            found = self.layout.classify(info.key)
            if found is not None and found[0] is area:
                yield found[1], info
