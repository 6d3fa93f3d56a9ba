"""Errors, value types, clocks: the layers without decisions."""

import pickle
import threading

import pytest

import pvback
from pvback import errors
from pvback.errors import DamagedError, Interrupted, PvbackError, UsageError
from pvback.model import ChunkId, Extent, PackId, SnapshotId
from pvback.runtime import Cancel, ManualClock, Random, SeededRandom, SystemClock, SystemRandom


def all_errors() -> list[type[PvbackError]]:
    found = [PvbackError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


def test_the_tree_is_drawn_and_exported() -> None:
    assert sorted(kind.__name__ for kind in all_errors()) == errors.__all__
    assert errors.__doc__ is not None
    lines = [line.strip("│├└─ ").split() for line in errors.__doc__.split("```")[1].strip().splitlines()]
    drawn = {line[0]: int(line[1]) for line in lines}
    assert drawn == {kind.__name__: kind.exit_code for kind in all_errors()}


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = DamagedError("tag does not match", key="packs/00/ab", offset=4096, hint="run `pvback repair`")
    assert str(error) == "packs/00/ab: tag does not match at offset 4096"
    assert error.as_dict() == {
        "error": "DamagedError",
        "exit_code": 20,
        "what": "tag does not match",
        "key": "packs/00/ab",
        "offset": 4096,
        "hint": "run `pvback repair`",
    }
    assert str(UsageError("no")) == "no"
    assert UsageError("no", offset=0).as_dict() == {
        "error": "UsageError",
        "exit_code": 2,
        "what": "no",
        "offset": 0,
    }


@pytest.mark.parametrize("kind", all_errors())
def test_errors_survive_pickling(kind: type[PvbackError]) -> None:
    error = pickle.loads(pickle.dumps(kind("w", key="k", offset=1, hint="h")))
    assert (type(error), error.what, error.key, error.offset, error.hint) == (kind, "w", "k", 1, "h")


def test_ids() -> None:
    raw = bytes(range(16))
    snapshot = SnapshotId(raw)
    assert str(snapshot) == raw.hex()
    assert snapshot.short == "00010203"
    assert SnapshotId.parse(str(snapshot)) == snapshot
    assert len({snapshot, SnapshotId(raw), PackId(raw)}) == 2
    assert repr(ChunkId(bytes(32))) == "ChunkId(00000000)"
    for text in ("", "00", "0" * 31, "0" * 33, "G" * 32, "A" * 32, " " + "0" * 31, "\u0660" * 32):
        with pytest.raises(UsageError):
            SnapshotId.parse(text)
    with pytest.raises(UsageError):
        ChunkId(raw)


def test_extents() -> None:
    assert Extent(5, 10).end == 15
    for offset, length in ((-1, 1), (0, 0)):
        with pytest.raises(AssertionError):
            Extent(offset, length)


def test_a_manual_clock_moves_by_itself_only() -> None:
    clock = ManualClock()
    start = clock.now()
    clock.sleep(90.0)
    assert clock.monotonic() == 90.0
    assert (clock.now() - start).total_seconds() == 90.0


def test_cancel_ends_a_sleep() -> None:
    cancel = Cancel()
    cancel.check()
    threading.Timer(0.0, cancel.set, ["terminated"]).start()
    with pytest.raises(Interrupted, match="terminated"):
        SystemClock().sleep(60.0, cancel)
    cancel.set("later")
    with pytest.raises(Interrupted, match="terminated"):
        ManualClock().sleep(1.0, cancel)


@pytest.mark.parametrize("random", [SystemRandom(), SeededRandom(7)], ids=["system", "seeded"])
def test_random_numbers_are_in_range(random: Random) -> None:
    assert len(random.bytes(12)) == 12
    assert {random.below(3) for _ in range(200)} == {0, 1, 2}
    fractions = [random.fraction() for _ in range(200)]
    assert 0 <= min(fractions) < 0.2
    assert 0.8 < max(fractions) < 1


def test_seeds_repeat() -> None:
    assert SeededRandom(5).bytes(8) == SeededRandom(5).bytes(8) != SeededRandom(6).bytes(8)


def test_the_public_names() -> None:
    assert set(errors.__all__) <= set(pvback.__all__)
    for name in pvback.__all__:
        assert getattr(pvback, name) is not None
