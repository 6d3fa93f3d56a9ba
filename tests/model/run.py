"""Builds the model of commit and prune with Spin, row by row, and says whether each came out as it must.

`python -m tests.model.run` runs the rows of continuous integration, `--all` the larger ones too; names after
that pick rows. What was searched before and has not changed is known (`known.py`); `--anew` searches it
again. A row is clean (every state visited, no error) or a canary (a seeded bug, whose damage must be found).
Anything else fails: an error in a clean row, a canary that survives, a search that did not end within its
limits.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.model.known import fingerprint, recall, remember

HERE = Path(__file__).resolve().parent
MODEL = HERE / "protocol.pml"

# What is searched for: gcc's options, pan's options. Canaries are found faster than an optimiser is done.
SEARCHES = {
    # Assertions and processes that are stuck.
    "safety": (("-DSAFETY", "-DCOLLAPSE"), ()),
    # The same where `timeout` and `unless` are used, for which reduction does not hold.
    "drain": (("-DSAFETY", "-DCOLLAPSE", "-DNOREDUCE"), ()),
    # Cycles without progress: no label is one of progress, so any cycle.
    "loops": (("-DNP", "-DCOLLAPSE", "-DNOREDUCE"), ("-l",)),
    # A state by 64 bits of its hash and nothing else; may in principle miss states.
    "hashed": (("-DSAFETY", "-DHC4"), ()),
    # Of a canary that leaves processes stuck, only the assertions count.
    "canary": (("-O0", "-DSAFETY", "-DCOLLAPSE"), ("-E",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scope of the model.

    Attributes:
        name: Unique.
        options: Names as in protocol.pml, separated by spaces.
        search: A key of `SEARCHES`; "canary" is the one that must find an assertion violated.
        in_ci: Whether it is run by default.
        seconds_max: Longer counts as not ended.
        memory_mib: More likewise.
    """

    name: str
    options: str
    search: str = "safety"
    in_ci: bool = True
    seconds_max: int = 600
    memory_mib: int = 5500


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found."""

    errors: int
    states: int
    seconds: float
    is_complete: bool
    violated: str
    """The first assertion that failed; empty if none did."""


# Section "Scopes" of README.md lists the same names, with what they cost.
CLEAN = (
    Row(name="writer-prune", options="FORGET"),
    Row(name="all-clients-late", options="LATE=1 FORGET UNDELETE RESTORE COARSE=1 DELETE_ONE"),
    Row(name="all-clients-late-coarse", options="LATE=1 FORGET UNDELETE RESTORE COARSE=2 RESTARTS=0"),
    Row(
        name="two-prunes-late",
        options="WRITERS=0 PRUNES=2 LATE=1 FORGET UNDELETE RESTORE COARSE=1",
    ),
    Row(name="two-prunes-late-deletes", options="WRITERS=0 PRUNES=2 LATE=1 FORGET UNDELETE DELETE_ONE"),
    Row(name="writer-two-prunes", options="PRUNES=2 FORGET COARSE=1", in_ci=False, seconds_max=3600),
    Row(name="writer-two-prunes-coarse", options="PRUNES=2 REPACKS=1 FORGET COARSE=3 RESTARTS=0"),
    Row(name="two-writers", options="WRITERS=2 FORGET COARSE=1"),
    Row(name="two-writers-coarse", options="WRITERS=2 RESTARTS=1 FORGET COARSE=2"),
    Row(
        name="two-writers-late",
        options="WRITERS=2 RESTARTS=1 LATE=1 FORGET COARSE=2",
        search="hashed",
        in_ci=False,
        seconds_max=7200,
    ),
    Row(
        name="two-writers-two-prunes",
        search="hashed",
        in_ci=False,
        seconds_max=7200,
        memory_mib=12000,
        options="WRITERS=2 RESTARTS=0 PRUNES=2 REPACKS=1 SECOND_WANTS=1 FORGET COARSE=3",
    ),
    Row(
        name="two-writers-two-prunes-forgotten",
        search="hashed",
        in_ci=False,
        seconds_max=7200,
        options="WRITERS=2 RESTARTS=0 PRUNES=2 REPACKS=1 SECOND_WANTS=1 FORGOTTEN_BEFORE COARSE=3",
    ),
    Row(name="merge-restore", options="MERGE REFUSED RESTORE", seconds_max=1800),
    Row(name="merge", options="MERGE REFUSED"),
    Row(name="merge-two-prunes", options="MERGE REFUSED WRITERS=0 PRUNES=2 FORGET COARSE=1"),
    Row(name="merge-loops", options="MERGE REFUSED RESTORE WRITERS=0 COARSE=1", search="loops"),
    Row(name="merge-late", options="MERGE REFUSED LATE=1 RESTARTS=0 COARSE=1"),
    Row(name="replay-2", options="LATE=2 REPLAY FORGET COARSE=1"),
    Row(name="replay-2-once", options="LATE=2 REPLAY FORGET COARSE=1 RESTARTS=0"),
    Row(name="replay-3", options="LATE=3 REPLAY FORGET COARSE=1 RESTARTS=0"),
    # Requests that were answered and land once more, among them creates: registers that come back.
    Row(
        name="doubled-two-prunes",
        options="LATE=1 REPLAY ANSWERED PRUNES=2 REPACKS=0 FORGET COARSE=1 RESTARTS=0",
    ),
    Row(
        name="doubled-twice-two-prunes",
        options="LATE=2 REPLAY ANSWERED PRUNES=2 REPACKS=0 COARSE=2 RESTARTS=0",
    ),
    Row(
        name="doubled-objects",
        options="LATE=1 REPLAY ANSWERED PRUNES=2 REPACKS=0 OBJECTS COARSE=3 RESTARTS=0",
    ),
    Row(
        name="doubled-together",
        options="LATE=1 REPLAY ANSWERED BASES MARKS OBJECTS FORGET COARSE=1 RESTARTS=0",
    ),
    Row(
        name="doubled-two-writers",
        options="LATE=1 REPLAY ANSWERED WRITERS=2 SECOND_WANTS=1 COARSE=3 RESTARTS=0",
    ),
    Row(
        name="doubled-bases-two-prunes",
        options="LATE=1 REPLAY ANSWERED BASES PRUNES=2 REPACKS=0 COARSE=2 RESTARTS=0",
        in_ci=False,
    ),
    Row(
        name="doubled-drain",
        options="LATE=1 REPLAY ANSWERED FORGET DRAIN CRASHES=1 COARSE=1 RESTARTS=1",
        search="drain",
    ),
    Row(name="lag", options="FORGET LAG"),
    Row(name="drain", options="FORGET DRAIN CRASHES=1", search="drain"),
    Row(name="drain-late", options="LATE=1 FORGET DRAIN CRASHES=2 COARSE=1", search="drain"),
    Row(name="loops", options="LATE=1 FORGET RESTORE COARSE=1 RESTARTS=1", search="loops", in_ci=False),
    Row(name="loops-answered", options="FORGET RESTORE COARSE=1 RESTARTS=1", search="loops"),
    Row(
        name="loops-two-prunes",
        options="WRITERS=0 PRUNES=2 LATE=1 FORGET RESTORE COARSE=1",
        search="loops",
        in_ci=False,
    ),
    # Reference sets and records.
    Row(name="objects", options="OBJECTS FORGET UNDELETE RESTORE"),
    Row(name="objects-late", options="OBJECTS LATE=1 FORGET RESTORE COARSE=1"),
    Row(name="objects-late-once", options="OBJECTS LATE=1 FORGET COARSE=1 RESTARTS=0"),
    Row(name="objects-two-prunes", options="OBJECTS WRITERS=0 PRUNES=2 FORGET UNDELETE RESTORE COARSE=1"),
    Row(name="objects-lag", options="OBJECTS FORGET LAG RESTARTS=0"),
    Row(name="objects-drain", options="OBJECTS FORGET DRAIN CRASHES=1 RESTARTS=1", search="drain"),
    # The data path stores most of a reference set beside the packs, before the runs.
    Row(name="objects-early", options="OBJECTS REFS_EARLY FORGET UNDELETE RESTORE"),
    Row(name="objects-early-late", options="OBJECTS REFS_EARLY LATE=1 FORGET COARSE=1 RESTARTS=0"),
    Row(name="objects-early-lag", options="OBJECTS REFS_EARLY FORGET LAG RESTARTS=0"),
    Row(
        name="objects-early-drain",
        options="OBJECTS REFS_EARLY FORGET DRAIN CRASHES=1 RESTARTS=1",
        search="drain",
    ),
    Row(name="unfinished-early", options="REOPEN OBJECTS REFS_EARLY RESTARTS=0 COARSE=1"),
    # Repair of a lost register.
    Row(name="repair", options="REPAIR OBJECTS WRITERS=0"),
    Row(name="repair-late", options="REPAIR OBJECTS WRITERS=0 LATE=1"),
    Row(name="repair-writer", options="REPAIR OBJECTS RESTARTS=0 COARSE=1"),
    # Repairs that abandon the cycle under way; a lost register made anew, committed.
    Row(name="abandon", options="ABANDON FORGET COARSE=1"),
    Row(name="abandon-merge", options="ABANDON MERGE REFUSED WRITERS=0 PRUNES=2 COARSE=1"),
    Row(
        name="abandon-two-prunes",
        options="ABANDON BASES MARKS FORGET PRUNES=2 REPACKS=0 COARSE=3 RESTARTS=0",
        in_ci=False,
    ),
    Row(name="revive", options="REVIVE WRITERS=0 PRUNES=2"),
    Row(name="revive-writer", options="REVIVE RESTARTS=0 COARSE=1"),
    Row(name="revive-late", options="REVIVE WRITERS=0 PRUNES=2 LATE=1", in_ci=False),
    # A register that comes back OPEN beside the record of its snapshot, and who commits it.
    Row(name="unfinished", options="REOPEN OBJECTS WRITERS=0 PRUNES=2"),
    Row(name="unfinished-late", options="REOPEN OBJECTS WRITERS=0 PRUNES=2 LATE=1 COARSE=1"),
    Row(name="unfinished-writer", options="REOPEN OBJECTS RESTARTS=0 COARSE=1"),
    Row(
        name="unfinished-together",
        options="REOPEN BASES MARKS OBJECTS PRUNES=2 REPACKS=0 COARSE=3 RESTARTS=0",
    ),
    Row(name="unfinished-writer-late", options="REOPEN OBJECTS RESTARTS=0 COARSE=1 LATE=1"),
    Row(name="unfinished-writer-two-prunes", options="REOPEN OBJECTS PRUNES=2 REPACKS=0 RESTARTS=0 COARSE=1"),
    Row(name="unfinished-repair", options="REOPEN FINISH OBJECTS RESTARTS=0 COARSE=1"),
    Row(name="unfinished-doubled", options="FINISH LATE=1 REPLAY ANSWERED OBJECTS COARSE=1 RESTARTS=0"),
    Row(
        name="unfinished-doubled-two-prunes",
        options="FINISH LATE=1 REPLAY ANSWERED PRUNES=2 REPACKS=0 OBJECTS COARSE=3 RESTARTS=0",
        in_ci=False,
        seconds_max=3600,
    ),
    Row(name="unfinished-drain", options="REOPEN OBJECTS DRAIN CRASHES=1 RESTARTS=1", search="drain"),
    # Runs that are listed beside the second look at gc/state.
    Row(name="list-beside", options="LIST_BESIDE FORGET"),
    Row(name="list-beside-late", options="LIST_BESIDE FORGET LATE=1 COARSE=1 RESTARTS=0"),
    Row(name="list-beside-lag", options="LIST_BESIDE FORGET LAG"),
    Row(name="list-beside-merge", options="LIST_BESIDE MERGE REFUSED BASES COARSE=1 RESTARTS=0"),
    Row(name="list-beside-writers", options="LIST_BESIDE WRITERS=2 RESTARTS=1 FORGET COARSE=2"),
    Row(
        name="list-beside-two-prunes",
        options="LIST_BESIDE BASES MARKS PRUNES=2 REPACKS=1 FORGET COARSE=3 RESTARTS=0",
    ),
    Row(name="list-beside-drain", options="LIST_BESIDE FORGET DRAIN CRASHES=1", search="drain"),
    # Another pod goes on from a checkpoint.
    Row(name="resume", options="RESUME WRITERS=2 RESTARTS=0 COARSE=1"),
    Row(
        name="resume-late",
        options="RESUME WRITERS=2 RESTARTS=0 LATE=1 COARSE=2",
    ),
    Row(name="resume-forgotten", options="RESUME WRITERS=2 RESTARTS=0 FORGOTTEN_BEFORE COARSE=1"),
    Row(
        name="resume-two-prunes",
        options="RESUME WRITERS=2 RESTARTS=0 PRUNES=2 REPACKS=0 FORGOTTEN_BEFORE COARSE=3",
        in_ci=False,
        seconds_max=3600,
    ),
    # Several base runs.
    Row(name="bases", options="BASES WRITERS=0 PRUNES=2 FORGET UNDELETE RESTORE COARSE=1"),
    Row(name="bases-late", options="BASES WRITERS=0 PRUNES=2 LATE=1 FORGET COARSE=1"),
    Row(name="bases-writer", options="BASES PRUNES=2 REPACKS=1 FORGET COARSE=3 RESTARTS=0"),
    Row(
        name="bases-writer-fine",
        options="BASES PRUNES=2 FORGET COARSE=2 RESTARTS=0",
        in_ci=False,
        seconds_max=3600,
    ),
    Row(name="bases-merge", options="BASES MERGE REFUSED COARSE=1 RESTARTS=0"),
    Row(name="bases-merge-two-prunes", options="BASES MERGE REFUSED WRITERS=0 PRUNES=2 FORGET COARSE=1"),
    Row(
        name="bases-merge-writer",
        options="BASES MERGE REFUSED PRUNES=2 REPACKS=0 RESTARTS=0 COARSE=2",
        in_ci=False,
        seconds_max=3600,
    ),
    Row(
        name="bases-drain", options="BASES WRITERS=0 PRUNES=2 FORGET DRAIN CRASHES=1 COARSE=1", search="drain"
    ),
    # Marks that are carried.
    Row(name="marks", options="MARKS WRITERS=0 PRUNES=2 FORGET UNDELETE COARSE=1"),
    Row(name="marks-late", options="MARKS WRITERS=0 PRUNES=2 LATE=1 FORGET COARSE=1"),
    Row(name="marks-writer", options="MARKS PRUNES=2 REPACKS=1 FORGET COARSE=3 RESTARTS=0"),
    Row(name="marks-loops", options="MARKS WRITERS=0 PRUNES=2 FORGET COARSE=1", search="loops"),
    # What the code does, together.
    Row(name="together", options="BASES MARKS OBJECTS FORGET LATE=1 RESTARTS=0 COARSE=2"),
    Row(
        name="together-two-prunes",
        options="BASES MARKS OBJECTS WRITERS=0 PRUNES=2 FORGET UNDELETE COARSE=1",
    ),
)


def _canary(bug: str, options: str) -> Row:
    return Row(name=f"BUG_{bug}", options=f"{options} BUG_{bug}", search="canary", seconds_max=60)


CANARIES = (
    _canary("NO_REMARK", "FORGET LOSS_ONLY"),
    _canary("DELETE_BEFORE_DOOM", "FORGET LOSS_ONLY"),
    _canary("DEDUP_CONDEMNED", "FORGET LOSS_ONLY"),
    _canary("COMMIT_BLIND", "FORGET LOSS_ONLY"),
    _canary("COMMIT_LATE", "FORGET LATE=1 LOSS_ONLY"),
    _canary("NO_BARRIER", "FORGET LOSS_ONLY"),
    _canary("READ_ONCE", "FORGET LOSS_ONLY"),
    _canary("ACK_NO_KEEP", "FORGET LOSS_ONLY"),
    _canary("DOUBT_NOT_KEPT", "FORGET LOSS_ONLY"),
    _canary("RUN_IN_FLIGHT", "FORGET LATE=1 LOSS_ONLY"),
    _canary("TRUST_ALL", "FORGET LOSS_ONLY"),
    _canary("NO_FLOOR", "FORGET LATE=1 LOSS_ONLY"),
    _canary("NO_ROSTER", "FORGET LATE=2 REPLAY LOSS_ONLY"),
    _canary("TOLD_UNSEEN", "LATE=1 REPLAY FORGET COARSE=1 LOSS_ONLY"),
    _canary("TERMINAL_REMOVED", "LATE=1 REPLAY ANSWERED PRUNES=2 REPACKS=0 COARSE=2 RESTARTS=0 LOSS_ONLY"),
    _canary("ACK_VOID", "LATE=1 REPLAY ANSWERED PRUNES=2 REPACKS=0 COARSE=2 RESTARTS=0 LOSS_ONLY"),
    _canary("STATE_BLIND", "WRITERS=0 PRUNES=2 FORGET LOSS_ONLY"),
    _canary("DELETE_FORGOTTEN", "WRITERS=0 FORGET UNDELETE LOSS_ONLY"),
    _canary("LAG_IGNORED", "FORGET LAG LOSS_ONLY"),
    _canary("GONE_RUN_IGNORED", "MERGE LOSS_ONLY"),
    _canary("MERGE_NEWER", "MERGE LOSS_ONLY"),
    _canary("MERGE_WHILE_CONDEMNED", "BASES MERGE WRITERS=0 PRUNES=2 LOSS_ONLY"),
    _canary("MERGE_DROPS_CONDEMNED", "MERGE LOSS_ONLY"),
    _canary("MERGE_IN_DOUBT", "MERGE LATE=1 LOSS_ONLY"),
    _canary("REFS_IN_DOUBT", "OBJECTS FORGET LATE=1 LOSS_ONLY"),
    _canary("OBJECTS_LISTED_LAST", "OBJECTS FORGET LOSS_ONLY"),
    _canary("OBJECTS_OF_OPEN", "OBJECTS REFS_EARLY FORGET LOSS_ONLY"),
    _canary("OBJECTS_LAG_IGNORED", "OBJECTS FORGET LAG LOSS_ONLY"),
    _canary("REPAIR_DIRECT", "REPAIR WRITERS=0 LOSS_ONLY"),
    _canary("REPAIR_OLD_REFS", "REPAIR OBJECTS WRITERS=0 LOSS_ONLY"),
    _canary("REVIVE_UNSEEN", "REVIVE WRITERS=0 PRUNES=2 LOSS_ONLY"),
    _canary("RECORD_UNSEEN", "REOPEN OBJECTS WRITERS=0 LOSS_ONLY"),
    _canary("LOOKED_ONCE", "REOPEN OBJECTS COARSE=1 RESTARTS=0 LOSS_ONLY"),
    _canary("FINISHED_UNSEEN", "FINISH LATE=1 REPLAY ANSWERED OBJECTS COARSE=1 RESTARTS=0 LOSS_ONLY"),
    _canary("RESUME_BLIND", "RESUME WRITERS=2 RESTARTS=0 COARSE=1 LOSS_ONLY"),
    _canary("DEAD_DROPPED", "BASES WRITERS=0 PRUNES=2 FORGET LOSS_ONLY"),
    _canary("DEAD_EMPTIED", "BASES WRITERS=0 PRUNES=2 FORGET LOSS_ONLY"),
    _canary("MARK_COUNTS_OPEN", "MARKS FORGET LOSS_ONLY"),
    # No loss, but a prune that stops for good and cries wolf.
    _canary("MARKS_NEVER_ANEW", "MARKS WRITERS=0 PRUNES=2 FORGET"),
)
ROWS = CLEAN + CANARIES


def run_row(row: Row, directory: Path, *, is_anew: bool = True) -> tuple[Outcome, bool]:
    """Search a row's states in `directory`, and whether the outcome was known; `is_anew` searches anyway.

    Raises CalledProcessError when the model does not build.
    """
    options = [f"-D{option}" for option in row.options.split()]
    gcc_options, pan_options = SEARCHES[row.search]
    limit = f"-DMEMLIM={row.memory_mib}"
    build = ["gcc", "-O2", "-w", *gcc_options, "-DVECTORSZ=2048", limit, "-o", "pan", "pan.c"]
    search = ["timeout", "-s", "INT", str(row.seconds_max), "./pan", "-m200000", *pan_options]
    _build(["spin", "-a", *options, str(MODEL)], directory)
    key = fingerprint(directory, build, search, model=MODEL)
    if not is_anew and (known := recall(key)):
        return Outcome(**known), True
    _build(build, directory)
    began = time.monotonic()
    done = subprocess.run(search, cwd=directory, check=False, capture_output=True, text=True)
    outcome = parse_outcome(done.stdout + done.stderr, time.monotonic() - began)
    if not complaint(row, outcome):
        remember(key, outcome)
    return outcome, False


def _build(command: Sequence[str], directory: Path) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)


def parse_outcome(text: str, seconds: float) -> Outcome:
    """What pan's report says. Pure."""
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"^\s*(\d+(?:\.\d+e\+\d+)?) states, stored", text, re.MULTILINE)
    violated = re.search(r"assertion violated (.*) \(at depth", text)
    cut = re.search(
        r"Search not completed|out of memory|max search depth too small|hash table full", text, re.IGNORECASE
    )
    return Outcome(
        errors=int(errors[1]) if errors else 1,
        states=int(float(states[1])) if states else 0,
        seconds=seconds,
        is_complete=errors is not None and cut is None,
        violated=violated[1] if violated else "",
    )


