"""What this client remembers of packs that it has read: when each was found to be good.

An accelerator only: where the memory is lost, packs are read again. It lies in the cache directory, and holds
no more packs than the repository lists. For each pack two times are kept: when its outer seals were opened
last, which any key can, and when everything in it was opened as well.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pvback import limits
from pvback.repository.cache_file import locked, replace_json
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Clock

__all__ = ["Verified", "VerifiedFile", "VerifiedShare"]

_SPANS = {"1d": 1, "7d": 7, "30d": 30, "90d": 90}
_SAVE_SECONDS = 10.0

Times = dict[str, tuple[int, int]]
"""Pack -> seconds since 1970 when its seals, and when all that is in it was opened; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedShare:
    """How much was read how long ago, of what the index lists. Bytes of objects."""

    total_bytes: int = 0
    within: Mapping[str, int] = field(default_factory=dict)
    """`1d`, `7d`, `30d`, `90d` -> bytes that were read no longer ago; each holds those before it."""
    never_bytes: int = 0
    """Never, or before this client's memory."""
    is_opened: bool = True
    """What is counted is that all content was opened; else that the outer seals were."""
    oldest: datetime | None = None
    """When that was read which was read longest ago."""


class VerifiedFile:
    """The memory of one scope in a file for several processes at once. Trouble with it is ignored."""

    def __init__(self, folder: Path, *, repository: str, scope: str) -> None:
        self._path = folder / repository / f"verified-{scope}.json"

    @classmethod
    def of(cls, access: RepositoryAccess) -> "VerifiedFile | None":
        """The one for a repository; None without a cache."""
        folder = access.config.cache_dir
        if folder is None:
            return None
        return cls(folder, repository=access.facts.repository, scope=access.objects.scope)

    def load(self) -> Times:
        """What is remembered; nothing where the file does not say it."""
        try:
            raw = json.loads(self._path.read_bytes())
            return {str(name): (int(times[0]), int(times[1])) for name, times in raw["packs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return {}

    def merge(self, new: Times, *, listed: Iterable[str] | None = None) -> None:
        """Remember what is newer; of packs that are not `listed`, nothing."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self._path):
                times = self.load()
                for name, (seals, content) in new.items():
                    known = times.get(name, (0, 0))
                    times[name] = (max(seals, known[0]), max(content, known[1]))
                if listed is not None:
                    kept = set(listed)
                    times = {name: one for name, one in times.items() if name in kept}
                newest = sorted(times.items(), key=lambda one: one[1], reverse=True)
                replace_json(self._path, {"packs": dict(newest[: limits.VERIFIED_PACK_COUNT_MAX])})


class Verified:
    """The memory as one check uses and extends it. Safe to use from several threads."""

    def __init__(self, file: VerifiedFile | None, *, clock: Clock) -> None:
        self._file, self._clock = file, clock
        self._known = file.load() if file is not None else {}
        self._new: Times = {}
        self._listed: tuple[str, ...] | None = None
        self._saved = clock.monotonic()
        self._lock = threading.Lock()
        self._is_opened = True

    def plan(self, names: Sequence[str], *, seed: int, max_age: timedelta | None) -> list[str]:
        """Names of packs in the order in which to read them: those read longest ago first. Packs that were
        read within `max_age` are left out. Among those never read, `seed` decides.
        """
        self._listed = tuple(names)
        now = self._clock.now().timestamp()

        def rank(name: str) -> bytes:
            return hashlib.sha256(f"{seed}:{name}".encode()).digest()

        # Whether this key opens content shows when packs are read; until then the lesser time has to do.
        times = {name: min(self._known.get(name, (0, 0))) for name in names}
        if all(time == 0 for time in times.values()):
            times = {name: max(self._known.get(name, (0, 0))) for name in names}
        due = [name for name in names if max_age is None or times[name] < now - max_age.total_seconds()]
        return sorted(due, key=lambda name: (times[name], rank(name)))

    def note(self, name: str, *, is_opened: bool) -> None:
        """A pack was read and is good."""
        now = int(self._clock.now().timestamp())
        with self._lock:
            self._new[name] = (now, now if is_opened else 0)
            self._is_opened = self._is_opened and is_opened
            is_due = self._clock.monotonic() - self._saved >= _SAVE_SECONDS
        if is_due:
            self.save()

    def save(self) -> None:
        """Remember what was noted."""
        with self._lock:
            new, self._saved = dict(self._new), self._clock.monotonic()
        if self._file is not None and new:
            self._file.merge(new, listed=self._listed)

    def share(self, packs: Mapping[str, int]) -> VerifiedShare:
        """How much of these, name -> bytes, was read how long ago."""
        now = self._clock.now().timestamp()
        times = {**self._known, **self._new}
        place = 1 if self._is_opened else 0
        ages = [(times.get(name, (0, 0))[place], size) for name, size in packs.items()]
        read = [(time, size) for time, size in ages if time]
        return VerifiedShare(
            total_bytes=sum(packs.values()),
            within={
                span: sum(size for time, size in read if time >= now - days * 86400)
                for span, days in _SPANS.items()
            },
            never_bytes=sum(size for time, size in ages if not time),
            is_opened=self._is_opened,
            oldest=datetime.fromtimestamp(min(time for time, _ in read), UTC) if read else None,
        )
