"""Passwords that are asked for on a terminal. What is typed is not shown."""

import click

from pvback.config import Secret
from pvback.errors import UsageError

__all__ = ["ask_new_password", "ask_password"]


def ask_password(prompt: str = "Password") -> Secret:
    """The password of a repository. Raises UsageError when it is empty."""
    return Secret(_ask(prompt))


def ask_new_password(prompt: str) -> Secret:
    """A password that nobody has typed before, typed twice. Raises UsageError for an empty one."""
    first = _ask(prompt)
    if _ask("The same again") != first:
        raise UsageError("the two passwords are not the same", hint="run the command again")
    return Secret(first)


def _ask(prompt: str) -> str:
    answer = str(click.prompt(prompt, default="", show_default=False, hide_input=True, err=True))
    if not answer:
        raise UsageError("the password is empty", hint="an empty password protects nothing")
    return answer
