"""Where credentials may come from, and a region that is not the bucket's: the program on real servers."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.s3.conftest import new_address
from tests.support import warm
from tests.support.s3_servers import S3Server, minio

pytestmark = pytest.mark.timeout(300)  # a server starts within it

TOKEN = "a-token-of-a-service-account"
COMMAND_SECONDS_MAX = 60


class Client:
    """The program with nothing of this machine's settings but what a test gives it."""

    def __init__(self, server: S3Server, home: Path, **variables: str) -> None:
        self.home, self.server = home, server
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PVBACK_REPOSITORY": str(new_address(server)),
            "PVBACK_PASSWORD": "correct horse",
            "PVBACK_S3_ENDPOINT": server.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            **variables,
        }

    def run(self, *words: str, code: int = 0) -> str:
        """What it prints. Fails when it ends with another code, or says a secret."""
        done = warm.run(words, self.variables, seconds=COMMAND_SECONDS_MAX)
        printed = done.stdout + done.stderr
        assert done.returncode == code, (words, printed)
        for secret in (self.server.secret_key, self.server.access_key, TOKEN):
            assert secret not in printed
        return printed

    def goes_all_the_way(self) -> None:
        """From `init` to a restore that is compared."""
        source, target = self.home / "data", self.home / "target"
        source.mkdir()
        (source / "a.txt").write_text("alpha")
        self.run("init")
        self.run("backup", str(source))
        self.run("restore", "latest", "--target", str(target))
        assert (target / "a.txt").read_text() == "alpha"


@contextlib.contextmanager
def refusing_tokens() -> Iterator[str]:
    """The URL of a token service that refuses every token."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            error = "<Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>it has expired</Message>"
            body = f"<ErrorResponse><Error>{error}</Error><RequestId>1</RequestId></ErrorResponse>".encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_profile(minio_server: S3Server, tmp_path: Path) -> None:
    """Of AWS' own files, chosen by its variable or by our option, which wins."""
    config, keys = tmp_path / "config", tmp_path / "credentials"
    config.write_text("[profile night]\nregion = us-east-1\n[profile other]\nregion = us-east-1\n")
    keys.write_text(
        f"[night]\naws_access_key_id = {minio_server.access_key}\n"
        f"aws_secret_access_key = {minio_server.secret_key}\n"
        "[other]\naws_access_key_id = AKNOBODY\naws_secret_access_key = nothing\n"
    )
    files = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(keys)}
    client = Client(minio_server, tmp_path, **files)
    assert "hint:" in client.run("init", code=30)
    client.variables["AWS_PROFILE"] = "other"
    client.run("init", code=30)
    client.run("--s3-option", "profile=nobody", "snapshots", code=2)
    client.variables["PVBACK_S3_PROFILE"] = "night"
    client.goes_all_the_way()


def test_a_web_identity(moto_server: S3Server, tmp_path: Path) -> None:
    """As a service account of Kubernetes has one: a token in a file is exchanged for credentials (IRSA)."""
    token = tmp_path / "token"
    identity = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/backup",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ENDPOINT_URL_STS": moto_server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    client = Client(moto_server, tmp_path, **identity)
    # There are no other credentials: without the token nothing is to be had.
    printed = client.run("init", code=30)
    assert "credentials for S3 could not be had" in printed
    assert f"{token}: No such file" in printed
    assert "hint:" in printed
    token.write_text(TOKEN)
    client.goes_all_the_way()
    with refusing_tokens() as endpoint:
        client.variables["AWS_ENDPOINT_URL_STS"] = endpoint
        printed = client.run("snapshots", code=30)
    assert "credentials for S3 could not be had: InvalidIdentityToken" in printed
    assert "hint:" in printed
    client.variables["AWS_ENDPOINT_URL_STS"] = "http://127.0.0.1:9"
    client.variables["PVBACK_S3_RETRY_SECONDS"] = "1"
    assert "no connection" in client.run("snapshots", code=30)


def test_another_region(tmp_path: Path) -> None:
    """A bucket elsewhere: the service names its region, and the client signs for that."""
    (tmp_path / "server").mkdir()
    with minio(tmp_path / "server", region="eu-central-1") as server:
        client = Client(server, tmp_path, **server.environment)
        client.goes_all_the_way()
        client.variables["AWS_REGION"] = "us-west-2"
        found = json.loads(client.run("snapshots", "--json"))
        assert len(found) == 1
