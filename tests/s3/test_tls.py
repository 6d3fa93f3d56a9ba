"""TLS that does not come about: what is wrong is told, with what to do, and nobody waits for it to pass."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pvback.runtime import SystemClock
from tests.s3.client import Client
from tests.s3.conftest import new_address
from tests.support.certificates import HOUR, certificate
from tests.support.fault_proxy import fault_proxy
from tests.support.s3_servers import S3Server
from tests.support.wrong_clock import wrong_clock

SECONDS_MAX = 20
"""What passes is asked for again for minutes; what lasts is not."""
pytestmark = pytest.mark.timeout(300)  # a server starts within it


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    top.mkdir()
    (top / "text").write_text("alpha")
    return top


@pytest.fixture
def client(service: S3Server, tmp_path: Path) -> Iterator[Client]:
    """A client behind a good certificate that it trusts."""
    with fault_proxy(service, certificate=certificate(tmp_path)) as proxy:
        trusts = {"PVBACK_S3_CA_BUNDLE": str(proxy.server.ca_bundle)}
        yield Client(proxy.server, new_address(proxy.server), tmp_path, trusts)


def ends_at_once(client: Client, words: tuple[str, ...], code: int) -> str:
    """Its errors, which a hint is among."""
    began = SystemClock().monotonic()
    errors = client.run(*words, code=code)
    assert SystemClock().monotonic() - began < SECONDS_MAX
    assert "hint:" in errors
    return errors


def test_an_authority_that_nobody_knows(client: Client, source: Path) -> None:
    trusts, client.variables = client.variables, {}
    for words in (("init",), ("snapshots",), ("backup", str(source))):
        errors = ends_at_once(client, words, 30)
        assert "the service's certificate is not to be trusted: self-signed certificate" in errors
        assert "ca_bundle" in errors
    client.variables = trusts
    client.run("init")
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")
    client.variables["PVBACK_S3_ENDPOINT"] = client.server.endpoint.replace("https", "http")
    client.run("snapshots", code=30)


def test_a_service_without_tls(client: Client, service: S3Server) -> None:
    client.variables["PVBACK_S3_ENDPOINT"] = service.endpoint.replace("http", "https")
    errors = ends_at_once(client, ("snapshots",), 30)
    assert "the service speaks no TLS" in errors
    assert "http://" in errors


# What is wrong with a certificate that is trusted, and the words and the hint by which it is told.
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": ({"begins": -2 * HOUR, "ends": -HOUR}, "certificate has expired", "clock"),
    "to come": ({"begins": HOUR, "ends": 2 * HOUR}, "certificate is not valid yet", "clock"),
    "name": (
        {"name": x509.DNSName("store.example")},
        "certificate is for another name",
        "write the endpoint with a name that is in the certificate",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_certificate_that_is_not_good(
    name: str, service: S3Server, client: Client, source: Path, tmp_path: Path
) -> None:
    settings, said, hint = WRONG[name]
    client.run("init")
    before = client.objects()
    with fault_proxy(service, certificate=certificate(tmp_path, **settings)) as proxy:
        client.variables["PVBACK_S3_ENDPOINT"] = proxy.server.endpoint
        for words in (("init",), ("snapshots",), ("backup", str(source))):
            errors = ends_at_once(client, words, 30)
            assert f"the service's {said}" in errors
            assert hint in errors.partition("hint:")[2]
            assert "ca_bundle" not in errors
    client.server = service
    assert client.objects() == before


@pytest.mark.parametrize(("span", "said"), [("+5h", "has expired"), ("-5h", "is not valid yet")])
def test_a_good_certificate_and_a_wrong_clock(span: str, said: str, client: Client) -> None:
    client.before = wrong_clock(span)
    errors = ends_at_once(client, ("snapshots",), 30)
    assert f"the service's certificate {said}" in errors
    assert "set this machine's clock" in errors


@pytest.mark.parametrize("variable", ["PVBACK_S3_CA_BUNDLE", "AWS_CA_BUNDLE"])
@pytest.mark.parametrize("file", ["missing", "folder", "empty", "text", "long", "key"])
def test_authorities_that_are_none(file: str, variable: str, client: Client, tmp_path: Path) -> None:
    client.run("init")
    given = tmp_path / ("server.key" if file == "key" else file)
    if file == "folder":
        given.mkdir()
    elif file in ("empty", "text", "long"):
        given.write_text({"empty": "", "text": "no certificate\n", "long": "no certificate\n" * 10_000}[file])
    client.variables = {variable: str(given)}
    for words in (("snapshots",), ("init",)):
        errors = ends_at_once(client, words, 2)
        assert f"error: {given}: " in errors
        assert "ca_bundle" in errors
