"""Key files, the ways to unlock them, and the keys that a role holds (sections 2.2 and 4)."""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pvback.reference import kdf
from pvback.reference.errors import DamagedError, ReadError, WrongKeyError
from pvback.reference.sealing import hpke_open, open_small, verify
from pvback.reference.wire import Fields, check_version, parse_fields

KEY_FILE_BYTES_MAX = 2 << 20
SLOTS_MAX = 16
SECRET_BYTES = 80


@dataclass(frozen=True)
class Secret:
    """What every unlock entry yields: K_ident, the owner's public key, the repository's id."""

    ident: bytes = field(repr=False)
    owner_vk: bytes
    repository: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Secret":
        """From its 80 bytes. Raises `WrongKeyError` for any other length."""
        if len(data) != SECRET_BYTES:
            raise WrongKeyError(f"a raw secret has {SECRET_BYTES} bytes, not {len(data)}")
        return cls(data[:32], data[32:64], data[64:])


@dataclass(frozen=True)
class KeyFile:
    """`keys/<p>.json`; nothing in it is authentic before `open_bundle`."""

    repository: bytes
    principal: bytes
    serial: int
    salt: bytes
    unlock: tuple[Fields, ...]
    bundle: bytes
    signature: bytes


def parse_key_file(data: bytes, key: str) -> KeyFile:
    """The file named `keys/<p>.json`, which must be about p."""
    if len(data) > KEY_FILE_BYTES_MAX:
        raise DamagedError(f"{key}: above 2 MiB")
    fields = parse_fields(data, key)
    if fields.text("pvback") != "key":
        raise DamagedError(f"{key}: not a key file")
    check_version(fields, key)
    principal = fields.hex("principal", 16)
    if key != f"keys/{principal.hex()}.json":
        raise DamagedError(f"{key}: is about another principal")
    slots = tuple(fields.objects("unlock"))
    if len(slots) > SLOTS_MAX:
        raise DamagedError(f"{key}: more than {SLOTS_MAX} ways to unlock it")
    return KeyFile(
        fields.hex("repository", 16),
        principal,
        fields.integer("serial", 0, 2**32 - 1),
        fields.b64("salt", 16),
        slots,
        fields.b64("bundle"),
        fields.b64("sig", 64),
    )


class Unlocker(ABC):
    """A way to the 80-byte secret of a key file."""

    @abstractmethod
    def secrets(self, file: KeyFile) -> list[Secret]:
        """The secrets that this way yields for `file`; empty when none of its slots is for us."""


class Passphrase(Unlocker):
    """A passphrase: its UTF-8 bytes as typed, without normalisation."""

    def __init__(self, text: str) -> None:
        self._bytes = os.fsencode(text)

    def _open(self, file: KeyFile, slot: Fields) -> Secret | None:
        if (slot.text("kdf"), slot.integer("v")) != ("argon2id", 19):
            slot.fail("kdf", "is not Argon2id version 19")
        memory = slot.integer("m", 64 << 10, 1 << 20)
        passes, lanes = slot.integer("t", 3, 16), slot.integer("p", 4, 16)
        salt = slot.b64("salt", 16)
        argon = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        context = file.repository + file.principal + b"passphrase"
        data = open_small("slot", argon.derive(self._bytes), context, slot.b64("sealed"))
        return None if data is None else Secret.parse(data)

    def secrets(self, file: KeyFile) -> list[Secret]:
        """One Argon2id run for each passphrase slot."""
        slots = [slot for slot in file.unlock if slot.text("type") == "passphrase"]
        return [secret for slot in slots if (secret := self._open(file, slot))]


