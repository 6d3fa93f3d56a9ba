"""The reference reader against vectors from another hand, and from the RFCs."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pvback.reference import kdf, sealing
from pvback.reference.errors import DamagedError
from pvback.reference.sealing import Place
from tests.support import reference_seal as seal

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "reference_sealing.json").read_text())
h = bytes.fromhex
TREE = {name: h(value) for name, value in VECTORS["tree"].items()}
MASTER, REPOSITORY, SCOPE, PRINCIPAL = (
    h(VECTORS["inputs"][one]) for one in ("M", "repo", "scope", "principal")
)
EPOCH = VECTORS["inputs"]["epoch"]
PLACE = Place(REPOSITORY, SCOPE, "x")


def open_blob(key: bytes, kind: int, id_: bytes, data: bytes, suite: int = 1) -> bytes:
    return sealing.open_blob(sealing.BlobSeal(kind, id_, suite, key), PLACE, data)


def test_key_tree() -> None:
    write, restore = kdf.write_master(MASTER), kdf.restore_master(MASTER)
    dedup, meta = kdf.dedup_key(write, SCOPE), kdf.meta_key(write, SCOPE, EPOCH)
    source_id = kdf.source_id(dedup, VECTORS["inputs"]["source"])
    source, secret = kdf.source_key(meta, source_id), kdf.data_secret(restore, SCOPE, EPOCH)
    computed = {
        "W": write,
        "R": restore,
        "K_dom": dedup,
        "K_id": kdf.chunk_id_key(dedup),
        "K_cdc": kdf.chunker_key(dedup),
        "K_index": kdf.index_key(write, SCOPE, EPOCH),
        "K_meta": meta,
        "source_id": source_id,
        "K_src": source,
        "K_page_id": kdf.page_id_key(source),
        "K_page": kdf.page_key(source),
        "sk": secret,
        "pk": X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw(),
        "owner_seed": kdf.owner_seed(MASTER),
        "owner_vk": seal.public_of(kdf.owner_seed(MASTER)),
        "principal_seed": kdf.principal_seed(write, PRINCIPAL),
        "principal_vk": seal.public_of(kdf.principal_seed(write, PRINCIPAL)),
        "K_ident": kdf.identity_key(write, PRINCIPAL),
    }
    assert computed == TREE


@pytest.mark.parametrize("vector", VECTORS["object"], ids=lambda one: f"{one['suite']}-{one['len']}")
def test_object(vector: dict[str, Any]) -> None:
    plaintext = bytes(index % 251 for index in range(vector["len"]))
    place = Place(REPOSITORY, SCOPE, vector["name"])
    key, type_, epoch = TREE["K_index"], vector["type"], vector["epoch"]
    salt, suite = h(VECTORS["object_salt"]), vector["suite"]
    data = seal.seal_object(key, place, type_, epoch, plaintext, salt=salt, suite=suite)
    assert (data[:80].hex(), len(data)) == (vector["header"], vector["size"])
    assert kdf.digest(data).hex() == vector["blake3"]
    assert sealing.open_object(key, place, type_, data) == plaintext
    assert sealing.parse_header(data, "").epoch == epoch


def test_object_is_bound_and_whole() -> None:
    key, place = TREE["K_index"], Place(REPOSITORY, SCOPE, "refs/a")
    data = seal.seal_object(key, place, 4, 1, bytes(131_072), salt=bytes(32))
    third = seal.seal_object(key, place, 4, 1, bytes(131_073), salt=bytes(32))
    swapped = data[:80] + data[65_632:] + data[80:65_632]
    wrong = [
        data[:-1],
        data[:65_632],
        data[:80],
        data[:40],
        data + b"\0",
        data + bytes(16),
        swapped,
        third[:-17],
    ]
    for one in wrong:
        with pytest.raises(DamagedError):
            sealing.open_object(key, place, 4, one)
    for other in (Place(SCOPE, SCOPE, "refs/a"), Place(REPOSITORY, REPOSITORY, "refs/a"), PLACE):
        with pytest.raises(DamagedError):
            sealing.open_object(key, other, 4, data)
    with pytest.raises(DamagedError):
        sealing.open_object(key, place, 5, data)
    with pytest.raises(DamagedError):
        sealing.open_object(TREE["K_meta"], place, 4, data)


def test_object_has_one_form() -> None:
    """No empty last segment behind a full one, although every tag of it holds."""
    key, place = TREE["K_index"], Place(REPOSITORY, SCOPE, "refs/a")
    header = seal.seal_object(key, place, 4, 1, b"", salt=bytes(32))[:80]
    okm = kdf.derive("object", key, header[:48] + REPOSITORY + SCOPE + place.bound, 64)
    cipher = seal.cipher(1, okm[32:])
    full = cipher.encrypt(bytes(12), bytes(65_536), None)
    empty = cipher.encrypt(bytes(10) + b"\1\1", b"", None)
    with pytest.raises(DamagedError, match="empty last segment"):
        sealing.open_object(key, place, 4, header + full + empty)
    with pytest.raises(DamagedError, match="segment 0"):
        sealing.open_object(key, place, 4, header + full)


def test_certificate_is_for_one_scope() -> None:
    owner, seed, body = TREE["owner_seed"], TREE["principal_seed"], b"body"
    for elsewhere in (Place(SCOPE, SCOPE, ""), Place(REPOSITORY, REPOSITORY, "")):
        certified = seal.certificate(owner, elsewhere, PRINCIPAL, seed, role=3)
        block = seal.signature_block(certified, seed, PLACE, 3, body)
        with pytest.raises(DamagedError, match="another repository or scope"):
            sealing.verify_block(block, PLACE, 3, body, TREE["owner_vk"])
    certified = seal.certificate(owner, PLACE, PRINCIPAL, seed, role=3)
    block = seal.signature_block(certified, seed, PLACE, 3, body)
    assert sealing.verify_block(block, PLACE, 3, body, TREE["owner_vk"]).source is None


def test_blob() -> None:
    vector = VECTORS["blob"]
    raw = h(vector["chunk"]["hex"]) * vector["chunk"]["times"]
    id_, key, nonce = h(vector["id"]), h(vector["data_key"]), h(vector["nonce"])
    assert kdf.keyed(TREE["K_id"], raw) == id_
    blob = seal.seal_blob(key, PLACE, 1, id_, raw, nonce=nonce, compress=False)
    assert (len(blob), kdf.digest(blob).hex()) == (vector["len"], vector["blake3_of_blob"])
    assert open_blob(key, 1, id_, blob) == raw
    for suite in (1, 2):
        packed = seal.seal_blob(key, PLACE, 1, id_, raw, nonce=nonce, suite=suite)
        assert len(packed) < len(blob)
        assert open_blob(key, 1, id_, packed, suite) == raw
        with pytest.raises(DamagedError):
            open_blob(key, 2, id_, packed)
        with pytest.raises(DamagedError):
            open_blob(key, 1, bytes(32), packed)


def test_blob_that_inflates_is_refused() -> None:
    payload = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    without_size = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    id_, key = bytes(32), bytes(32)
    context = REPOSITORY + SCOPE + bytes([1, 1, 0, 0]) + id_
    for packed in (payload, without_size, b"", payload + b"x"):
        for raw_length in (0, 10, (1 << 20) - 1, (1 << 20) + 1, (16 << 20) + 1):
            plaintext = struct.pack("<BBHI", 1, 0, 0, raw_length) + packed
            sealed = seal.cipher(1, kdf.derive("blob", key, context)).encrypt(bytes(12), plaintext, context)
            words = "states another length" if packed == payload and raw_length <= 16 << 20 else None
            with pytest.raises(DamagedError, match=words):
                open_blob(key, 1, id_, bytes(12) + sealed)


def test_envelope() -> None:
    envelope = sealing.Envelope(1, EPOCH, PRINCIPAL, h(VECTORS["envelope"]["enc_ct"]))
    key = sealing.open_envelope(TREE["sk"], PLACE, envelope)
    assert key.hex() == VECTORS["envelope"]["opens_to"]
    for other in (
        sealing.Envelope(1, 1, PRINCIPAL, envelope.sealed),
        sealing.Envelope(1, 0, SCOPE, envelope.sealed),
    ):
        with pytest.raises(DamagedError):
            sealing.open_envelope(TREE["sk"], PLACE, other)


def test_slot_and_bundle() -> None:
    slot, bundle = VECTORS["slot"], VECTORS["bundle"]
    argon = Argon2id(
        salt=h(slot["salt"]), length=32, iterations=slot["t"], lanes=slot["p"], memory_cost=slot["m"]
    )
    key = argon.derive(slot["passphrase"].encode())
    assert key.hex() == slot["argon2id"]
    secret = sealing.open_small("slot", key, REPOSITORY + PRINCIPAL + b"passphrase", h(slot["sealed"]))
    assert secret == TREE["K_ident"] + TREE["owner_vk"] + REPOSITORY
    context = REPOSITORY + PRINCIPAL + struct.pack("<I", bundle["serial"])
    plaintext = sealing.open_small("bundle", TREE["K_ident"], context, h(bundle["sealed"]))
    assert plaintext == bundle["json"].encode()
    message = b"pvback/1 bundle\0" + context + kdf.digest(bundle["json"].encode())
    sealing.verify(TREE["owner_vk"], h(bundle["sig"]), message, "bundle")


def test_certificate_and_signature() -> None:
    """The owner signs the 112 bytes of the certificate as they are."""
    certificate, vector = h(VECTORS["cert"]["cert"]), VECTORS["sig"]
    assert len(certificate) == 112
    sealing.verify(TREE["owner_vk"], h(VECTORS["cert"]["sig"]), certificate, "certificate")
    place, body = Place(REPOSITORY, SCOPE, vector["name"]), vector["body"].encode()
    assert sealing.signed_message(place, vector["type"], body).hex() == vector["msg"]
    block = certificate + h(VECTORS["cert"]["sig"]) + h(vector["sig"])
    signer = sealing.verify_block(block, place, vector["type"], body, TREE["owner_vk"])
    assert signer == sealing.Signer(PRINCIPAL, TREE["source_id"], sealing.ROLE_WRITER, 1)
    for at in range(len(block)):
        flipped = bytearray(block)
        flipped[at] ^= 1 << (at % 8)
        with pytest.raises(DamagedError):
            sealing.verify_block(bytes(flipped), place, vector["type"], body, TREE["owner_vk"])


def test_rfc_9180_a_2() -> None:
    """Base mode of DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305; first encryption.

    Ours never has associated data, so the RFC's ciphertext is checked on the hand-written side, and
    the reader's library against that.
    """
    ephemeral = h("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
    enc = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
    recipient = h("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")
    public = X25519PrivateKey.from_private_bytes(recipient).public_key()
    assert (
        public.public_bytes_raw().hex() == "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"
    )
    info, text = b"Ode on a Grecian Urn", b"Beauty is truth, truth beauty"
    sealed = seal.hpke_seal(public.public_bytes_raw(), ephemeral, info, text, aad=b"Count-0")
    assert sealed.hex() == enc + (
        "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
    )
    sealed = seal.hpke_seal(public.public_bytes_raw(), ephemeral, info, b"Beauty")
    assert sealing.hpke_open(recipient, sealed, info, "") == b"Beauty"
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    assert sealing.hpke_open(recipient, suite.encrypt(b"k", public, info=b"i"), b"i", "") == b"k"


def test_rfc_8032_first() -> None:
    key = h("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = h(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    sealing.verify(key, signature, b"", "")
    with pytest.raises(DamagedError):
        sealing.verify(key, signature, b"x", "")
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(DamagedError):
        sealing.verify(key, signature[:32] + s.to_bytes(32, "little"), b"", "")


def test_points_of_small_order_are_refused() -> None:
    """Each is really of small order: three doublings lead to the neutral element."""
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime
    for y in sealing._SMALL_ORDER_Y:
        square = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
        x = pow(square, (prime + 3) // 8, prime)
        if x * x % prime != square:
            x = x * pow(2, (prime - 1) // 4, prime) % prime
        assert x * x % prime == square
        point = (x, y)
        for _ in range(3):
            x, y2 = point
            t = d * x * x * y2 * y2 % prime
            point = (
                2 * x * y2 * pow(1 + t, -1, prime) % prime,
                (y2 * y2 + x * x) * pow(1 - t, -1, prime) % prime,
            )
        assert point == (0, 1)
        for sign in (0, 1 << 255):
            with pytest.raises(DamagedError, match="not acceptable"):
                sealing.verify((y | sign).to_bytes(32, "little"), bytes(64), b"", "")
    for y in range(prime, 2**255):
        assert not sealing._is_sound_point(y.to_bytes(32, "little"))


def test_writer_is_deterministic() -> None:
    def make(seed: int) -> bytes:
        source = random.Random(seed)
        return seal.hpke_seal(seal.public_of(bytes(32)), source.randbytes(32), b"", source.randbytes(9))

    assert make(1) == make(1) != make(2)
