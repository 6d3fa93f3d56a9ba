"""The outcome that a mover leaves fits what the kubelet keeps, and what matters of it is whole."""

import json
from typing import Any

import pytest

from pvback import limits
from pvback.errors import PartlyDone, PvbackError
from pvback.ops.mover import end_message

STATS = {"file_count": 7, "source_bytes": 1 << 60, "stored_bytes": 1 << 50}
STORE = {f"operation-{number}": {"count": 10**9, "bytes": 10**15} for number in range(50)}


def outcome(*, name: str, store: dict[str, Any] | None = None, error: PvbackError | None = None) -> Any:
    examples = [f"{name * 200}"[:200] for _ in range(5)]
    result = {"snapshot": "5" * 32, "stats": STATS, "examples": examples, "store": store or {}}
    data = end_message(3, result=result, error=error)
    assert len(data) <= limits.MESSAGE_BYTES_MAX
    return json.loads(data)


@pytest.mark.parametrize("name", ["file", "Straße", "档案", "🙂", "\udcff", '"\\'])
def test_the_snapshot_is_told_whatever_files_are_called(name: str) -> None:
    result = outcome(name=name)["result"]
    assert (result["snapshot"], result["stats"]) == ("5" * 32, STATS)


def test_names_of_other_alphabets_are_told_like_all_others() -> None:
    examples = outcome(name="档")["result"]["examples"]
    assert examples == ["档" * 200] * 5


def test_what_goes_first() -> None:
    """The names of some files, then what the store was asked; the rest stays."""
    result = outcome(name="\udcff")["result"]
    assert "examples" not in result
    assert result["store"] == {}
    result = outcome(name="x", store=STORE)["result"]
    assert "examples" not in result
    assert result["store"] == STORE
    result = outcome(name="x", store={**STORE, "more": "x" * 4096})["result"]
    assert result == {"snapshot": "5" * 32, "stats": STATS}


@pytest.mark.parametrize("word", ["x", "档", "🙂", "\udcff", "\x00"])
def test_a_long_error_is_cut(word: str) -> None:
    error = PartlyDone(word * 5000, key=word * 5000, hint=word * 5000)
    found = outcome(name="档", error=error)
    assert found["exit_code"] == 3
    assert found["error"]["what"].startswith(word * 100)
    assert found["result"]["snapshot"] == "5" * 32
