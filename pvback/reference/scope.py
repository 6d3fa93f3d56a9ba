"""One scope opened for reading: objects, index, blobs (sections 5, 6, 7 and 11)."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pvback.reference import kdf, sealing
from pvback.reference.config import Config
from pvback.reference.errors import DamagedError, NotFoundError, ReadError
from pvback.reference.index import Index, Location, Run, parse_marks, parse_refs, parse_run
from pvback.reference.keys import Keyring
from pvback.reference.packs import FOOTER_BYTES, Pack, PackEntry, parse_pack
from pvback.reference.sealing import (
    KIND_CHUNK,
    KIND_PAGE,
    ROLE_MAINTAINER,
    ROLE_OWNER,
    BlobSeal,
    Place,
    Signer,
)
from pvback.reference.snapshots import (
    GcState,
    Named,
    Register,
    generation_names,
    pack_names,
    parse_named,
    parse_register,
    split_name,
)
from pvback.reference.store import Store
from pvback.reference.wire import Fields, check_version, parse_fields, parse_json

PACK_CACHE_BYTES = 256 << 20
CHUNK_CACHE_BYTES = 64 << 20
_PACK_NAME = re.compile(r"(data|meta)/([0-9a-f]{2})/(\2[0-9a-f]{30})")
Value = TypeVar("Value")
_KINDS = {1: ("data", sealing.TYPE_DATA_PACK), 2: ("meta", sealing.TYPE_META_PACK)}


class _Cache(Generic[Value]):
    """Least recently used first out, bounded by bytes; holds at least the newest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._values: OrderedDict[bytes, tuple[int, Value]] = OrderedDict()

    def get(self, key: bytes) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][1]

    def put(self, key: bytes, value: Value, size: int) -> None:
        self._values[key] = size, value
        self._used += size
        while self._used > self._limit and len(self._values) > 1:
            self._used -= self._values.popitem(last=False)[1][0]


@dataclass(frozen=True)
class Opened:
    """An object that opened and whose signature holds; whether its signer may is another check."""

    body: bytes
    signer: Signer
    hash: bytes


