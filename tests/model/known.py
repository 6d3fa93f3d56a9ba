"""Outcomes that are known: a search visits the same states whenever the same verifier is built and run.

What Spin makes of the model for one row, the compiler and both commands decide the outcome; under a hash of
all of these it is kept in the cache, outside the tree. A change of the model that a row's options leave out
leaves that row known. Only outcomes that were as they must be are kept.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

FORM = b"1"
"""Changes when what a search reports is read in another way."""


def cache_folder() -> Path:
    """Where outcomes are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pvback" / "model"


def fingerprint(directory: Path, *commands: Sequence[str], model: Path) -> str:
    """Names the search that `commands` would do with the sources that Spin has made in `directory`.

    The sources name the files of the model; where these lie does not count.
    """
    gcc = subprocess.run(["gcc", "--version"], check=True, capture_output=True)
    digest = hashlib.sha256(FORM)
    for part in (gcc.stdout, json.dumps(commands).encode(), *_sources(directory, model)):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _sources(directory: Path, model: Path) -> list[bytes]:
    place = str(model.parent).encode() + b"/"
    files = sorted(path for path in directory.glob("pan.*") if path.is_file())
    return [part for path in files for part in (path.name.encode(), path.read_bytes().replace(place, b""))]


def recall(key: str) -> dict[str, Any] | None:
    """What was kept under a fingerprint; None when nothing whole is."""
    try:
        found = json.loads((cache_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(key: str, outcome: Any) -> None:
    """Keep an outcome, a dataclass."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{key}.part-{os.getpid()}"
    part.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    part.rename(folder / f"{key}.json")
