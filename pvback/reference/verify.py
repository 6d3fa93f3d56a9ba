"""Check of a whole scope: every object opened, every id recomputed, every reference followed.

What is wrong becomes a finding (a line of text), never an exception, so that one damaged object does
not hide the next. How deep the check goes depends on the role: without the data secret key chunks
are not opened, and the report says so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pvback.reference import kdf
from pvback.reference.errors import DamagedError, NotFoundError, ReadError, WrongKeyError
from pvback.reference.index import Run
from pvback.reference.packs import Pack, PackEntry
from pvback.reference.pages import DATA, FILE, Node
from pvback.reference.repository import Repository
from pvback.reference.snapshots import Register, Snapshot
from pvback.reference.tree import display


@dataclass
class Report:
    """Counts of what was checked, the findings, and notes on what is odd but harmless."""

    packs: int = 0
    chunks: int = 0
    pages: int = 0
    runs: int = 0
    snapshots: int = 0
    nodes: int = 0
    chunks_not_opened: int = 0
    pages_of_unknown_source: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Verify:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._scope = repository.scope
        self._sources: set[bytes] = set()
        self._directories: dict[bytes, dict[int, PackEntry]] = {}
        self._packs: dict[bytes, Pack] = {}
        self.report = Report()

    @contextmanager
    def finding(self, where: str = "") -> Iterator[None]:
        """Turn a `ReadError` inside into a finding."""
        try:
            yield
        except ReadError as exc:
            self.report.findings.append(f"{where}: {exc}" if where else str(exc))

    def run_all(self) -> None:
        with self.finding():
            self._scope.state()
            snapshots = self._snapshots()
            self._check_packs()
            self._check_runs()
            with self.finding("index"):
                self._scope.index()
                for snapshot in snapshots:
                    with self.finding(f"snapshot {snapshot.id.hex()[:8]}"):
                        self._check_snapshot(snapshot)

    def _snapshots(self) -> list[Snapshot]:
        found: list[Snapshot] = []
        for name in self._scope.register_names():
            with self.finding():
                register, signer = self._scope.register(name)
                if register.state in ("COMMITTED", "FORGOTTEN") and register.record:
                    found.append(self._repository.load(register, signer))
                    self._check_own_runs(register)
        self._sources = {one.head.source for one in found}
        by_place = {(one.head.source, one.head.seq): one for one in found}
        if len(by_place) != len(found):
            self.report.findings.append("two snapshots of one source have the same sequence number")
        for one in found:
            before = by_place.get((one.head.source, one.head.seq - 1))
            if before is not None and one.head.prev != before.record_hash:
                self.report.findings.append(
                    f"snapshot {one.id.hex()[:8]}: does not follow its source's previous one"
                )
        return found

    def _check_own_runs(self, register: Register) -> None:
        for name in register.runs:
            is_valid = self._scope.state().counts_run(name, int(name[:16], 16))
            if is_valid and name not in self._scope.run_names():
                raise NotFoundError(f"snapshots/{register.name}: its run `{name}` is not there")

    def _check_packs(self) -> None:
        for kind, name in self._scope.pack_names():
            with self.finding():
                pack = self._scope.pack(name, kind)
                self.report.packs += 1
                self._packs[name] = Pack(b"", b"", b"", pack.envelopes, pack.raw_envelopes, pack.entries)
                self._directories[name] = {one.offset: one for one in pack.entries}
                for entry in pack.entries:
                    with self.finding(f"pack {name.hex()[:8]}"):
                        self._check_blob(pack, entry, kind)

    def _check_blob(self, pack: Pack, entry: PackEntry, kind: int) -> None:
        if kind == 1:
            try:
                self._scope.chunk_in(pack, entry)
                self.report.chunks += 1
            except WrongKeyError:
                self.report.chunks_not_opened += 1
            return
        for source in self._sources:
            try:
                self._scope.page_in(pack, entry, source)
                self.report.pages += 1
                return
            except (DamagedError, WrongKeyError):
                continue
        self.report.pages_of_unknown_source += 1

    def _check_runs(self) -> None:
        for name in self._scope.run_names():
            with self.finding(f"index/{name}"):
                self._check_run(self._scope.run(name))
                self.report.runs += 1

    def _check_run(self, run: Run) -> None:
        dead = self._scope.state().dead
        by_name = {pack.name: pack for pack in run.packs}
        for id_, location in run.entries:
            if run.filter is not None and not run.filter.may_contain(id_):
                raise DamagedError(f"its filter denies {id_.hex()[:8]}")
            if location.pack in dead:
                continue
            pack, listed = self._packs.get(location.pack), by_name[location.pack]
            if pack is None:
                raise NotFoundError(f"pack {location.pack.hex()} is not there or damaged")
            entry = self._directories[location.pack].get(location.offset)
            if entry is None or entry.length != location.length or entry.id[:16] != id_:
                raise DamagedError(f"entry {id_.hex()[:8]} is not what its pack says")
            position = listed.envelope_at(location.offset)
            if position is None or listed.envelopes[position] != pack.raw_envelopes[entry.envelope]:
                raise DamagedError(f"entry {id_.hex()[:8]}: another envelope than its pack says")

    def _check_snapshot(self, snapshot: Snapshot) -> None:
        tree = self._repository.tree(snapshot)
        chunks: set[bytes] = set()
        pages = set(tree.pages())
        for node in tree.walk():
            self.report.nodes += 1
            if node.kind == FILE:
                with self.finding(f"snapshot {snapshot.id.hex()[:8]}: {display(node.key)}"):
                    self._check_file(snapshot, node, chunks, pages.add)
        self.report.snapshots += 1
        listed: set[bytes] = set()
        for named in snapshot.register.refs:
            listed |= self._scope.refs(named)
        self._check_refs(snapshot, listed, {id_[:16] for id_ in chunks | pages})
        counts = {"chunks": len(chunks), "pages": len(pages)}
        if snapshot.head.counts != counts:
            self._note(snapshot, f"its record counts {snapshot.head.counts}, its tree has {counts}")

    def _check_refs(self, snapshot: Snapshot, listed: set[bytes], reached: set[bytes]) -> None:
        """What a set lacks, prune may delete; what it has too much is only kept too long."""
        if extra := listed - reached:
            self._note(snapshot, f"its reference set has {len(extra)} ids that its tree does not reach")
        if missing := reached - listed:
            raise DamagedError(f"its reference set lacks {len(missing)} ids that its tree reaches")

    def _note(self, snapshot: Snapshot, line: str) -> None:
        self.report.notes.append(f"snapshot {snapshot.id.hex()[:8]}: {line}")

    def _check_file(
        self, snapshot: Snapshot, node: Node, chunks: set[bytes], seen: Callable[[bytes], None]
    ) -> None:
        extents = list(self._repository.tree(snapshot).extents(node, seen))
        new = {one.chunk for one in extents if one.kind == DATA}
        chunks |= new
        if node.unreadable:
            return
        try:
            self._check_content(snapshot, node)
        except WrongKeyError:
            for id_ in new:
                if not self._scope.index().lookup(id_):
                    raise NotFoundError(f"chunk {id_.hex()} is in no index run") from None

    def _check_content(self, snapshot: Snapshot, node: Node) -> None:
        parts: list[bytes] = []
        for piece in self._repository.pieces(snapshot, node):
            if node.digest is not None:  # else content of any size would pile up
                parts.append(bytes(piece.length) if piece.data is None else piece.data)  # noqa: PERF401
        if node.digest is None or node.partial:
            return
        key = kdf.chunk_id_key(self._scope.keyring.dedup_key(self._scope.id))
        if kdf.keyed(key, b"".join(parts))[:16] != node.digest:
            raise DamagedError("content does not have the digest that the node states")


def verify(repository: Repository) -> Report:
    """Check everything that this role can open. Sound when `findings` is empty."""
    job = _Verify(repository)
    job.run_all()
    return job.report
