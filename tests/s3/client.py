"""The program on a server, with nothing of this machine's settings."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvback.model import S3Address
from tests.support import warm
from tests.support.s3_servers import S3Server, client_of

PASSWORD = "correct horse"
READ_SECONDS = 2
COMMAND_SECONDS_MAX = 120


@dataclass
class Client:
    """The program, as one user of one repository has it."""

    server: S3Server
    address: S3Address
    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    """A program that runs it, with its words."""
    printed: list[str] = field(default_factory=list)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """The program, running."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PVBACK_REPOSITORY": str(self.address),
            "PVBACK_PASSWORD": PASSWORD,
            "PVBACK_S3_ENDPOINT": self.server.endpoint,
            "PVBACK_S3_CONNECT_SECONDS": "2",
            "PVBACK_S3_READ_SECONDS": str(READ_SECONDS),
            **self.server.environment,
            **self.variables,
        }
        if not self.before:
            return warm.start(words, environment)
        return subprocess.Popen(
            [*self.before, sys.executable, "-m", "pvback", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: "subprocess.Popen[str]") -> tuple[int, str, str]:
        """Exit code, output and errors, which hold no secret and no traceback."""
        try:
            output, errors = process.communicate(timeout=COMMAND_SECONDS_MAX)
        finally:
            process.kill()
        self.printed.append(f"{process.args!r}: {process.returncode}\n{output}{errors}")
        for secret in (self.server.secret_key, self.server.access_key, PASSWORD):
            assert secret not in output + errors
        assert "Traceback" not in output + errors, errors
        return process.returncode, output, errors

    def run(self, *words: str, code: int = 0) -> str:
        """What it prints. Fails with its errors when it ends with another code."""
        found, output, errors = self.finish(self.start(*words))
        assert found == code, (words, found, output, errors)
        return output if code == 0 else errors

    def count(self, *words: str) -> dict[str, Any]:
        """What a command asked of the store."""
        found: dict[str, Any] = json.loads(self.run(*words, "--json").splitlines()[-1])["store"]
        return found

    def objects(self) -> dict[str, str]:
        """Key -> ETag of everything that lies below the address."""
        pages = client_of(self.server).get_paginator("list_objects_v2")
        place = {"Bucket": self.address.bucket, "Prefix": f"{self.address.prefix}/"}
        return {
            one["Key"]: one["ETag"] for page in pages.paginate(**place) for one in page.get("Contents", ())
        }