def complaint(row: Row, outcome: Outcome) -> str:
    """What is wrong with an outcome; empty when it is as it must be. Pure."""
    if row.search == "canary":
        return "" if outcome.violated else "the seeded bug was not found"
    if outcome.errors:
        return f"an error: {outcome.violated or 'stuck, or a loop'}"
    return "" if outcome.is_complete else "the search did not end within its limits"


def trail(row: Row, directory: Path) -> Iterator[str]:
    """What happened before an error, one request a line."""
    options = [f"-D{option}" for option in row.options.split()]
    trails = sorted(str(file) for file in directory.glob("*.trail"))
    if not trails:
        return
    command = ["spin", "-k", trails[0], *options, str(MODEL)]
    shown = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    for line in shown.stdout.splitlines():
        if re.match(r"\s*([WP]\d|[RMXF]|   late) ", line):
            yield line.strip()


def choose(names: Sequence[str], *, is_all: bool) -> list[Row]:
    """The rows that are asked for. Raises SystemExit for a name that no row has."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"error: no such row: {', '.join(unknown)}")
    if names:
        return [known[name] for name in names]
    return [row for row in ROWS if row.in_ci or is_all]


def main() -> int:
    """0 when every row came out as it must, 1 when one did not, 2 when a tool is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="row")
    parser.add_argument("--all", action="store_true", help="also the rows that take longer than CI has")
    parser.add_argument("--anew", action="store_true", help="search what is known, too")
    parser.add_argument("--trail", action="store_true", help="show what led to each error, canaries included")
    arguments = parser.parse_args()
    for tool in ("spin", "gcc", "timeout"):
        if shutil.which(tool) is None:
            print(f"error: {tool} is missing", file=sys.stderr)
            return 2
    rows, failed = choose(arguments.names, is_all=arguments.all), []
    for row in rows:
        with tempfile.TemporaryDirectory(prefix="pvback-model-") as name:
            try:
                outcome, is_known = run_row(row, Path(name), is_anew=arguments.anew or arguments.trail)
            except subprocess.CalledProcessError as exc:
                print(f"FAIL {row.name}: does not build\n{exc.stdout}{exc.stderr}", flush=True)
                failed.append(row)
                continue
            wrong = complaint(row, outcome)
            state = f"FAIL ({wrong})" if wrong else "found" if row.search == "canary" else "clean"
            state += ", known" if is_known else ""
            print(
                f"{row.name:34} {outcome.states:>12,} states {outcome.seconds:>8.1f} s  {state}", flush=True
            )
            if arguments.trail or (wrong and outcome.errors):
                print(*(f"    {line}" for line in trail(row, Path(name))), sep="\n", flush=True)
        if wrong:
            failed.append(row)
    print(f"{len(rows) - len(failed)} of {len(rows)} rows as they must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
