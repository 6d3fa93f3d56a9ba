"""Sealing by the document, for tests: the way back of `pvback.reference.sealing`.

HPKE is written out here, from RFC 9180, so that an ephemeral key can be given and a repository made
from a seed is the same every time; it also checks the library that the reader uses.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from pvback.reference import kdf
from pvback.reference.sealing import Place, signed_message

RandomBytes = Callable[[int], bytes]


def _extract(salt: bytes, material: bytes) -> bytes:
    return hmac.new(salt, material, hashlib.sha256).digest()


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    block, output = b"", b""
    while len(output) < length:
        block = hmac.new(key, block + info + bytes([len(output) // 32 + 1]), hashlib.sha256).digest()
        output += block
    return output[:length]


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return _extract(salt, b"HPKE-v1" + suite + label + material)


def _labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return _expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def hpke_seal(public: bytes, ephemeral: bytes, info: bytes, plaintext: bytes, *, aad: bytes = b"") -> bytes:
    """Base mode, 0x0020 / 0x0001 / 0x0003, first message: enc and ciphertext."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    kem = b"KEM" + (0x0020).to_bytes(2, "big")
    eae = _labeled_extract(kem, b"", b"eae_prk", shared)
    secret = _labeled_expand(kem, eae, b"shared_secret", enc + public, 32)
    suite = b"HPKE" + b"".join(one.to_bytes(2, "big") for one in (0x0020, 0x0001, 0x0003))
    psk_id = _labeled_extract(suite, b"", b"psk_id_hash", b"")
    context = b"\0" + psk_id + _labeled_extract(suite, b"", b"info_hash", info)
    master = _labeled_extract(suite, secret, b"secret", b"")
    key = _labeled_expand(suite, master, b"key", context, 32)
    nonce = _labeled_expand(suite, master, b"base_nonce", context, 12)
    return enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)


def cipher(suite: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if suite == 1 else ChaCha20Poly1305(key)


def seal_object(
    key: bytes, place: Place, type_: int, epoch: int, plaintext: bytes, *, salt: bytes, suite: int = 1
) -> bytes:
    header = b"PVBKOBJ1" + struct.pack("<BBHI", suite, type_, 1, epoch) + salt
    okm = kdf.derive("object", key, header + place.repository + place.scope + place.bound, 64)
    pieces = [plaintext[at : at + 65536] for at in range(0, len(plaintext), 65536)] or [b""]
    sealed = header + okm[:32]
    for index, piece in enumerate(pieces):
        nonce = bytes(3) + index.to_bytes(8, "big") + bytes([index == len(pieces) - 1])
        sealed += cipher(suite, okm[32:]).encrypt(nonce, piece, None)
    return sealed


def seal_blob(
    key: bytes,
    place: Place,
    kind: int,
    id_: bytes,
    raw: bytes,
    *,
    nonce: bytes,
    suite: int = 1,
    compress: bool = True,
) -> bytes:
    context = place.repository + place.scope + bytes([kind, suite, 0, 0]) + id_
    packed = zstandard.ZstdCompressor(level=3).compress(raw) if compress else raw
    payload = packed if len(packed) < len(raw) else raw
    plaintext = struct.pack("<BBHI", payload is packed and compress, 0, 0, len(raw)) + payload
    return nonce + cipher(suite, kdf.derive("blob", key, context)).encrypt(nonce, plaintext, context)


def seal_small(label: str, key: bytes, context: bytes, plaintext: bytes) -> bytes:
    okm = kdf.derive(label, key, context, 64)
    return okm[:32] + ChaCha20Poly1305(okm[32:]).encrypt(bytes(12), plaintext, context)


def public_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def certificate(
    owner_seed: bytes,
    place: Place,
    principal: bytes,
    seed: bytes,
    *,
    role: int,
    source: bytes = bytes(16),
) -> bytes:
    """The certificate (112 bytes) and the owner's signature over it."""
    body = b"PVBKCRT1" + place.repository + place.scope + principal + source
    body += bytes([role, 0, 0, 0]) + struct.pack("<I", 1) + public_of(seed)
    return body + sign(owner_seed, body)


def signature_block(certified: bytes, seed: bytes, place: Place, type_: int, body: bytes) -> bytes:
    return certified + sign(seed, signed_message(place, type_, body))


def padding(length: int) -> int:
    """How many bytes bring `length` to the multiple that section 5.1 asks for."""
    step = min(max(1 << max(length.bit_length() - 4, 0), 4096), 262144)
    return -length % step