class Scope:
    """Reads one scope. Loads `gc/state` when made, runs on first use, packs as needed."""

    def __init__(self, store: Store, config: Config, id_: bytes, keyring: Keyring) -> None:
        """`config` must have its signature checked."""
        self.id = id_
        self.keyring = keyring
        self.repository = config.repository
        self._store = store
        self._owner_vk = config.owner_vk
        self._revoked = config.revoked
        self._prefix = f"s/{id_.hex()}/"
        self._packs: _Cache[Pack] = _Cache(PACK_CACHE_BYTES)
        self._blobs: _Cache[bytes] = _Cache(CHUNK_CACHE_BYTES)
        self._data_keys: dict[bytes, bytes] = {}
        self._index: Index | None = None
        self._state: GcState | None = None

    def place(self, name: str) -> Place:
        """The place that seals and signatures of the object `name` bind."""
        return Place(self.repository, self.id, name)

    def names(self, prefix: str) -> list[str]:
        """Names of objects that start with `prefix`, without `s/<S>/`."""
        cut = len(self._prefix)
        return [key[cut:] for key in self._store.list(self._prefix + prefix)]

    def _unseal(self, name: str, type_: int) -> tuple[bytes, bytes]:
        data = self._store.get(self._prefix + name)
        epoch = sealing.parse_header(data, name).epoch
        key = self.keyring.index_key(self.id, epoch)
        return sealing.open_object(key, self.place(name), type_, data), kdf.digest(data)

    def open(self, name: str, type_: int) -> Opened:
        """An object other than a pack, its seal and signature checked."""
        plaintext, hash_ = self._unseal(name, type_)
        cut = len(plaintext) - sealing.SIGNATURE_BLOCK_BYTES
        if cut < 0:
            raise DamagedError(f"{name}: shorter than its signature block")
        body, block = plaintext[:cut], plaintext[cut:]
        signer = sealing.verify_block(block, self.place(name), type_, body, self._owner_vk)
        return Opened(body, signer, hash_)

    def open_named(self, named: Named, type_: int) -> Opened:
        """An object that must have the hash by which another one names it."""
        opened = self.open(named.name, type_)
        if opened.hash != named.hash:
            raise DamagedError(f"{named.name}: is not the object that was named")
        return opened

    def require_standing(self, signer: Signer, what: str, snapshot: tuple[bytes, int] | None = None) -> None:
        """What is no pack, run or reference set counts only from principals who are not revoked.

        Of those, snapshots count up to the `seq` that config states for their source; `snapshot` is
        (source, seq).
        """
        sequences = self._revoked.get(signer.principal)
        if sequences is None:
            return
        if snapshot is None or snapshot[1] > sequences.get(snapshot[0], -1):
            raise DamagedError(f"{what}: signed by a principal who is revoked")

    def state(self) -> GcState:
        """`gc/state`, read once. Raises `NotFoundError` when the repository has none."""
        if self._state is None:
            self._state = self._load_state()
        return self._state

    def _load_state(self) -> GcState:
        opened = self.open("gc/state", sealing.TYPE_GC_STATE)
        require_keeper(opened.signer, "gc/state")
        self.require_standing(opened.signer, "gc/state")
        fields = parse_fields(opened.body, "gc/state")
        check_version(fields, "gc/state")
        fields.hex("nonce", 16)
        if fields.text("phase") not in ("IDLE", "CONDEMNED"):
            fields.fail("phase", "is not known")
        pack_names(self._gc_list(fields, "condemned"), "gc/state: condemned")
        generation_names(self._gc_list(fields, "known"), "gc/state: known")
        return GcState(
            fields.integer("n", 1),
            fields.integer("floor"),
            pack_names(self._gc_list(fields, "dead"), "gc/state: dead"),
            generation_names(self._gc_list(fields, "base"), "gc/state: base"),
            generation_names(self._gc_list(fields, "roster"), "gc/state: roster"),
        )

    def _gc_list(self, fields: Fields, name: str) -> list[Any]:
        if isinstance(fields.raw(name), list):
            return fields.list(name)
        named = parse_named(fields.object(name), "gc")
        opened = self.open_named(named, sealing.TYPE_GC_LIST)
        require_keeper(opened.signer, named.name)
        self.require_standing(opened.signer, named.name)
        value = parse_json(opened.body, named.name)
        if not isinstance(value, list):
            raise DamagedError(f"{named.name}: not a list")
        return value

    def register_names(self) -> list[str]:
        """`<gen>-<n>` of all registers that count, oldest generation first."""
        found = []
        for key in self.names("snapshots/"):
            parts = split_name(key.removeprefix("snapshots/"))
            if parts and self.state().counts_register(key.removeprefix("snapshots/"), parts[0]):
                found.append(key.removeprefix("snapshots/"))
        return found

    def register(self, name: str) -> tuple[Register, Signer]:
        """One register; its signer may set the state that it is in."""
        opened = self.open(f"snapshots/{name}", sealing.TYPE_REGISTER)
        register = parse_register(opened.body, name)
        if register.state in ("OPEN", "COMMITTED"):
            # Who may forget may also take that back; the record says by itself what is true.
            if register.state == "OPEN" or opened.signer.role != ROLE_MAINTAINER:
                require_writer(opened.signer, register.source, f"snapshots/{name}")
            place = register.source, register.seq
            self.require_standing(opened.signer, f"snapshots/{name}", place)
        else:
            require_keeper(opened.signer, f"snapshots/{name}")
            self.require_standing(opened.signer, f"snapshots/{name}")
        return register, opened.signer

    def run_names(self) -> list[str]:
        """`<gen>-<name>` of all runs that count."""
        names = [key.removeprefix("index/") for key in self.names("index/")]
        parts = [(name, split_name(name)) for name in names]
        return [name for name, one in parts if one and self.state().counts_run(name, one[0])]

    def run(self, name: str) -> Run:
        """One index run. Those in the base of `gc/state` supersede others: keepers sign them."""
        opened = self.open(f"index/{name}", sealing.TYPE_RUN)
        if name in self.state().base:
            require_keeper(opened.signer, f"index/{name}")
        return parse_run(opened.body, f"index/{name}")

    def index(self) -> Index:
        """The index over all runs that count, loaded once. Raises on the first damaged run."""
        if self._index is None:
            index = Index(self.state().dead)
            missing = self.state().base - set(self.run_names())
            if missing:
                raise NotFoundError(f"run `{min(missing)}` in the base of gc/state is not there")
            for name in self.run_names():
                for id_, location in self.run(name).entries:
                    index.add(id_, location)
            self._index = index
        return self._index

    def rebuild_index(self) -> list[str]:
        """Use the directories of all packs that are there in place of the runs.

        For a repository whose runs are lost. Returns what is wrong with packs left out.
        """
        index = Index(self.state().dead)
        problems = []
        for kind, name in self.pack_names():
            try:
                entries = self.pack(name, kind).entries
            except ReadError as exc:
                problems.append(str(exc))
                continue
            for one in entries:
                index.add(one.id, Location(name, kind, one.offset, one.length))
        self._index = index
        return problems

    def pack_names(self) -> list[tuple[int, bytes]]:
        """(kind, name) of all packs that are there, used or not."""
        found = []
        for key in self.names("data/") + self.names("meta/"):
            match = _PACK_NAME.fullmatch(key)
            if match:
                found.append((1 if match[1] == "data" else 2, bytes.fromhex(match[3])))
        return found

    def pack(self, name: bytes, kind: int) -> Pack:
        """An opened pack, its directory's signature checked."""
        cached = self._packs.get(name)
        if cached is not None:
            return cached
        folder, type_ = _KINDS[kind]
        key = f"{folder}/{name.hex()[:2]}/{name.hex()}"
        pack = parse_pack(self._unseal(key, type_)[0], kind, key)
        signer = sealing.verify_block(pack.block, self.place(key), type_, pack.directory, self._owner_vk)
        if any(one.origin != signer.principal for one in pack.envelopes):
            require_keeper(signer, key)
        self._packs.put(name, pack, len(pack.plaintext) + FOOTER_BYTES)
        return pack

    def chunk_in(self, pack: Pack, entry: PackEntry) -> bytes:
        """The chunk of a data pack's entry, its id recomputed."""
        raw = pack.raw_envelopes[entry.envelope]
        envelope = pack.envelopes[entry.envelope]
        place = self.place(f"pack with chunk {entry.id.hex()[:8]}")
        if raw not in self._data_keys:
            secret = self.keyring.data_secret(self.id, envelope.epoch)
            self._data_keys[raw] = sealing.open_envelope(secret, place, envelope)
        seal = BlobSeal(KIND_CHUNK, entry.id, envelope.suite, self._data_keys[raw])
        data = sealing.open_blob(seal, place, pack.blob(entry))
        id_key = kdf.chunk_id_key(self.keyring.dedup_key(self.id))
        return _identified(kdf.keyed(id_key, data), entry.id, data)

    def page_in(self, pack: Pack, entry: PackEntry, source: bytes) -> bytes:
        """The page of a metadata pack's entry, its id recomputed."""
        envelope = pack.envelopes[entry.envelope]
        source_key = self.keyring.source_key(self.id, envelope.epoch, source)
        place = self.place(f"pack with page {entry.id.hex()[:8]}")
        seal = BlobSeal(KIND_PAGE, entry.id, envelope.suite, kdf.page_key(source_key))
        data = sealing.open_blob(seal, place, pack.blob(entry))
        return _identified(kdf.keyed(kdf.page_id_key(source_key), data), entry.id, data)

    def chunk(self, id_: bytes) -> bytes:
        """A chunk by its id, from whichever copy is sound."""
        return self._blob(id_, 1, self.chunk_in)

    def page(self, id_: bytes, source: bytes) -> bytes:
        """A page of a source by its id, from whichever copy is sound."""
        return self._blob(id_, 2, lambda pack, entry: self.page_in(pack, entry, source))

    def _blob(self, id_: bytes, kind: int, read: Callable[[Pack, PackEntry], bytes]) -> bytes:
        cached = self._blobs.get(id_)
        if cached is not None:
            return cached
        what = "chunk" if kind == 1 else "page"
        failure: ReadError = NotFoundError(f"{what} {id_.hex()} is in no index run")
        for location in self.index().lookup(id_):
            if location.pack_kind != kind:
                continue
            try:
                pack = self.pack(location.pack, kind)
                entry = _entry(pack, id_, location)
                if entry is None:
                    continue
                data = read(pack, entry)
            except ReadError as exc:
                failure = exc
                continue
            self._blobs.put(id_, data, len(data))
            return data
        raise failure

    def refs(self, named: Named) -> frozenset[bytes]:
        """Short ids of one part of a reference set."""
        return parse_refs(self.open_named(named, sealing.TYPE_REFS).body, named.name)

    def marks(self, parts: Iterable[Named]) -> dict[bytes, int]:
        """How often each short id is needed, from all parts in order; keepers sign them."""
        found: dict[bytes, int] = {}
        last = b""
        for named in parts:
            opened = self.open_named(named, sealing.TYPE_MARKS)
            require_keeper(opened.signer, named.name)
            self.require_standing(opened.signer, named.name)
            part = parse_marks(opened.body, named.name)
            if part and min(part) <= last:
                raise DamagedError(f"{named.name}: does not follow the part before it")
            last = max(part, default=last)
            found.update(part)
        return found


