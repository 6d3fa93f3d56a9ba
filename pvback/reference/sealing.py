"""Opening of sealed objects, blobs, envelopes and small values; signatures (section 5 of the format).

Every function returns authentic bytes or raises: `DamagedError` when seal or signature does not
hold, `UnsupportedError` for versions and suites that this reader does not know.
"""

import hmac
import struct
from dataclasses import dataclass

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from pvback.reference import kdf
from pvback.reference.errors import DamagedError, UnsupportedError
from pvback.reference.wire import Cursor

SEGMENT_BYTES = 65_536
HEADER_BYTES = 80
TAG_BYTES = 16
ENVELOPE_BYTES = 104
SIGNATURE_BLOCK_BYTES = 240
RAW_BYTES_MAX = 16 << 20

TYPE_DATA_PACK, TYPE_META_PACK, TYPE_RUN, TYPE_REFS = 1, 2, 3, 4
TYPE_REGISTER, TYPE_RECORD, TYPE_GC_STATE, TYPE_GC_LIST, TYPE_MARKS = 5, 6, 7, 8, 9
KIND_CHUNK, KIND_PAGE, KIND_RECORD = 1, 2, 3
ROLE_OWNER, ROLE_WRITER, ROLE_MAINTAINER = 1, 3, 4

SUITES = (1, 2)
_CURVE_PRIME = 2**255 - 19
# The y coordinates of the eight points of small order; the sign bit does not matter.
_SMALL_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = {0, 1, _CURVE_PRIME - 1, _SMALL_ORDER_8, _CURVE_PRIME - _SMALL_ORDER_8}


@dataclass(frozen=True)
class Place:
    """Where an object belongs: repository D, scope S, and its name, the key without `s/<S>/`."""

    repository: bytes
    scope: bytes
    name: str

    @property
    def bound(self) -> bytes:
        """What seals and signatures bind: u16 length and the name's bytes."""
        name = self.name.encode()
        return struct.pack("<H", len(name)) + name


@dataclass(frozen=True)
class Header:
    """The first 80 bytes of a sealed object."""

    suite: int
    type: int
    epoch: int
    raw: bytes


@dataclass(frozen=True)
class Signer:
    """Who signed an object, from a certificate that the owner signed."""

    principal: bytes
    source: bytes | None
    role: int
    serial: int

    def is_writer_of(self, source: bytes) -> bool:
        """Whether this is a writer, and of `source` if the certificate names one."""
        return self.role == ROLE_WRITER and self.source in (None, source)


