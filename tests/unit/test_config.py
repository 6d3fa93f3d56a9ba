import pickle
import sys
from pathlib import Path

import pytest

from pvback import limits
from pvback.config import (
    Config,
    Secret,
    load_config,
    load_from_config,
    load_password,
    parse_address,
    parse_size,
)
from pvback.errors import UsageError
from pvback.model import LocalAddress, S3Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/a/b", LocalAddress(Path("/a/b"))),
        ("file:///a/b", LocalAddress(Path("/a/b"))),
        ("file://localhost/a%20b", LocalAddress(Path("/a b"))),
        ("s3://bucket", S3Address("bucket", "")),
        ("s3://bucket/", S3Address("bucket", "")),
        ("s3://bucket/a/b/", S3Address("bucket", "a/b")),
    ],
)
def test_addresses(text: str, address: LocalAddress | S3Address) -> None:
    assert parse_address(text) == address


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address("r") == LocalAddress(tmp_path / "r")
    monkeypatch.setenv("HOME", "/h")
    assert parse_address("~/r") == LocalAddress(Path("/h/r"))
    assert parse_address("./s3:r") == LocalAddress(tmp_path / "s3:r")
    assert parse_address("a:b") == LocalAddress(tmp_path / "a:b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file://host/a",
        "file://",
        "file:///",
        "s3://",
        "s3:///x",
        "s3://bucket/a//b",
        "s3://b",
        "s3://bucket/../c",
        "http://x/y",
        "a\0b",
        "sftp:host:/r",
        "s3:s3.example.org/bucket",
        "rest:http",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("64k", 65536), ("64KiB", 65536), ("1.5 M", 1572864), ("2gb", 2 << 30), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1x", "k", "1 2", "0.1", True, None, "1e3"])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(UsageError, match="the flag"):
        parse_size(text, what="the flag")


def test_flags_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('repository = "/file"\nmemory_bytes = "200M"\ns3_endpoint = "http://file"\n')
    environment = {
        "PVBACK_CONFIG": str(file),
        "PVBACK_REPOSITORY": "/environment",
        "PVBACK_S3_ENDPOINT": "http://environment",
    }
    config = load_config({"s3_endpoint": "http://flag", "key_file": None}, environment=environment)
    assert config.repository == LocalAddress(Path("/environment"))
    assert config.memory_bytes == 200 * limits.MIB
    assert config.s3_endpoint == "http://flag"
    assert config.sources["repository"] == "the variable PVBACK_REPOSITORY"


def test_the_endpoint_belongs_to_the_address() -> None:
    environment = {"PVBACK_REPOSITORY": "s3://bucket/p", "PVBACK_S3_ENDPOINT": "http://localhost:9000"}
    assert load_config(environment=environment).repository == S3Address(
        "bucket", "p", "http://localhost:9000"
    )


def test_defaults() -> None:
    config = load_config(environment={})
    assert config == Config()
    assert load_config(environment={"HOME": "/h"}).cache_dir == Path("/h/.cache/pvback")
    assert load_config(environment={"HOME": "/h", "XDG_CACHE_HOME": "/c"}).cache_dir == Path("/c/pvback")
    assert load_config({"cache_dir": False}, environment={"PVBACK_CACHE_DIR": "/c"}).cache_dir is None
    with pytest.raises(UsageError, match="no repository"):
        config.require_repository()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 1", "`colour` is not a setting"),
        ('password = "x"', "`password` is not a setting"),
        ("x = [", "not readable"),
        ("repository = 7", "has to be a string"),
        ('memory_bytes = "1M"', "too small"),
        ("password_command = 7", "neither a string nor a list"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        load_config(environment={"PVBACK_CONFIG": str(file)})
    assert str(file) in str(caught.value)


def test_a_named_file_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not found"):
        load_config(environment={"PVBACK_CONFIG": str(tmp_path / "none")})


def test_one_password_source_a_layer() -> None:
    with pytest.raises(UsageError, match="PVBACK_PASSWORD and the variable PVBACK_PASSWORD_FILE"):
        load_config(environment={"PVBACK_PASSWORD": "a", "PVBACK_PASSWORD_FILE": "/f"})
    config = load_config({"password_file": "/flag"}, environment={"PVBACK_PASSWORD": "a"})
    assert (config.password, config.password_file) == (None, Path("/flag"))


def test_secrets_do_not_show() -> None:
    config = load_config(environment={"PVBACK_PASSWORD": "hunter2"})
    assert config.password is not None
    assert config.password.reveal() == "hunter2"
    assert "hunter2" not in f"{config!r} {config} {config.password} {config.password!r}"
    with pytest.raises(TypeError):
        pickle.dumps(config.password)


def revealed(config: Config) -> str | None:
    secret = load_password(config)
    return secret.reveal() if secret else None


def test_passwords_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(b" p\xc3\xa4ss \r\nsecond line\n")
    command = (sys.executable, "-c", "print('from command')")
    assert revealed(Config()) is None
    assert revealed(Config(password=Secret("direct"))) == "direct"
    assert revealed(Config(password_file=file)) == " p\xe4ss "
    assert revealed(Config(password_command=command)) == "from command"


def test_a_command_is_split_but_sees_no_shell() -> None:
    config = load_config(environment={"PVBACK_PASSWORD_COMMAND": "echo 'a  b' '$HOME; ls'"})
    assert revealed(config) == "a  b $HOME; ls"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Config(password_file=Path("/nonexistent/p")), "No such file"),
        (Config(password_file=Path("/dev/null")), "password is empty"),
        (Config(password_command=("/nonexistent/c",)), "did not start"),
        (Config(password_command=("false",)), "status 1"),
        (Config(password_command=("true",)), "password is empty"),
    ],
)
def test_passwords_that_do_not_come(config: Config, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_password(config)


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PASSWORD_COMMAND_SECONDS_MAX", 0.05)
    with pytest.raises(UsageError, match="in time"):
        load_password(Config(password_command=("sleep", "60")))


def test_what_a_copy_reads_has_an_address_and_secrets_of_its_own(tmp_path: Path) -> None:
    own = {"PVBACK_REPOSITORY": "/to", "PVBACK_PASSWORD": "ours", "PVBACK_MEMORY": "512M"}
    variables = {**own, "PVBACK_FROM_REPOSITORY": "/from", "PVBACK_FROM_S3_PROFILE": "theirs"}
    config = load_config({}, environment=variables)
    other = load_from_config(config, {}, environment=variables)
    assert other.repository == LocalAddress(Path("/from"))
    assert other.password is None, "ours does not open theirs"
    assert (other.memory_bytes, other.cache_dir) == (config.memory_bytes, config.cache_dir)
    assert other.s3.profile == "theirs"
    assert config.s3.profile is None
    flags = {"repository": "/elsewhere", "password_file": tmp_path / "password"}
    named = load_from_config(config, flags, environment={**variables, "PVBACK_FROM_PASSWORD": "secret"})
    assert named.repository == LocalAddress(Path("/elsewhere"))
    assert (named.password, named.password_file) == (None, tmp_path / "password"), "flags replace variables"
    with pytest.raises(UsageError, match="copy from"):
        load_from_config(config, {}, environment=own)
    with pytest.raises(UsageError, match="--from-password-file"):
        load_from_config(config, {"password_file": "a", "password_command": "b"}, environment=variables)
