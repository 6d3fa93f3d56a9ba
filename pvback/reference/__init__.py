"""The second reader: opens a repository from `docs/format.md` alone, in plain Python.

It shares no code with the rest of pvback, so that it can serve as a test oracle, and needs only
`cryptography`, `blake3` and `zstandard`, so that data can be had where the native module does not
run. It is read-only, slow, and holds the whole index in memory.

Modules, from the bottom: `errors`, `wire` (parsing), `kdf` (key tree), `sealing`, `store`, `config`,
`keys`, `packs`, `index`, `pages`, `tree`, `snapshots`, `scope`, `repository`, `target`, `restore`,
`verify`, `__main__`.
"""

from pvback.reference.errors import DamagedError, NotFoundError, ReadError, UnsupportedError, WrongKeyError
from pvback.reference.keys import Passphrase, PrivateKey, RawSecret
from pvback.reference.repository import Piece, Repository
from pvback.reference.restore import Summary, dump, restore
from pvback.reference.snapshots import Snapshot
from pvback.reference.store import DirectoryStore, Store
from pvback.reference.verify import Report, verify

__all__ = [
    "DamagedError",
    "DirectoryStore",
    "NotFoundError",
    "Passphrase",
    "Piece",
    "PrivateKey",
    "RawSecret",
    "ReadError",
    "Report",
    "Repository",
    "Snapshot",
    "Store",
    "Summary",
    "UnsupportedError",
    "WrongKeyError",
    "dump",
    "restore",
    "verify",
]
