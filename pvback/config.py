"""Configuration: a TOML file, the environment and flags, in rising order, become one frozen `Config`.

The only module that reads the environment. Flags arrive as a mapping from the command line or from a caller
of the Python API, under the field names of `Config`; None means not given. `s3_options` is a list of
`NAME=VALUE` there. S3 credentials are not ours: the AWS client finds them where it always does.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pvback import limits
from pvback.errors import UsageError
from pvback.model import LocalAddress, RepositoryAddress, S3Address
from pvback.s3_options import S3Options, parse_s3_options, parse_size

__all__ = [
    "Config",
    "Secret",
    "is_debugging",
    "load_config",
    "load_from_config",
    "load_password",
    "parse_address",
    "parse_size",
    "split_command",
]

PASSWORD_FIELDS = ("password", "password_file", "password_command")
S3_MARK = "s3."
"""Begins the names of S3 options among those of settings."""
ENVIRONMENT = {
    "PVBACK_REPOSITORY": "repository",
    "PVBACK_PASSWORD": "password",
    "PVBACK_PASSWORD_FILE": "password_file",
    "PVBACK_PASSWORD_COMMAND": "password_command",
    "PVBACK_KEY_FILE": "key_file",
    "PVBACK_KEY_COMMAND": "key_command",
    "PVBACK_CACHE_DIR": "cache_dir",
    "PVBACK_MEMORY": "memory_bytes",
    "PVBACK_LIMIT_UPLOAD": "upload_bytes_per_second",
    "PVBACK_LIMIT_DOWNLOAD": "download_bytes_per_second",
    "PVBACK_S3_ENDPOINT": "s3_endpoint",
}
S3_VARIABLES = {f"PVBACK_S3_{item.name.upper()}": f"{S3_MARK}{item.name}" for item in fields(S3Options)}
# What a copy reads has an address and secrets of its own; everything else is common to both.
FROM_FIELDS = (*PASSWORD_FIELDS, "repository", "key_file", "key_command", "s3_endpoint")
FROM_ENVIRONMENT = {
    variable.replace("PVBACK_", "PVBACK_FROM_", 1): name
    for variable, name in (ENVIRONMENT | S3_VARIABLES).items()
    if name in FROM_FIELDS or name.startswith(S3_MARK)
}
CONFIG_VARIABLE = "PVBACK_CONFIG"
DEBUG_VARIABLE = "PVBACK_DEBUG"


class Secret:
    """A string that shows up in no repr, log, traceback or pickle. Compares only by `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a run was asked to use. At most one of the three password fields is set."""

    repository: RepositoryAddress | None = None
    password: Secret | None = None
    password_file: Path | None = None
    password_command: tuple[str, ...] | None = None
    key_file: Path | None = None
    key_command: tuple[str, ...] | None = None
    """Undoes what `pvback key add --command` was given to seal a key with."""
    cache_dir: Path | None = None
    """None: run without a cache."""
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    upload_bytes_per_second: int | None = None
    download_bytes_per_second: int | None = None
    s3_endpoint: str | None = None
    s3: S3Options = field(default_factory=S3Options)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each field that was set came from, for messages: a flag, a variable, a file."""

    def require_repository(self) -> RepositoryAddress:
        """The repository's address; UsageError when none was given."""
        if self.repository is None:
            raise UsageError(
                "no repository was given", hint="use `--repository` or set the variable PVBACK_REPOSITORY"
            )
        return self.repository


def load_config(
    flags: Mapping[str, object] | None = None, *, environment: Mapping[str, str] | None = None
) -> Config:
    """Read file and environment, lay `flags` over them, and check the whole.

    A higher layer that names any password source replaces all password sources below it. `cache_dir=False`
    in `flags` means no cache. Raises UsageError that names the flag, variable or file at fault.
    """
    variables = os.environ if environment is None else environment
    layers = [_file_layer(variables), _environment_layer(variables), _flag_layer(flags or {})]
    values, sources = _lay(layers)
    if "cache_dir" not in values:
        values["cache_dir"] = _user_path(variables, "XDG_CACHE_HOME", ".cache")
    return _convert(values, sources)


def load_from_config(
    config: Config, flags: Mapping[str, object], *, environment: Mapping[str, str] | None = None
) -> Config:
    """The configuration of the repository that a copy into that of `config` reads.

    Address and secrets are from variables that begin with PVBACK_FROM_, and `flags` over them under the field
    names of `Config`; everything else is as in `config`. Raises UsageError as `load_config`, and without an
    address.
    """
    variables = os.environ if environment is None else environment
    values, sources = _lay(
        [_environment_layer(variables, FROM_ENVIRONMENT), _flag_layer(flags, prefix="--from-")]
    )
    other = _convert({**values, "cache_dir": False}, sources)
    if other.repository is None:
        raise UsageError(
            "no repository to copy from was given",
            hint="use `--from-repository` or set the variable PVBACK_FROM_REPOSITORY",
        )
    fields_of_its_own: dict[str, Any] = {name: getattr(other, name) for name in (*FROM_FIELDS, "s3")}
    return replace(config, **fields_of_its_own)


def _lay(layers: Sequence["Layer"]) -> tuple[dict[str, object], dict[str, str]]:
    """Values and where they came from, of layers in rising order."""
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        given = [name for name in PASSWORD_FIELDS if name in layer]
        if len(given) > 1:
            names = " and ".join(layer[name][1] for name in given)
            raise UsageError(f"more than one source for the password: {names}", hint="give one of them")
        if given:
            for name in PASSWORD_FIELDS:
                values.pop(name, None)
        for name, (value, source) in layer.items():
            values[name], sources[name] = value, source
    return values, sources


def is_debugging() -> bool:
    """Whether the environment asks for tracebacks of errors that are no bugs, too."""
    return bool(os.environ.get(DEBUG_VARIABLE))


Layer = dict[str, tuple[object, str]]


def _file_layer(variables: Mapping[str, str]) -> Layer:
    explicit = variables.get(CONFIG_VARIABLE)
    folder = _user_path(variables, "XDG_CONFIG_HOME", ".config")
    path = Path(explicit) if explicit else folder / "config.toml" if folder else None
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(limits.CONFIG_FILE_BYTES_MAX)
        # Loaded here, like everything that most runs do without: a nightly job is mostly start-up.
        import tomllib  # noqa: PLC0415

        table = tomllib.loads(text.decode())
    except FileNotFoundError:
        if explicit:
            raise UsageError("configuration file not found", key=str(path)) from None
        return {}
    except (OSError, ValueError) as exc:
        raise UsageError(f"configuration file is not readable: {exc}", key=str(path)) from exc
    known = set(ENVIRONMENT.values()) - {"password"}
    layer = {
        f"{S3_MARK}{name}": (value, f"`{name}` under [s3] in {path}")
        for name, value in _as_table(table.pop("s3", {}), str(path)).items()
    }
    for name in table:
        if name not in known:
            hint = "use password_file or password_command" if name == "password" else None
            raise UsageError(f"`{name}` is not a setting", key=str(path), hint=hint)
    return layer | {name: (value, f"`{name}` in {path}") for name, value in table.items()}


def _as_table(value: object, path: str) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise UsageError("`s3` is not a table", key=path, hint="write [s3] on a line of its own")


def _environment_layer(variables: Mapping[str, str], names: Mapping[str, str] | None = None) -> Layer:
    return {
        name: (variables[variable], f"the variable {variable}")
        for variable, name in (names or ENVIRONMENT | S3_VARIABLES).items()
        if variables.get(variable)
    }


def _flag_layer(flags: Mapping[str, object], *, prefix: str = "--") -> Layer:
    known = {item.name for item in fields(Config)} - {"sources", "s3"} | {"s3_options"}
    unknown = sorted(set(flags) - known)
    assert not unknown, f"not fields of Config: {unknown}"
    layer: Layer = {
        name: (value, f"`{prefix}{name.removesuffix('_bytes').replace('_', '-')}`")
        for name, value in flags.items()
        if value is not None
    }
    words, _ = layer.pop("s3_options", ((), ""))
    for word in _as_list(words):
        name, mark, value = str(word).partition("=")
        if not mark:
            raise UsageError(f"not an option for S3: {name!r}", hint=f"write `{prefix}s3-option NAME=VALUE`")
        layer[f"{S3_MARK}{name}"] = (value, f"`{prefix}s3-option {name}`")
    return layer


def _user_path(variables: Mapping[str, str], variable: str, fallback: str) -> Path | None:
    """`pvback` below the folder that the variable names, or below the home folder's fallback."""
    folder = variables.get(variable)
    if folder and Path(folder).is_absolute():
        return Path(folder) / "pvback"
    home = variables.get("HOME")
    return Path(home) / fallback / "pvback" if home else None


def _convert(values: Mapping[str, object], sources: Mapping[str, str]) -> Config:
    def text(name: str) -> str | None:
        value = values.get(name)
        if value is None or isinstance(value, str | Path):
            return None if value is None else str(value)
        raise UsageError(f"{sources[name]} has to be a string")

    def size(name: str) -> int | None:
        value = values.get(name)
        return None if value is None else parse_size(value, what=sources[name])

    def path(name: str) -> Path | None:
        value = text(name)
        return Path(value).expanduser() if value else None

    endpoint = text("s3_endpoint")
    if endpoint is not None:
        _check_endpoint(endpoint, sources["s3_endpoint"])
    address = text("repository")
    password = values.get("password")
    memory = size("memory_bytes")
    if memory is not None and memory < limits.MEMORY_BYTES_MIN:
        least = limits.MEMORY_BYTES_MIN // limits.MIB
        raise UsageError(f"{sources['memory_bytes']} is too small", hint=f"the least is {least} MiB")
    return Config(
        repository=parse_address(address, s3_endpoint=endpoint) if address else None,
        password=password if isinstance(password, Secret) or password is None else Secret(str(password)),
        password_file=path("password_file"),
        password_command=split_command(values.get("password_command"), sources.get("password_command", "")),
        key_file=path("key_file"),
        key_command=split_command(values.get("key_command"), sources.get("key_command", "")),
        cache_dir=None if values["cache_dir"] is False else path("cache_dir"),
        memory_bytes=memory if memory is not None else limits.MEMORY_BYTES_DEFAULT,
        upload_bytes_per_second=size("upload_bytes_per_second"),
        download_bytes_per_second=size("download_bytes_per_second"),
        s3_endpoint=endpoint,
        s3=parse_s3_options(
            {
                name.removeprefix(S3_MARK): (value, sources[name])
                for name, value in values.items()
                if name.startswith(S3_MARK)
            }
        ),
        sources=dict(sources),
    )


def split_command(value: object, what: str) -> tuple[str, ...] | None:
    """Words of a command; a string is split as a shell splits it, but no shell ever sees it.

    `what` names the setting in the UsageError that is raised for none.
    """
    if value is None:
        return None
    import shlex  # noqa: PLC0415 - see `_file_layer`

    try:
        words = shlex.split(value) if isinstance(value, str) else [str(word) for word in _as_list(value)]
    except ValueError as exc:
        raise UsageError(f"{what} is not a command: {exc}") from exc
    if not words:
        raise UsageError(f"{what} is empty")
    return tuple(words)


def _as_list(value: object) -> list[object]:
    if isinstance(value, list | tuple):
        return list(value)
    raise ValueError("neither a string nor a list of strings")


def _check_endpoint(text: str, source: str) -> None:
    """Raise UsageError unless it is a plain URL. Without quoting it: a wrong one may hold a password."""
    parts = urlsplit(text)
    is_plain = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    if not is_plain or "@" in parts.netloc:
        raise UsageError(
            f"{source} is not an endpoint", hint="write https://host:port, without a name or password"
        )


def parse_address(text: str, *, s3_endpoint: str | None = None) -> RepositoryAddress:
    """A repository from a path, `file:///path` or `s3://bucket/prefix`. Raises UsageError for others."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        if not text or "\0" in text:
            raise UsageError("a repository's path is not empty")
        if kind := re.match(r"(azure|b2|file|ftp|gs|https?|rclone|rest|s3|scp|sftp|ssh|swift):", text):
            raise UsageError(
                f"not a repository: {text!r}",
                hint=f"use a path, file:// or s3://; a path that begins so is written `./{kind[0]}...`",
            )
        return LocalAddress(Path(text).expanduser().absolute())
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or len(parts.path) < 2:
            raise UsageError(f"not a repository: {text!r}", hint="write file:///path, with three slashes")
        return LocalAddress(Path(unquote(parts.path)))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        segments = prefix.split("/") if prefix else []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket) or {"", ".", ".."} & set(segments):
            raise UsageError(f"not a repository: {text!r}", hint="write s3://bucket/prefix")
        return S3Address(bucket, prefix, s3_endpoint)
    raise UsageError(f"no such kind of repository: {scheme}://", hint="use a path, file:// or s3://")


