"""The cluster's own authority, what it signs, and kubeconfigs made of it."""

import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.local.layout import API, CERTIFICATES

DAYS = 30


def make_key(name: str) -> ec.EllipticCurvePrivateKey:
    """A new key in NAME.key, its public half in NAME.pub."""
    CERTIFICATES.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    path = CERTIFICATES / f"{name}.key"
    path.touch(0o600)
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (CERTIFICATES / f"{name}.pub").write_bytes(public)
    return key


def make_authority() -> None:
    """ca.key and ca.crt, which everything else is signed with."""
    key = make_key("ca")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pvback test cluster")])
    builder = _dated().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write("ca", builder.sign(key, hashes.SHA256()))


def sign(
    name: str,
    *,
    user: str,
    groups: Sequence[str] = (),
    names: Sequence[str] = (),
    addresses: Sequence[IPv4Address] = (),
) -> None:
    """NAME.key and NAME.crt for a user, or for a server with these names and addresses."""
    key = make_key(name)
    authority = x509.load_pem_x509_certificate((CERTIFICATES / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((CERTIFICATES / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])
    builder = _dated().subject_name(subject).issuer_name(authority.subject).public_key(key.public_key())
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    others = [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]
    if others:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    _write(name, builder.sign(signer, hashes.SHA256()))


def write_kubeconfig(path: Path, name: str) -> None:
    """What a client needs to be the user that NAME.crt is for; it holds all it needs itself."""

    def text(file: str) -> str:
        return (CERTIFICATES / file).read_text()

    cluster = {"server": API, "certificate-authority-data": _base64(text("ca.crt"))}
    user = {
        "client-certificate-data": _base64(text(f"{name}.crt")),
        "client-key-data": _base64(text(f"{name}.key")),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "pvback-test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "pvback-test", "context": {"cluster": "pvback-test", "user": name}}],
        "current-context": "pvback-test",
    }
    path.touch(0o600)
    path.write_text(json.dumps(config, indent=1))


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _dated() -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=DAYS))


def _write(name: str, certificate: x509.Certificate) -> None:
    (CERTIFICATES / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
