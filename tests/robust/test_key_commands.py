"""Keys that a command seals and opens, as a KMS would; with real processes."""

import sys
from pathlib import Path

import pytest

from pvback import limits
from pvback.errors import UsageError
from pvback.repository.key_commands import seal_with_command
from tests.robust.world import World

PROGRAM = """
import base64, sys
data = sys.stdin.buffer.read()
key = open({key!r}, "rb").read()
if sys.argv[1] == "open":
    data = base64.b64decode(data)
    if not data.startswith(b"sealed"):
        sys.exit("not mine")
    data = data[6:]
mixed = bytes(a ^ b for a, b in zip(data, key, strict=True))
sys.stdout.buffer.write(base64.b64encode(b"sealed" + mixed) if sys.argv[1] == "seal" else mixed)
"""


@pytest.fixture
def kms(tmp_path: Path) -> str:
    key = tmp_path / "kms.key"
    key.write_bytes(bytes(range(80, 160)))
    program = tmp_path / "kms.py"
    program.write_text(PROGRAM.format(key=str(key)))
    return f"{sys.executable} {program}"


def test_a_command_seals_and_opens(world: World, tmp_path: Path, kms: str) -> None:
    added = world.good(
        "key", "add", "--role", "restorer", "--command", f"{kms} seal", "--command-name", "kms"
    )
    principal = added.text.split()[1]
    assert "command kms" in world.good("key", "list").text
    holder = World(world.repository, tmp_path / "cache", extra={"PVBACK_KEY_COMMAND": f"{kms} open"})
    environment = {**holder.environment(), "PVBACK_PASSWORD": None}
    done = holder.run("key", "check", env=environment).ended(0)
    assert f"key {principal}, restorer, opened by command kms" in done.text
    # A rotation does not ask the command.
    world.good("key", "rotate")
    holder.run("snapshots", env=environment).ended(0)
    flag = World(world.repository, tmp_path / "cache")
    flag.run("--key-command", f"{kms} open", "key", "check", env=environment).ended(0)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("cat", "it seals nothing"),
        ("base64", "it seals nothing"),
        (f"{sys.executable} -c 'import sys; print(sys.stdin.buffer.read().hex())'", "it seals nothing"),
        ("true", "nothing, or too much"),
        ("false", "failed"),
        ("/nonexistent/kms", "did not start"),
    ],
)
def test_what_seals_nothing_is_refused(world: World, command: str, what: str) -> None:
    before = world.objects()
    done = world.run("key", "add", "--command", command)
    done.ended(2)
    assert what in done.err
    assert world.objects().keys() == before.keys()


@pytest.mark.parametrize("command", ["false", "cat", "true"])
def test_what_opens_nothing(world: World, tmp_path: Path, kms: str, command: str) -> None:
    world.good("key", "add", "--command", f"{kms} seal")
    environment = {**world.environment(), "PVBACK_KEY_FILE": None, "PVBACK_KEY_COMMAND": command}
    done = world.run("snapshots", env=environment).ended(12)
    assert "key command" in done.err


def test_a_command_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_COMMAND_SECONDS_MAX", 0.2)
    with pytest.raises(UsageError, match="in time") as caught:
        seal_with_command(["sleep", "30"], b"s3cret" * 20)
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_no_secret_is_shown(world: World, tmp_path: Path, kms: str) -> None:
    told = tmp_path / "told"
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import sys, os\n"
        f"data = sys.stdin.buffer.read(); open({str(told)!r}, 'wb').write(data)\n"
        "assert not any(data[:32].hex() in one for one in sys.argv)\n"
        "sys.exit(4)\n"
    )
    done = world.run("key", "add", "--command", f"{sys.executable} {spy}").ended(2)
    secret = told.read_bytes()
    assert len(secret) == 80
    for shown in (secret[:32].hex(), repr(secret[:32])[2:-1]):
        assert shown not in done.err + done.text