def load_password(config: Config) -> Secret | None:
    """The password from whichever source `config` names, or None when it names none.

    A file or command gives its first line, without the line end. The command gets the environment and no
    standard input, and `limits.PASSWORD_COMMAND_SECONDS_MAX`. Raises UsageError, which never quotes a secret.
    """
    if config.password is not None:
        return config.password
    if config.password_file is not None:
        try:
            with config.password_file.open("rb") as file:
                return _first_line(file.read(limits.PASSWORD_BYTES_MAX), str(config.password_file))
        except OSError as exc:
            reason = exc.strerror or "not readable"
            hint = "its first line has to be the password" if isinstance(exc, FileNotFoundError) else None
            raise UsageError(f"password file: {reason}", key=str(config.password_file), hint=hint) from exc
    if config.password_command is None:
        return None
    program = config.password_command[0]
    import subprocess  # noqa: PLC0415 - see `_file_layer`

    try:
        done = subprocess.run(
            config.password_command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=limits.PASSWORD_COMMAND_SECONDS_MAX,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UsageError("the password command did not end in time", key=program) from None
    except subprocess.CalledProcessError as exc:
        raise UsageError(f"the password command failed with status {exc.returncode}", key=program) from None
    except OSError as exc:
        raise UsageError(f"the password command did not start: {exc.strerror}", key=program) from exc
    return _first_line(done.stdout, program)


def _first_line(raw: bytes, key: str) -> Secret:
    line = raw.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise UsageError("the password is empty", key=key)
    try:
        return Secret(line.decode())
    except UnicodeDecodeError:
        raise UsageError("the password is not UTF-8", key=key) from None