def _identified(computed: bytes, id_: bytes, data: bytes) -> bytes:
    if computed != id_:
        raise DamagedError(f"blob {id_.hex()[:8]}: its content has the id {computed.hex()[:8]}")
    return data


def _entry(pack: Pack, id_: bytes, location: Location) -> PackEntry | None:
    for entry in pack.entries:
        if entry.offset == location.offset:
            if entry.length != location.length or entry.id[:16] != id_[:16]:
                raise DamagedError(f"pack {location.pack.hex()[:8]}: is not what its index run says")
            return entry if entry.id == id_ else None
    raise DamagedError(f"pack {location.pack.hex()[:8]}: no blob where its index run says")


def require_keeper(signer: Signer, what: str) -> None:
    """Only a maintainer or the owner may have signed `what`."""
    if signer.role not in (ROLE_OWNER, ROLE_MAINTAINER):
        raise DamagedError(f"{what}: signed by a principal who may not")


def require_owner(signer: Signer, what: str) -> None:
    """Only the owner may have signed `what`."""
    if signer.role != ROLE_OWNER:
        raise DamagedError(f"{what}: signed by a principal who may not")


def require_writer(signer: Signer, source: bytes, what: str) -> None:
    """Only a writer of `source` or the owner may have signed `what`."""
    if signer.role != ROLE_OWNER and not signer.is_writer_of(source):
        raise DamagedError(f"{what}: signed by a principal who may not write this source")
