"""The seeds that showed the canaries last time, kept in the cache: each is tried before all others.

That a canary is found is shown by a run here and now, whichever seed it is. A seed that shows it no longer,
since what is simulated has changed, costs one run more.
"""

import contextlib
import json
import os
from pathlib import Path

__all__ = ["load_likely", "save_likely"]


def _path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pvback" / "canaries.json"


def load_likely() -> dict[str, int]:
    """Canary -> seed; nothing where there is no such file, or it is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        raw = json.loads(_path().read_text(encoding="utf-8"))
        return {str(name): int(seed) for name, seed in raw.items()}
    return {}


def save_likely(found: dict[str, int]) -> None:
    """Remember these, besides what is remembered of others."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(load_likely() | found), encoding="utf-8")
    temporary.replace(path)
