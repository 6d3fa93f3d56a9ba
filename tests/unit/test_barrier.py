"""What a prune asks of the registers that it has read."""

from datetime import UTC, datetime, timedelta

from pvback.repository.barrier import Registers
from pvback.repository.registers import Register, RegisterState
from pvback.repository.sealed import Named

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_of_each_source_the_newest_snapshot_tells_the_order() -> None:
    """Newest is who came last among its source's, not who was written last: one may be brought back."""
    registers = Registers()

    def add(
        name: str, source: str, sequence: int, hour: int, state: RegisterState = RegisterState.COMMITTED
    ) -> None:
        registers.found[name] = Register(
            generation=1,
            snapshot=name,
            source=source,
            state=state,
            ack=1,
            started=START,
            sequence=sequence,
            refs=(Named(f"{name}-0", ""), Named(f"{name}-1", "")),
        )
        registers.mtimes[name] = START + timedelta(hours=hour)

    assert registers.newest_refs() == ()
    add("a1", "a", 1, 9)
    add("a2", "a", 2, 3)
    add("b7", "b", 7, 5)
    add("b6", "b", 6, 4)
    add("b8", "b", 8, 6, RegisterState.FORGOTTEN)
    add("c1", "c", 1, 7, RegisterState.OPEN)
    assert [part.name for part in registers.newest_refs()] == ["b7-0", "b7-1", "a2-0", "a2-1"]
