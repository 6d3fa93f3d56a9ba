"""Getting data out without the native module: `python -m pvback.reference REPO list|ls|...`.

The passphrase is in PVBACK_PASSWORD, unless `--key-file` names 32 bytes (an X25519 private key) or
80 bytes (a raw secret). Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 12 wrong key,
13 unsupported format, 20 damaged data, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pvback.reference.errors import ReadError, WrongKeyError
from pvback.reference.keys import Passphrase, PrivateKey, RawSecret, Unlocker
from pvback.reference.pages import BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Node
from pvback.reference.repository import Repository
from pvback.reference.restore import dump, restore
from pvback.reference.snapshots import Snapshot
from pvback.reference.store import DirectoryStore
from pvback.reference.tree import display
from pvback.reference.verify import verify

_LETTERS = {
    FILE: "-",
    DIRECTORY: "d",
    SYMLINK: "l",
    FIFO: "p",
    SOCKET: "s",
    CHAR_DEVICE: "c",
    BLOCK_DEVICE: "b",
}
EXIT_DONE, EXIT_FAILED, EXIT_PARTLY, EXIT_DAMAGED, EXIT_INTERRUPTED = 0, 1, 3, 20, 130


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _unlocker(arguments: argparse.Namespace) -> Unlocker:
    if arguments.key_file:
        data = Path(arguments.key_file).read_bytes()
        return PrivateKey(data) if len(data) == 32 else RawSecret(data)
    passphrase = os.environ.get("PVBACK_PASSWORD")
    if passphrase is None:
        raise WrongKeyError("no key: set PVBACK_PASSWORD or give --key-file")
    return Passphrase(passphrase)


def _locate(repository: Repository, text: str) -> tuple[Snapshot, bytes]:
    prefix, _, path = text.partition(":")
    return repository.snapshot(prefix), os.fsencode(path)


def _list(repository: Repository, _: argparse.Namespace) -> int:
    damaged: list[ReadError] = []
    for one in repository.snapshots(damaged.append):
        root = one.root
        print(one.id.hex(), one.started, root.nodes, root.bytes, ascii(one.source_string)[1:-1])
    for problem in damaged:
        _say(f"error: {problem}")
    return EXIT_DAMAGED if damaged else EXIT_DONE


def _line(node: Node) -> str:
    seconds, nanoseconds = node.mtime
    kind = _LETTERS[node.kind]
    head = f"{kind}{node.mode:04o} {node.uid}:{node.gid} {node.size} {seconds}.{nanoseconds:09d}"
    arrow = f" -> {display(node.target)}" if node.kind == SYMLINK else ""
    return f"{head} {display(node.key)}{arrow}"


def _ls(repository: Repository, arguments: argparse.Namespace) -> int:
    snapshot, path = _locate(repository, arguments.snapshot)
    for node in repository.walk(snapshot, path):
        print(_line(node))
    return EXIT_DONE


def _restore(repository: Repository, arguments: argparse.Namespace) -> int:
    snapshot, path = _locate(repository, arguments.snapshot)
    summary = restore(repository, snapshot, arguments.target, path)
    for note, count in sorted(summary.notes.items()):
        _say(f"not set on {count} nodes: {note}")
    for line in summary.warned:
        _say(f"warning: {line}")
    for line in summary.lost:
        _say(f"error: not restored: {line}")
    _say(f"restored {summary.nodes} nodes, {summary.content_bytes} bytes")
    return EXIT_DONE if summary.is_complete else EXIT_PARTLY


def _dump(repository: Repository, arguments: argparse.Namespace) -> int:
    snapshot, path = _locate(repository, arguments.snapshot)
    dump(repository, snapshot, path, sys.stdout.buffer.write)
    sys.stdout.buffer.flush()
    return EXIT_DONE


def _verify(repository: Repository, _: argparse.Namespace) -> int:
    report = verify(repository)
    for line in report.findings:
        _say(f"finding: {line}")
    for line in report.notes:
        _say(f"note: {line}")
    counts = {name: value for name, value in vars(report).items() if isinstance(value, int)}
    print(", ".join(f"{name} {value}" for name, value in counts.items()))
    return EXIT_DAMAGED if report.findings else EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pvback.reference", description=__doc__)
    parser.add_argument("repository", help="the repository's directory")
    parser.add_argument("--scope", help="label or hex id; not needed when there is one only")
    parser.add_argument("--key-file", help="file with 32 bytes (X25519) or 80 bytes (raw secret)")
    parser.add_argument(
        "--rebuild-index", action="store_true", help="read pack directories in place of index runs"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, act: Callable[[Repository, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(act=act)
        return one

    command("list", _list, "list snapshots: id, start, nodes, bytes, source")
    command("verify", _verify, "open every object and recompute every id")
    place = "SNAPSHOT[:PATH]; SNAPSHOT is the beginning of an id, or `latest`"
    command("ls", _ls, "list nodes").add_argument("snapshot", help=place)
    command("dump", _dump, "write one file to stdout").add_argument("snapshot", help=place)
    one = command("restore", _restore, "restore into a new or empty directory, or a new file")
    one.add_argument("snapshot", help=place)
    one.add_argument("target")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors are one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        store = DirectoryStore(arguments.repository)
        repository = Repository.open(store, _unlocker(arguments), arguments.scope)
        for warning in repository.warnings:
            _say(f"warning: {warning}")
        if arguments.rebuild_index:
            for problem in repository.scope.rebuild_index():
                _say(f"warning: {problem}")
        return int(arguments.act(repository, arguments))
    except ReadError as exc:
        _say(f"error: {exc}")
        return exc.exit_code
    except OSError as exc:
        _say(f"error: {exc}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
