"""Read-only access to the objects of a repository in a local directory."""

import os
from pathlib import Path
from typing import Protocol

from pvback.reference.errors import NotFoundError


class Store(Protocol):
    """Bytes under keys. Keys are relative, with `/` between their parts."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises `NotFoundError`."""
        ...

    def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted; foreign ones included."""
        ...


class DirectoryStore:
    """A repository in a directory: one file for each object."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root)

    def get(self, key: str) -> bytes:
        """The whole file. Raises `NotFoundError`; other failures stay `OSError`."""
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
            raise NotFoundError(f"object `{key}` is not there") from exc

    def list(self, prefix: str) -> list[str]:
        """Keys of regular files below the last `/` of `prefix` that start with it."""
        top = self._root / prefix.rpartition("/")[0]
        found = []
        for folder, _, names in os.walk(top):
            base = Path(folder).relative_to(self._root).as_posix()
            found += [name if base == "." else f"{base}/{name}" for name in names]
        return sorted(key for key in found if key.startswith(prefix))
