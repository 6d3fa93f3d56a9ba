"""The signed `config` object (section 2.1 of the format)."""

from dataclasses import dataclass

from pvback.reference import kdf
from pvback.reference.errors import DamagedError, UnsupportedError
from pvback.reference.sealing import verify
from pvback.reference.wire import Fields, parse_b64, parse_fields, parse_hex

FORMAT = 1
FEATURES = frozenset(("timed-commits",))
CONFIG_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class ScopeInfo:
    """A scope as config lists it: current epoch, its X25519 public key, the sealed label."""

    id: bytes
    epoch: int
    public_key: bytes
    label: bytes


@dataclass(frozen=True)
class Config:
    """Not to be trusted before `check_signature`.

    `revoked` says for each such principal, by source, up to which `seq` its snapshots still count.
    """

    repository: bytes
    owner_vk: bytes
    serial: int
    scopes: tuple[ScopeInfo, ...]
    revoked: dict[bytes, dict[bytes, int]]
    line: bytes
    signature: bytes

    def check_signature(self, owner_vk: bytes) -> None:
        """Raise `DamagedError` unless the owner `owner_vk`, known from a key slot, signed this."""
        if owner_vk != self.owner_vk:
            raise DamagedError("config: names another owner than the key file")
        message = b"pvback/1 config\0" + kdf.digest(self.line)
        verify(owner_vk, self.signature, message, "config")


def _check_format(format_: int, min_reader: int, features: tuple[str, ...]) -> None:
    if min_reader > FORMAT:
        raise UnsupportedError(f"config: format {format_} needs a reader of format {min_reader}")
    unknown = sorted(set(features) - FEATURES)
    if unknown:
        raise UnsupportedError(f"config: features {', '.join(map(ascii, unknown))} are not known")


def _sequences(fields: Fields) -> dict[bytes, int]:
    return {parse_hex(name, 16, "config: source"): fields.integer(name) for name in fields.names()}


def parse_config(data: bytes) -> Config:
    """Raises `UnsupportedError` for a repository that this reader must refuse."""
    if len(data) > CONFIG_BYTES_MAX:
        raise DamagedError("config: above 1 MiB")
    line, newline, signature = data.removesuffix(b"\n").partition(b"\n")
    fields = parse_fields(line, "config")
    if fields.text("pvback") != "config" or not newline or not data.endswith(b"\n"):
        raise DamagedError("config: not a signed config")
    min_reader, features = fields.integer("min_reader", 1), fields.texts("features")
    _check_format(fields.integer("format", 1), min_reader, features)
    scopes = tuple(
        ScopeInfo(
            one.hex("id", 16),
            one.integer("epoch", 1, 2**32 - 1),
            one.b64("pk", 32),
            one.b64("label"),
        )
        for one in fields.objects("scopes")
    )
    if len({scope.id for scope in scopes}) != len(scopes):
        raise DamagedError("config: a scope is listed twice")
    revoked = {
        one.hex("principal", 16): _sequences(one.object("sequences")) for one in fields.objects("revoked")
    }
    return Config(
        fields.hex("repository", 16),
        fields.b64("owner_vk", 32),
        fields.integer("serial", 1, 2**32 - 1),
        scopes,
        revoked,
        line,
        parse_b64(signature.decode("latin-1"), "config: signature"),
    )