class PrivateKey(Unlocker):
    """An X25519 private key of 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise WrongKeyError(f"an X25519 private key has 32 bytes, not {len(secret)}")
        self._secret = secret
        public = X25519PrivateKey.from_private_bytes(secret).public_key()
        self._public = public.public_bytes_raw()

    def secrets(self, file: KeyFile) -> list[Secret]:
        """One HPKE opening for each slot of this recipient."""
        found = []
        info = b"pvback/1 unlock\0" + file.repository + file.principal
        for slot in file.unlock:
            if slot.text("type") == "x25519" and slot.b64("recipient", 32) == self._public:
                slot.integer("kem", 32, 32)
                data = hpke_open(self._secret, slot.b64("sealed"), info, "x25519 slot")
                found.append(Secret.parse(data))
        return found


class RawSecret(Unlocker):
    """The 80 bytes themselves, as movers get them."""

    def __init__(self, data: bytes) -> None:
        self._secret = Secret.parse(data)

    def secrets(self, file: KeyFile) -> list[Secret]:
        """The secret; whether it is for `file` shows when the bundle is opened."""
        return [self._secret]


class Keyring(ABC):
    """The keys of one role. A key that the role does not hold raises `WrongKeyError`."""

    role: str

    @abstractmethod
    def index_key(self, scope: bytes, epoch: int) -> bytes:
        """K_index."""

    @abstractmethod
    def source_key(self, scope: bytes, epoch: int, source: bytes) -> bytes:
        """K_src."""

    @abstractmethod
    def meta_key(self, scope: bytes, epoch: int) -> bytes:
        """K_meta."""

    @abstractmethod
    def dedup_key(self, scope: bytes) -> bytes:
        """K_dom."""

    @abstractmethod
    def data_secret(self, scope: bytes, epoch: int) -> bytes:
        """The X25519 private key of an epoch."""


class OwnerKeyring(Keyring):
    """Derives every key from M."""

    role = "owner"

    def __init__(self, master: bytes) -> None:
        self._write = kdf.write_master(master)
        self._restore = kdf.restore_master(master)

    def index_key(self, scope: bytes, epoch: int) -> bytes:
        """K_index."""
        return kdf.index_key(self._write, scope, epoch)

    def source_key(self, scope: bytes, epoch: int, source: bytes) -> bytes:
        """K_src."""
        return kdf.source_key(self.meta_key(scope, epoch), source)

    def meta_key(self, scope: bytes, epoch: int) -> bytes:
        """K_meta."""
        return kdf.meta_key(self._write, scope, epoch)

    def dedup_key(self, scope: bytes) -> bytes:
        """K_dom."""
        return kdf.dedup_key(self._write, scope)

    def data_secret(self, scope: bytes, epoch: int) -> bytes:
        """The X25519 private key of an epoch."""
        return kdf.data_secret(self._restore, scope, epoch)


class BundleKeyring(Keyring):
    """The keys listed in a restorer's, writer's or maintainer's bundle."""

    def __init__(self, role: str, bundle: Fields) -> None:
        self.role = role
        self._keys: dict[tuple[str, bytes, int, bytes], bytes] = {}
        for scope in bundle.objects("scopes"):
            id_ = scope.hex("scope", 16)
            if scope.has("domain"):
                self._keys["domain", id_, 0, b""] = scope.b64("domain", 32)
            for epoch in scope.objects("epochs"):
                self._add_epoch(id_, epoch)

    def _add_epoch(self, scope: bytes, fields: Fields) -> None:
        epoch = fields.integer("epoch", 1, 2**32 - 1)
        for name in ("index", "meta", "private"):
            if fields.has(name):
                self._keys[name, scope, epoch, b""] = fields.b64(name, 32)
        for source in fields.objects("source_keys") if fields.has("source_keys") else ():
            self._keys["source", scope, epoch, source.hex("source", 16)] = source.b64("key", 32)

    def _get(self, name: str, scope: bytes, epoch: int = 0, source: bytes = b"") -> bytes:
        key = self._keys.get((name, scope, epoch, source))
        if key is None:
            where = f"scope {scope.hex()[:8]}" + (f", epoch {epoch}" if epoch else "")
            raise WrongKeyError(f"this {self.role} key holds no `{name}` key of {where}")
        return key

    def index_key(self, scope: bytes, epoch: int) -> bytes:
        """K_index."""
        return self._get("index", scope, epoch)

    def source_key(self, scope: bytes, epoch: int, source: bytes) -> bytes:
        """K_src, listed by itself or derived from K_meta."""
        if ("source", scope, epoch, source) in self._keys:
            return self._get("source", scope, epoch, source)
        return kdf.source_key(self.meta_key(scope, epoch), source)

    def meta_key(self, scope: bytes, epoch: int) -> bytes:
        """K_meta."""
        return self._get("meta", scope, epoch)

    def dedup_key(self, scope: bytes) -> bytes:
        """K_dom."""
        return self._get("domain", scope)

    def data_secret(self, scope: bytes, epoch: int) -> bytes:
        """The X25519 private key of an epoch."""
        return self._get("private", scope, epoch)


def open_bundle(file: KeyFile, secret: Secret) -> Keyring | None:
    """The keys of `file`, their owner's signature checked; None when `secret` is of another file."""
    if secret.repository != file.repository:
        return None
    bound = file.repository + file.principal + struct.pack("<I", file.serial)
    plaintext = open_small("bundle", secret.ident, bound + file.salt, file.bundle)
    if plaintext is None:
        return None
    what = f"bundle of {file.principal.hex()[:8]}"
    message = b"pvback/1 bundle\0" + bound + kdf.digest(plaintext)
    verify(secret.owner_vk, file.signature, message, what)
    fields = parse_fields(plaintext, what)
    check_version(fields, what)
    role = fields.text("role")
    if role in ("restorer", "writer", "maintainer"):
        return BundleKeyring(role, fields)
    if role != "owner":
        fields.fail("role", "is not known")
    master = fields.b64("master", 32)
    seed = Ed25519PrivateKey.from_private_bytes(kdf.owner_seed(master))
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    if seed.public_key().public_bytes(*raw) != secret.owner_vk:
        fields.fail("master", "is of another owner")
    return OwnerKeyring(master)


@dataclass(frozen=True)
class Unlocked:
    """The result of `unlock`."""

    principal: bytes
    owner_vk: bytes
    repository: bytes
    keyring: Keyring


def _try_file(key: str, data: bytes, unlocker: Unlocker) -> Unlocked | None:
    file = parse_key_file(data, key)
    for secret in unlocker.secrets(file):
        keyring = open_bundle(file, secret)
        if keyring is not None:
            return Unlocked(file.principal, secret.owner_vk, secret.repository, keyring)
    return None


def unlock(files: Mapping[str, bytes], unlocker: Unlocker) -> Unlocked:
    """The first of `files`, by key, that opens.

    A damaged file does not keep another from opening. If none opens, raises the first damage found,
    else `WrongKeyError`.
    """
    failure: ReadError = WrongKeyError("no key file opens with this secret")
    for key in sorted(files):
        try:
            unlocked = _try_file(key, files[key], unlocker)
        except ReadError as exc:
            failure = exc if isinstance(failure, WrongKeyError) else failure
            continue
        if unlocked is not None:
            return unlocked
    raise failure
