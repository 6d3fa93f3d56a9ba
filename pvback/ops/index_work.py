"""`IndexWork` by jobs of the data path."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from pvback.datapath import Listeners, run_job
from pvback.ops.rows import parse_lines
from pvback.repository.gcstate import IndexView
from pvback.repository.index_work import (
    LostBlob,
    Marks,
    PackUse,
    Rebuilt,
    Repacked,
    Salvaged,
    Survey,
    TreeRef,
    Usage,
)
from pvback.repository.repository import RepositoryAccess
from pvback.repository.sealed import Named
from pvback.runtime import Cancel

__all__ = ["NativeIndexWork"]

_NO_INDEX = IndexView((), dead=frozenset(), condemned=frozenset())


@dataclass(frozen=True, slots=True)
class NativeIndexWork:
    """See `pvback.repository.index_work.RepairWork`.

    Needs a maintainer's or an owner's key; `cancel` ends what runs.
    """

    access: RepositoryAccess
    cancel: Cancel | None = None

    def count(self, marks: Marks, *, add: Sequence[Named], remove: Sequence[Named], generation: int) -> Marks:
        """See `IndexWork.count`."""
        if not add and not remove:
            return marks
        options = {
            "marks": _marks(marks),
            "add": [named.as_json() for named in add],
            "remove": [named.as_json() for named in remove],
            "gen": generation,
        }
        result = self._run("count", _NO_INDEX, options)
        parts = tuple(Named(part["name"], part["hash"]) for part in result["parts"])
        return Marks(parts, id_count=result["ids"])

    def usage(
        self,
        view: IndexView,
        *,
        marks: Marks,
        refs: Sequence[Named],
        keep: AbstractSet[str] = frozenset(),
        spare_runs: Sequence[str] = (),
    ) -> Usage:
        """See `IndexWork.usage`."""
        options = {
            "marks": _marks(marks),
            "refs": [named.as_json() for named in refs],
            "keep": sorted(keep),
            "spare_runs": list(spare_runs),
        }
        packs: dict[str, PackUse] = {}
        revived: set[str] = set()

        def take(row: Mapping[str, Any]) -> None:
            packs[row["name"]] = _pack_use(row)
            if row["is_revived"]:
                revived.add(row["name"])

        result = self._run("usage", view, options, take=take)
        return Usage(
            packs=packs,
            needed_count=result["needed"],
            missing_count=result["missing"],
            missing_examples=tuple(result["missing_examples"]),
            revived=frozenset(revived),
        )

    def merge(self, view: IndexView, *, drop: AbstractSet[str], generation: int) -> tuple[str, ...]:
        """See `IndexWork.merge`."""
        result = self._run("merge", view, {"drop": sorted(drop), "gen": generation})
        return tuple(result["runs"])

    def repack(
        self,
        view: IndexView,
        *,
        packs: Sequence[str],
        marks: Marks,
        refs: Sequence[Named],
        generation: int,
        order: Sequence[Named] = (),
    ) -> Repacked:
        """See `IndexWork.repack`."""
        options = {
            "packs": list(packs),
            "marks": _marks(marks),
            "refs": [named.as_json() for named in refs],
            "order": [named.as_json() for named in order],
            "gen": generation,
            "pack_bytes": view.pack_bytes,
        }
        result = self._run("repack", view, options)
        return Repacked(
            packs=tuple(result["packs"]),
            runs=tuple(result["runs"]),
            moved_count=result["moved"],
            moved_bytes=result["moved_bytes"],
        )

    def rebuild(self, packs: Sequence[tuple[str, int]], *, generation: int) -> Rebuilt:
        """See `IndexWork.rebuild`."""
        listed = [{"name": name, "size": size} for name, size in packs]
        result = self._run("rebuild", _NO_INDEX, {"packs": listed, "gen": generation})
        return Rebuilt(runs=tuple(result["runs"]), problems=result["problems"])

    def survey(self, view: IndexView, *, directories: bool = False) -> Survey:
        """See `RepairWork.survey`."""
        packs: dict[str, tuple[str, int]] = {}
        incomplete: set[str] = set()

        def take(row: Mapping[str, Any]) -> None:
            name = row["name"]
            packs[name] = (f"{row['kind']}/{name[:2]}/{name}", row["object_bytes"])
            if row["is_incomplete"]:
                incomplete.add(name)

        result = self._run("survey", view, {"directories": directories}, take=take)
        return Survey(
            packs=packs,
            incomplete=frozenset(incomplete),
            damaged=result["damaged"],
            contradicting=result["contradicting"],
            missing=tuple(result["missing"]),
        )

    def salvage(
        self, view: IndexView, *, packs: Sequence[tuple[str, int]], trees: Sequence[TreeRef], generation: int
    ) -> Salvaged:
        """See `RepairWork.salvage`."""
        options = {
            "salvage": [{"name": name, "size": size} for name, size in packs],
            "snapshots": [_tree(tree) for tree in trees],
            "gen": generation,
            "pack_bytes": view.pack_bytes,
        }
        lost: list[LostBlob] = []

        def take(row: Mapping[str, Any]) -> None:
            lost.append(LostBlob(pack=row["pack"], id=row["id"], bytes=row["length"]))

        result = self._run("salvage", view, options, take=take)
        return Salvaged(
            packs=tuple(result["packs"]),
            runs=tuple(result["runs"]),
            saved_count=result["saved"],
            saved_bytes=result["saved_bytes"],
            lost=tuple(lost),
        )

    def references(self, view: IndexView, *, tree: TreeRef, first: int) -> tuple[tuple[Named, ...], int]:
        """See `RepairWork.references`."""
        result = self._run("references", view, {"snapshots": [_tree(tree)], "first": first})
        return tuple(Named(part["name"], part["hash"]) for part in result["parts"]), result["lost_pages"]

    def _run(
        self,
        verb: str,
        view: IndexView,
        options: Mapping[str, object],
        *,
        take: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """The result of a job, whose rows `take` is given. One put is on its way at a time."""

        def on_output(kind: str, data: memoryview) -> None:
            if kind == "rows" and take is not None:
                for row in parse_lines(data):
                    take(row)

        made = {**self.access.job_options(view.as_options()), **options, "puts": 1}
        return run_job(
            verb,
            self.access.keyring,
            options=made,
            store=self.access.store,
            listeners=Listeners(on_output=on_output, cancel=self.cancel or Cancel()),
            patience=self.access.patience,
        )


def _marks(marks: Marks) -> dict[str, object]:
    return {"parts": [part.as_json() for part in marks.parts], "ids": marks.id_count}


def _tree(tree: TreeRef) -> dict[str, object]:
    return {"snapshot": tree.snapshot, "source_id": tree.source, "root": tree.root, "refs": []}


def _pack_use(row: Mapping[str, Any]) -> PackUse:
    kind: Literal["data", "meta"] = "data" if row["kind"] == "data" else "meta"
    return PackUse(
        name=row["name"],
        kind=kind,
        object_bytes=row["object_bytes"],
        entry_count=row["entries"],
        entry_bytes=row["entry_bytes"],
        used_count=row["used"],
        used_bytes=row["used_bytes"],
        sole_count=row["sole"],
        is_spared=row["is_spared"],
    )
