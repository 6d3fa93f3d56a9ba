"""The reader's front door: open a repository, list snapshots, read files.

repository = Repository.open(DirectoryStore("/mnt/repo"), Passphrase("..."))
for snapshot in repository.snapshots():
    for node in repository.walk(snapshot): ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvback.reference import kdf, sealing
from pvback.reference.config import Config, ScopeInfo, parse_config
from pvback.reference.errors import (
    DamagedError,
    NotFoundError,
    ReadError,
    UnsupportedError,
    WrongKeyError,
)
from pvback.reference.keys import Keyring, Unlocked, Unlocker, parse_key_file, unlock
from pvback.reference.pages import DATA, FILE, HOLE, Extent, Node
from pvback.reference.scope import Scope, require_owner, require_writer
from pvback.reference.sealing import KIND_RECORD, BlobSeal, Place, Signer
from pvback.reference.snapshots import Register, Snapshot, parse_detail, parse_record
from pvback.reference.store import Store
from pvback.reference.tree import Tree, display

LABEL_SALT_BYTES = 16


@dataclass(frozen=True)
class Piece:
    """A range of a file: `data`, or None for zeros, which are a hole unless `is_allocated`."""

    offset: int
    length: int
    data: bytes | None
    is_allocated: bool


class Repository:
    """A repository unlocked by one role. Made by `open`."""

    def __init__(self, config: Config, scope: Scope, warnings: tuple[str, ...] = ()) -> None:
        self.config = config
        self.scope = scope
        self.warnings = warnings
        """Which second copies had to be used."""

    @classmethod
    def open(cls, store: Store, unlocker: Unlocker, scope: str | None = None) -> "Repository":
        """Open the scope with this label or hex id; None for the only one.

        Raises `NotFoundError`, `WrongKeyError`, `UnsupportedError` or `DamagedError`.
        """
        config, warnings = _read_config(store)
        unlocked, more = _unlock(store, config, unlocker)
        config.check_signature(unlocked.owner_vk)
        if config.repository != unlocked.repository:
            raise DamagedError("config: is of another repository than the key file")
        info = _choose_scope(config, unlocked.keyring, scope)
        opened = Scope(store, config, info.id, unlocked.keyring)
        return cls(config, opened, (*warnings, *more))

    def snapshots(self, problem: Callable[[ReadError], None] | None = None) -> list[Snapshot]:
        """All snapshots of the scope, by start time.

        A damaged one goes to `problem` and the rest goes on; without `problem` it is raised.
        """
        found = []
        for name in self.scope.register_names():
            try:
                register, signer = self.scope.register(name)
                if register.state == "COMMITTED":
                    found.append(self.load(register, signer))
            except ReadError as exc:
                if problem is None:
                    raise
                problem(exc)
        return sorted(found, key=lambda one: (one.started, one.id))

    def snapshot(self, prefix: str) -> Snapshot:
        """The one snapshot whose hex id starts with `prefix`, or the last for `latest`."""
        found = self.snapshots(lambda _: None)
        if prefix != "latest":
            found = [one for one in found if one.id.hex().startswith(prefix)]
            if len(found) > 1:
                raise NotFoundError(f"{len(found)} snapshots begin with `{ascii(prefix)[1:-1]}`")
        if not found:
            self.snapshots()  # says what is wrong, if a damaged one is the reason
            raise NotFoundError(f"no snapshot `{ascii(prefix)[1:-1]}`")
        return found[-1]

    def load(self, register: Register, signer: Signer) -> Snapshot:
        """The snapshot of a register that names a record."""
        what = f"record of snapshot {register.snapshot.hex()[:8]}"
        if register.record is None:
            raise NotFoundError(f"{what}: the register names none")
        opened = self.scope.open_named(register.record, sealing.TYPE_RECORD)
        require_writer(opened.signer, register.source, what)
        head = parse_record(opened.body, what)
        if head.is_repaired:
            require_owner(opened.signer, what)
        if (head.snapshot, head.source) != (register.snapshot, register.source):
            raise DamagedError(f"{what}: is about another snapshot or source")
        for one in (opened.signer, signer):
            self.scope.require_standing(one, what, (head.source, head.seq))
        source_key = self.scope.keyring.source_key(self.scope.id, head.epoch, head.source)
        id_ = head.snapshot + bytes(16)
        place = Place(self.config.repository, self.scope.id, what)
        seal = BlobSeal(KIND_RECORD, id_, head.suite, kdf.page_key(source_key))
        plaintext = sealing.open_blob(seal, place, head.sealed)
        detail, root, level = parse_detail(plaintext, head.snapshot)
        return Snapshot(head.snapshot, register, head, root, level, detail, opened.hash, opened.signer)

    def tree(self, snapshot: Snapshot) -> Tree:
        """The tree of a snapshot."""

        def fetch(id_: bytes) -> bytes:
            return self.scope.page(id_, snapshot.head.source)

        return Tree(fetch, snapshot.root, snapshot.root_level)

    def walk(self, snapshot: Snapshot, path: bytes = b"") -> Iterator[Node]:
        """The node at `path` and all below it, each directory before its content."""
        return self.tree(snapshot).walk(path_key(path))

    def find(self, snapshot: Snapshot, path: bytes) -> Node:
        """The node at `path`."""
        return self.tree(snapshot).find(path_key(path))

    def pieces(self, snapshot: Snapshot, node: Node) -> Iterator[Piece]:
        """A file's content in order, every chunk's id recomputed. Pieces cover its size.

        Of a partial file (in a checkpoint) they cover the prefix that was stored; a file whose
        content could not be read when it was backed up raises `NotFoundError`.
        """
        if node.kind != FILE:
            raise NotFoundError(f"not a file: {display(node.key)}")
        if node.unreadable:
            raise NotFoundError(f"was not readable when backed up: {display(node.key)}")
        offset = 0
        for extent in self.tree(snapshot).extents(node):
            data = self._extent_data(extent) if extent.kind == DATA else None
            yield Piece(offset, extent.length, data, extent.kind != HOLE)
            offset += extent.length

    def _extent_data(self, extent: Extent) -> bytes:
        chunk = self.scope.chunk(extent.chunk)
        end = extent.offset + extent.length
        if end > len(chunk):
            raise DamagedError(f"extent reaches beyond chunk {extent.chunk.hex()[:8]}")
        return chunk[extent.offset : end]


def _read_config(store: Store) -> tuple[Config, list[str]]:
    """`config`, or its copy where the first is missing or damaged; signed by the owner that it names."""
    failure: ReadError | None = None
    for key in ("config", "copies/config"):
        try:
            config = parse_config(store.get(key))
            config.check_signature(config.owner_vk)
        except UnsupportedError:
            raise
        except ReadError as exc:
            failure = failure or exc
            continue
        return config, [] if failure is None else [f"{failure}; its copy is used"]
    raise failure or NotFoundError("config: is not there")


def _unlock(store: Store, config: Config, unlocker: Unlocker) -> tuple[Unlocked, list[str]]:
    """By a key file, or by the copy of one that is missing, damaged or different, and not of the past."""
    files = {key: store.get(key) for key in store.list("keys/") if key.endswith(".json")}
    try:
        if not files:
            raise NotFoundError("the repository has no key files")
        return unlock(files, unlocker), []
    except ReadError as exc:
        copies = {}
        for key in store.list("copies/keys/"):
            name, data = key.removeprefix("copies/"), store.get(key)
            if files.get(name) != data and not _is_behind(name, data, files.get(name), config):
                copies[name] = data
        try:
            return unlock(copies, unlocker), [f"{exc}; the copy of a key file is used"]
        except ReadError:
            raise exc from None


def _is_behind(key: str, copy: bytes, first: bytes | None, config: Config) -> bool:
    """Whether a copy must not be believed: of a revoked principal, or older than its first."""
    try:
        parsed = parse_key_file(copy, key)
        if parsed.principal in config.revoked:
            return True
        return first is not None and parse_key_file(first, key).serial > parsed.serial
    except ReadError:
        return False


def path_key(path: bytes) -> bytes:
    """A path below the source's root as a key; empty components are ignored."""
    return b"\0".join(name for name in path.split(b"/") if name)


def _label(config: Config, keyring: Keyring, info: ScopeInfo) -> str | None:
    """The scope's label, or None when this role does not hold the key to it."""
    try:
        key = keyring.meta_key(info.id, 1)
    except WrongKeyError:
        return None
    salt, sealed = info.label[:LABEL_SALT_BYTES], info.label[LABEL_SALT_BYTES:]
    label = sealing.open_small("scope label", key, config.repository + info.id + salt, sealed)
    return None if label is None else label.decode("utf-8", "backslashreplace")


def _choose_scope(config: Config, keyring: Keyring, wanted: str | None) -> ScopeInfo:
    found = [
        info
        for info in config.scopes
        if wanted is None or info.id.hex() == wanted or _label(config, keyring, info) == wanted
    ]
    if len(found) != 1:
        choice = ", ".join(info.id.hex() for info in config.scopes)
        raise NotFoundError(f"{len(found)} scopes fit; there are: {choice}")
    return found[0]