def _cipher(suite: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if suite == 1 else ChaCha20Poly1305(key)


def parse_header(data: bytes, what: str) -> Header:
    """The header of a sealed object; nothing in it is authentic before `open_object`."""
    cursor = Cursor(data[:HEADER_BYTES], what)
    cursor.magic(b"PVBKOBJ1")
    suite, type_, version, epoch = cursor.u8(), cursor.u8(), cursor.u16(), cursor.u32()
    cursor.take(64)
    if version != 1 or suite not in SUITES:
        raise UnsupportedError(f"{what}: object version {version}, suite {suite}")
    return Header(suite, type_, epoch, data[:HEADER_BYTES])


def open_object(key: bytes, place: Place, type_: int, data: bytes) -> bytes:
    """The plaintext of a whole object that must be of `type_`; `key` is K_index of its epoch."""
    header = parse_header(data, place.name)
    if header.type != type_:
        raise DamagedError(f"{place.name}: object of type {header.type}, not {type_}")
    context = header.raw[:48] + place.repository + place.scope + place.bound
    okm = kdf.derive("object", key, context, 64)
    if not hmac.compare_digest(okm[:32], header.raw[48:]):
        raise DamagedError(f"{place.name}: commitment of the header does not hold")
    cipher = _cipher(header.suite, okm[32:])
    stride = SEGMENT_BYTES + TAG_BYTES
    starts = list(range(HEADER_BYTES, len(data), stride)) or [HEADER_BYTES]
    parts: list[bytes] = []
    for index, start in enumerate(starts):
        is_last = index == len(starts) - 1
        segment = data[start : start + stride]
        if len(segment) == TAG_BYTES and index:
            raise DamagedError(f"{place.name}: empty last segment")
        nonce = b"\0\0\0" + struct.pack(">QB", index, is_last)
        try:
            parts.append(cipher.decrypt(nonce, segment, None))
        except (InvalidTag, ValueError) as exc:
            raise DamagedError(f"{place.name}: segment {index} does not open") from exc
    return b"".join(parts)


def _unpack_blob(plaintext: bytes, what: str) -> bytes:
    cursor = Cursor(plaintext, what)
    codec = cursor.u8()
    cursor.zero(1)
    dictionary, raw_bytes = cursor.u16(), cursor.u32()
    payload = cursor.take(cursor.left)
    if codec not in (0, 1) or dictionary:
        raise UnsupportedError(f"{what}: codec {codec}, dictionary {dictionary}")
    if raw_bytes > RAW_BYTES_MAX:
        cursor.fail(f"raw length {raw_bytes} is above the limit")
    if codec == 1:
        try:
            stated = zstandard.get_frame_parameters(payload).content_size
            if stated not in (raw_bytes, zstandard.CONTENTSIZE_UNKNOWN) or not raw_bytes:
                cursor.fail("zstd frame states another length")
            decompressor = zstandard.ZstdDecompressor()
            payload = decompressor.decompress(payload, max_output_size=raw_bytes, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise DamagedError(f"{what}: {exc}") from exc
    if len(payload) != raw_bytes:
        cursor.fail(f"raw length {raw_bytes}, but {len(payload)} bytes")
    return payload


@dataclass(frozen=True)
class BlobSeal:
    """How a blob is sealed: kind, id, suite, and the data key of its envelope or K_page."""

    kind: int
    id: bytes
    suite: int
    key: bytes


def open_blob(seal: BlobSeal, place: Place, data: bytes) -> bytes:
    """The raw bytes of a blob. The caller recomputes the id of chunks and pages."""
    what = f"{place.name}: blob {seal.id.hex()[:8]}"
    bound = struct.pack("<BBH", seal.kind, seal.suite, 0) + seal.id
    context = place.repository + place.scope + bound
    cipher = _cipher(seal.suite, kdf.derive("blob", seal.key, context))
    try:
        plaintext = cipher.decrypt(data[:12], data[12:], context)
    except (InvalidTag, ValueError) as exc:
        raise DamagedError(f"{what} does not open") from exc
    return _unpack_blob(plaintext, what)


def hpke_open(secret: bytes, sealed: bytes, info: bytes, what: str) -> bytes:
    """HPKE base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305, no associated data."""
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    try:
        return suite.decrypt(sealed, X25519PrivateKey.from_private_bytes(secret), info=info)
    except (InvalidTag, ValueError) as exc:
        raise DamagedError(f"{what} does not open") from exc


@dataclass(frozen=True)
class Envelope:
    """Cipher suite and epoch of blobs, and their data key, sealed to the epoch's public key.

    `sealed` is enc and ciphertext; zero in metadata packs, whose blobs need no data key.
    """

    suite: int
    epoch: int
    origin: bytes
    sealed: bytes


def parse_envelope(data: bytes, what: str) -> Envelope:
    """The 104 bytes of an envelope."""
    cursor = Cursor(data, what)
    suite = cursor.u8()
    if suite not in SUITES:
        raise UnsupportedError(f"{what}: blobs of suite {suite}")
    cursor.zero(3)
    envelope = Envelope(suite, cursor.u32(), cursor.take(16), cursor.take(80))
    cursor.end()
    return envelope


def open_envelope(secret: bytes, place: Place, envelope: Envelope) -> bytes:
    """The 32-byte data key; `secret` is the X25519 private key of the envelope's epoch."""
    epoch = struct.pack("<I", envelope.epoch)
    info = b"pvback/1 data key\0" + place.repository + place.scope + epoch + envelope.origin
    key = hpke_open(secret, envelope.sealed, info, f"{place.name}: envelope")
    if len(key) != 32:
        raise DamagedError(f"{place.name}: data key of {len(key)} bytes")
    return key


def open_small(label: str, key: bytes, context: bytes, data: bytes) -> bytes | None:
    """A small sealed value; None when its commitment says that it is under another key."""
    okm = kdf.derive(label, key, context, 64)
    if not hmac.compare_digest(okm[:32], data[:32]):
        return None
    try:
        return ChaCha20Poly1305(okm[32:]).decrypt(bytes(12), data[32:], context)
    except (InvalidTag, ValueError) as exc:
        raise DamagedError(f"sealed value `{label}` does not open") from exc


def _is_sound_point(encoded: bytes) -> bool:
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    return y < _CURVE_PRIME and y not in _SMALL_ORDER_Y


def verify(key: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Strict Ed25519: small-order or non-canonical points and s >= L are refused."""
    if len(signature) != 64 or not _is_sound_point(key) or not _is_sound_point(signature[:32]):
        raise DamagedError(f"{what}: key or signature is not acceptable")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise DamagedError(f"{what}: signature does not hold") from exc


def signed_message(place: Place, type_: int, body: bytes) -> bytes:
    """What the signature in a signature block covers."""
    bound = place.repository + place.scope + place.bound
    return b"pvback/1 sig\0" + bytes([type_]) + bound + kdf.digest(body)


def verify_block(block: bytes, place: Place, type_: int, body: bytes, owner_vk: bytes) -> Signer:
    """Check certificate and signature over `body`; the caller decides whether the role may."""
    cursor = Cursor(block, f"{place.name}: signature block")
    certificate = cursor.take(112)
    verify(owner_vk, cursor.take(64), certificate, f"{place.name}: certificate")
    signature = cursor.take(64)
    cursor.end()
    cursor = Cursor(certificate, f"{place.name}: certificate")
    cursor.magic(b"PVBKCRT1")
    if cursor.take(16) != place.repository or cursor.take(16) != place.scope:
        cursor.fail("is for another repository or scope")
    principal, source, role = cursor.take(16), cursor.take(16), cursor.u8()
    cursor.zero(3)
    serial, key = cursor.u32(), cursor.take(32)
    if role not in (ROLE_OWNER, ROLE_WRITER, ROLE_MAINTAINER):
        cursor.fail(f"role {role} does not sign")
    verify(key, signature, signed_message(place, type_, body), place.name)
    return Signer(principal, source if any(source) else None, role, serial)
