"""What every command gets: the options that hold for all of them, and the configuration made of them.

Global options are accepted before and after the verb; the later one wins.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pvback.cli.asking import ask_new_password, ask_password
from pvback.cli.output import Output
from pvback.config import Config, load_config, load_from_config

if TYPE_CHECKING:
    from pvback.repository.repository import RepositoryAccess

__all__ = ["Invocation", "exit_codes", "global_options", "pass_invocation"]

F = TypeVar("F", bound=Callable[..., Any])

_CODES = {
    0: "done",
    1: "failed",
    2: "usage",
    3: "partly done",
    10: "no repository",
    11: "conflicting operation",
    12: "wrong key",
    13: "unsupported format",
    20: "damaged data",
    30: "storage",
    40: "cluster",
    70: "a bug",
    130: "interrupted",
}
_EVERYWHERE = (0, 1, 2, 70, 130)
_WITH_REPOSITORY = (10, 12, 13, 20, 30)


@dataclass(slots=True)
class Invocation:
    """One run of the program. Filled in while the command line is parsed."""

    flags: dict[str, object] = field(default_factory=dict)
    scope: str | None = None
    is_json: bool = False
    is_quiet: bool = False
    is_verbose: bool = False

    @property
    def output(self) -> Output:
        """Where results go."""
        return Output(is_json=self.is_json, is_quiet=self.is_quiet)

    def config(self, *, is_new: bool = False, is_unlocking: bool = True) -> Config:
        """File, environment and options; asks for the password on a terminal when nothing names one.

        A new password is asked for twice, and none where nothing is unlocked.
        """
        config = load_config(self.flags)
        config.require_repository()
        if not is_unlocking or not self._has_to_ask(config):
            return config
        answer = ask_new_password("Password for the new repository") if is_new else ask_password()
        return replace(config, password=answer)

    def from_config(self, config: Config, flags: Mapping[str, object]) -> Config:
        """The repository that a copy into that of `config` reads; asks for its password likewise."""
        other = load_from_config(config, flags)
        if not self._has_to_ask(other):
            return other
        return replace(other, password=ask_password("Password of the repository to copy from"))

    def _has_to_ask(self, config: Config) -> bool:
        passwords = (config.password, config.password_file, config.password_command)
        sources = (*passwords, config.key_file, config.key_command)
        return all(source is None for source in sources) and not self.is_json and Output.can_ask()

    @contextmanager
    def repository(
        self, *, is_writer: bool = False, config: Config | None = None
    ) -> Iterator["RepositoryAccess"]:
        """The repository, unlocked; closed on leaving. With a `config` nothing is asked for."""
        # Loaded here: help and mistakes need no repository.
        from pvback.cli.progress import ending_at_once  # noqa: PLC0415
        from pvback.repository.repository import open_repository_access  # noqa: PLC0415

        access = open_repository_access(
            config or self.config(), scope=self.scope, is_writer=is_writer, is_used_at_once=True
        )
        try:
            with ending_at_once(access.patience.cancel), access.while_there():
                yield access
        finally:
            access.close()
            for warning in access.warnings:
                self.output.warn(warning)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def exit_codes(*extra: int, has_repository: bool = True) -> str:
    """The paragraph that ends a command's help."""
    codes = {*_EVERYWHERE, *extra, *(_WITH_REPOSITORY if has_repository else ())}
    return "Exit codes: " + ", ".join(f"{code} {_CODES[code]}" for code in sorted(codes)) + "."


def global_options(*, is_hidden: bool = True) -> Callable[[F], F]:
    """The options that every command takes; help shows them for the program only."""

    def decorate(function: F) -> F:
        for make in reversed(_OPTIONS):
            function = make(is_hidden)(function)
        return function

    return decorate


def _flag(*names: str, to: str, **settings: Any) -> Callable[[bool], Callable[[F], F]]:  # noqa: ANN401
    """An option that goes to a field of Config."""

    def _remember(context: click.Context, _: click.Parameter, value: object) -> None:
        if value is not None:
            context.ensure_object(Invocation).flags[to] = value

    return lambda is_hidden: click.option(
        *names, expose_value=False, callback=_remember, hidden=is_hidden, **settings
    )


def _list(*names: str, to: str, **settings: Any) -> Callable[[bool], Callable[[F], F]]:  # noqa: ANN401
    """An option that may be repeated, and goes to a field that `load_config` reads as a list."""

    def _remember(context: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
        if value:
            flags = context.ensure_object(Invocation).flags
            before = flags.get(to, ())
            assert isinstance(before, tuple), "only this option writes it"
            flags[to] = (*before, *value)

    return lambda is_hidden: click.option(
        *names, expose_value=False, callback=_remember, hidden=is_hidden, multiple=True, **settings
    )


def _mark(*names: str, to: str, **settings: Any) -> Callable[[bool], Callable[[F], F]]:  # noqa: ANN401
    """An option that goes to a field of Invocation."""

    def _remember(context: click.Context, _: click.Parameter, value: object) -> None:
        if value:
            setattr(context.ensure_object(Invocation), to, value)

    return lambda is_hidden: click.option(
        *names, expose_value=False, callback=_remember, hidden=is_hidden, is_eager=True, **settings
    )


def _no_cache(is_hidden: bool) -> Callable[[F], F]:
    def _remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Invocation).flags["cache_dir"] = False

    return click.option(
        "--no-cache",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        hidden=is_hidden,
        help="Remember nothing on this machine.",
    )


_OPTIONS = (
    _flag(
        "-r",
        "--repository",
        "--repo",
        to="repository",
        metavar="R",
        help="A path, file:///path or s3://bucket/prefix.",
    ),
    _flag("--password-file", to="password_file", metavar="FILE", help="Its first line is the password."),
    _flag(
        "--password-command",
        to="password_command",
        metavar="CMD",
        help="Its output's first line is the password.",
    ),
    _flag("--key-file", to="key_file", metavar="FILE", help="A private key, in place of a password."),
    _flag("--key-command", to="key_command", metavar="CMD", help="Opens what `key add --command` sealed."),
    _mark("--scope", to="scope", metavar="NAME", help="Which scope of the repository; default: `default`."),
    _flag("--s3-endpoint", to="s3_endpoint", metavar="URL", help="An S3 service other than AWS."),
    _list(
        "--s3-option",
        to="s3_options",
        metavar="NAME=VALUE",
        help="How S3 is spoken to; may be repeated.",
    ),
    _flag("--cache-dir", to="cache_dir", metavar="DIR", help="What this machine remembers."),
    _no_cache,
    _flag("--memory", to="memory_bytes", metavar="SIZE", help="Ceiling for the process; default: 256MiB."),
    _flag("--limit-upload", to="upload_bytes_per_second", metavar="SIZE", help="Bytes per second."),
    _flag("--limit-download", to="download_bytes_per_second", metavar="SIZE", help="Bytes per second."),
    _mark("--json", to="is_json", is_flag=True, help="Results, progress and errors as JSON."),
    _mark("-q", "--quiet", to="is_quiet", is_flag=True, help="No progress and no remarks."),
    _mark("-v", "--verbose", to="is_verbose", is_flag=True, help="More about errors."),
)
