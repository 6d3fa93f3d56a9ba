"""Processes that test_local_store.py starts, races and kills. Usage: local_worker.py ROLE ROOT ARGUMENT..."""

import sys
from collections.abc import Callable
from pathlib import Path

from pvback import limits
from pvback.errors import ObjectChanged, ObjectExists
from pvback.storage.local import LocalStore


def add(store: LocalStore, name: str, count: str) -> None:
    """Add 1 to a counter `count` times, by compare-and-swap."""
    for step in range(int(count)):
        while True:
            found = store.read("counter")
            value = int(found.data.split()[0])
            try:
                store.swap("counter", f"{value + 1} {name} {step}".encode(), etag=found.etag)
            except ObjectChanged:
                continue
            break


def claim(store: LocalStore, name: str, count: str) -> None:
    """Try to create each of `count` keys; print those that were won."""
    for index in range(int(count)):
        try:
            store.create(f"claims/{index:03}", name.encode())
        except ObjectExists:
            continue
        print(index)


def overwrite(store: LocalStore, size: str) -> None:
    """Write the same object over and over, each time filled with another letter, until killed."""
    letters = b"abcdefghijklmnopqrstuvwxyz"
    number = 0
    while True:
        data = letters[number % 26 :][:1] * int(size)
        print(chr(data[0]), flush=True)
        if number % 2 or int(size) > limits.SWAPPED_BYTES_MAX:
            store.put("victim", data)
        else:
            store.swap("victim", data, etag=store.read("victim").etag)
        number += 1


if __name__ == "__main__":
    # Wait for the word, so that all start together.
    sys.stdin.readline()
    roles: dict[str, Callable[..., None]] = {"add": add, "claim": claim, "overwrite": overwrite}
    roles[sys.argv[1]](LocalStore(Path(sys.argv[2])), *sys.argv[3:])
