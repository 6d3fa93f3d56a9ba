"""What `--help` says is part of the interface. PVBACK_TEST_UPDATE=1 writes it anew, for a review."""

import os
import re
from pathlib import Path

import click
import pytest

from pvback.cli import main
from tests.cli.conftest import Run

FOLDER = Path(__file__).parent / "help"


def commands(group: click.Group, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command and group; those that are loaded late are in no dictionary."""
    context = click.Context(group)
    found = [words]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        found += commands(command, (*words, name)) if isinstance(command, click.Group) else [(*words, name)]
    return found


@pytest.mark.parametrize("words", commands(main), ids="-".join)
def test_help(run: Run, words: tuple[str, ...]) -> None:
    text = run(*words, "--help", env={"COLUMNS": "100"}).output
    path = FOLDER / f"{'-'.join(('pvback', *words))}.txt"
    if os.environ.get("PVBACK_TEST_UPDATE"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"set PVBACK_TEST_UPDATE=1 and look at what changes in {path.name}"


def test_no_command_is_left_out() -> None:
    """And no text is left of one that is gone."""
    texts = {"-".join(("pvback", *words)) for words in commands(main)}
    assert texts == {path.stem for path in FOLDER.iterdir()}
    assert len(texts) > 15


def test_every_command_is_in_operations() -> None:
    text = (FOLDER.parents[2] / "docs/operations.md").read_text()
    missing = [
        " ".join(words) for words in commands(main) if f"`pvback {' '.join(words)}" not in text and words
    ]
    assert not [one for one in missing if one not in ("key", "bench")]


def test_every_option_is_in_operations() -> None:
    text = (FOLDER.parents[2] / "docs/operations.md").read_text()
    options = {
        max(parameter.opts, key=len)
        for words in commands(main)
        for parameter in find(words).params
        if isinstance(parameter, click.Option)
    }
    told = set(re.findall(r"--[a-z0-9]+(?:-[a-z0-9]+)*", text))
    assert not sorted(options - {"--help", "--version"} - told)


def find(words: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, word
        found = inner
    return found
