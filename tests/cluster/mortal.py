"""Runs `pvback WORDS...`, and kills it before it changes the cluster for the n-th time."""

import os
import signal
import sys
from typing import Any
from unittest.mock import patch

from pvback.cli import main
from pvback.cluster.client import Cluster

_ask = Cluster._ask


def run(count: int, words: list[str]) -> None:
    """Never returns: it ends as `pvback` does, or by a signal that nothing can be done about."""
    left = count

    def ask(self: Cluster, method: str, path: str, **given: Any) -> dict[str, Any]:
        nonlocal left
        if method != "GET" and not any(name == "dryRun" for name, _ in given.get("query", ())):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return _ask(self, method, path, **given)

    with patch.object(Cluster, "_ask", ask):
        main(words)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
