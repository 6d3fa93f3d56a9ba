"""The native module. Only `pvback.datapath` imports it; see "The native seam" in docs/architecture.md."""

from collections.abc import Sequence
from typing import Literal, final

__version__: str

def blake3(data: bytes) -> bytes:
    """BLAKE3 of data, 32 bytes."""

def random_id() -> str:
    """16 bytes from the operating system, in hex."""

def key_pair() -> tuple[bytes, bytes]:
    """A new X25519 key pair, private and public: 32 bytes each."""

def recovery_key() -> str:
    """160 random bits in eight groups of four digits and small letters, joined by `-`; a passphrase."""

def key_facts(key_object: bytes) -> str:
    """JSON: repository, principal, serial, unlock [{kind, sealed: base64 of a command's or null}]."""

def config_facts(config: bytes) -> str:
    """JSON: repository, serial, conditional, scopes, revoked. Checks the signature by the owner it names."""

def slot_of(key_object: bytes, method: str, secret: bytes) -> int:
    """Position of the unlock entry that this opens. Raises WrongKeyError."""

def issue_key(keyring: Keyring, request_json: str) -> tuple[str, bytes]:
    """A new principal (owner only): name and bytes of its key object, without unlock entries.

    The request is `{"role", "label", "scopes": [{"scope", "sources"}]}`; sources are ids, or null for all.
    """

def issue_key_again(keyring: Keyring, key_object: bytes) -> bytes:
    """The same principal with the keys of all epochs, its unlock entries as they are (owner only)."""

def change_config(keyring: Keyring, change_json: str) -> bytes:
    """The next config (owner only): `{"epoch": scope}`, `{"scope": label}` or `{"revoke": {...}}`."""

def with_config(keyring: Keyring, config: bytes) -> Keyring:
    """The same keyring beside a later config. Raises DamagedError for an earlier one, WrongKeyError."""

def unlock_secret(keyring: Keyring, key_object: bytes) -> bytes:
    """The 80 bytes that unlock a key object: the keyring's own, or anybody's for owners."""

def add_command(keyring: Keyring, key_object: bytes, name: str, sealed: bytes) -> bytes:
    """One more unlock entry: what a command made of the secret. Raises UsageError when that shows it."""

def remove_slot(key_object: bytes, position: int) -> bytes:
    """The key object without one unlock entry. Raises UsageError for the last one."""

@final
class Stretched:
    """A passphrase made ahead into the key of one salt and cost. Stays on the native side, both of them."""

    def __new__(cls, passphrase: bytes, salt: bytes, argon2: tuple[int, int, int]) -> Stretched:
        """Without the GIL. Raises UsageError, UnsupportedFormatError for a cost out of bounds."""

@final
class Keyring:
    """An unlocked key bundle. Secrets stay on the native side; its repr shows role and principal only."""

    @staticmethod
    def init_repository(
        label: str,
        chunker_json: str,
        passphrase: bytes,
        argon2: tuple[int, int, int],
        conditional: bool | None = None,
    ) -> tuple[Keyring, bytes, str, bytes]:
        """Makes keys for a new repository: keyring of the owner, `config`, key object name, key object.

        argon2 is (memory in KiB, passes, lanes); conditional is what `config` says of the store. Raises
        UsageError for parameters out of bounds.
        """

    @staticmethod
    def unlock(
        config: bytes,
        key_objects: Sequence[tuple[str, bytes]],
        method: Literal["passphrase", "x25519", "secret"],
        secret: bytes,
        stretched: Stretched | None = None,
    ) -> Keyring:
        """Tries the key objects in turn; `stretched` saves work where it fits.

        Raises WrongKeyError, DamagedError, UnsupportedFormatError.
        """

    @property
    def role(self) -> str: ...
    @property
    def principal(self) -> str: ...
    @property
    def repository(self) -> str: ...
    @property
    def owner_fingerprint(self) -> str: ...
    def scopes(self) -> list[tuple[str, str]]:
        """(scope id, label) of each scope that this keyring opens."""

    def source_id(self, scope: str, source: str) -> str: ...
    def seal_json(self, scope: str, kind: int, name: str, body: bytes) -> bytes:
        """Pads, signs and seals a JSON body as the object `name` (key below the scope's prefix)."""

    def open_json(self, scope: str, kind: int, name: str, data: bytes) -> bytes:
        """Opens an object of JSON; checks seal, signature and who may sign it. Raises DamagedError."""

    def seal_record(self, scope: str, source: str, snapshot: str, secret_json: bytes) -> tuple[int, int, str]:
        """(suite, epoch, base64 blob) for the public part of a record."""

    def open_record(
        self, scope: str, source: str, snapshot: str, suite: int, epoch: int, sealed: str
    ) -> bytes: ...
    def list_keys(self, config: bytes, key_objects: Sequence[tuple[str, bytes]]) -> str:
        """JSON array: principal, serial, kinds of unlock entries; role, label, scopes where they can be read.

        `error` says what is wrong with one. Raises unless the config is signed by this keyring's owner.
        """

    def open_signed(self, scope: str, kind: int, name: str, data: bytes) -> tuple[bytes, str]:
        """As `open_json`, with the principal who signed it."""

    def write_state(self, scope: str) -> Literal["writes", "reads", "behind", "revoked"]:
        """Whether this key writes in a scope, and if not, why."""

    def add_slot(
        self,
        key_object: bytes,
        method: Literal["passphrase", "x25519"],
        secret: bytes,
        argon2: tuple[int, int, int],
    ) -> bytes:
        """Another way to unlock a key object, this keyring's own or (owners) anybody's; its new bytes."""

@final
class Request:
    """One thing that a job asks for. A buffer without a copy: the bytes of a put or an output, or room for
    those of a ranged get, `length` of them.
    """

    @property
    def kind(self) -> Literal["get", "put", "output"]: ...
    @property
    def key(self) -> str:
        """Object key of a get or put; kind of an output."""

    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int | None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def complete(self, data: bytes | bytearray | memoryview | None = None) -> None: ...
    def complete_filled(self, count: int) -> None:
        """The first `count` bytes of the buffer are what was read. BufferError while a view of it is left."""

    def fail(self, kind: str, message: str) -> None:
        """kind: `not_found`, `storage`, `cancelled` or `internal`."""

@final
class Job:
    """Work that runs on native threads until it is done. Every method may be called from any thread."""

    @staticmethod
    def start(verb: str, keyring: Keyring, options_json: str, source: Keyring | None = None) -> Job:
        """Raises UsageError. `source` opens the other repository that a `copy` reads."""

    def next_request(self) -> Request | None:
        """Blocks (without the GIL) until the job asks for something; None when it has ended."""

    def progress(self) -> str:
        """Counters as a JSON object; cheap."""

    def command(self, name: str, options_json: str) -> str:
        """Commands of a `backup`, a `copy` or a `browse`; answers JSON, in the caller's thread."""

    def read(self, file: int, offset: int, length: int) -> bytes:
        """A range of a file that a `browse` has open: one copy of it, without JSON around it."""

    def cancel(self) -> None: ...
    def result(self) -> str:
        """Waits for the end; JSON. Raises what the job failed with."""
