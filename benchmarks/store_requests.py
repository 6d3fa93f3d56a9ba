"""Count what pvback asks of its store, step by step: what an object store would bill as requests.

The store is a local directory behind the same seam that object storage has; each call is one request. Only
counts are kept, nothing is timed. For the programs that speak S3 see `benchmarks.s3_requests`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from benchmarks.corpora import checkout_corpus
from benchmarks.corpora_real import CORPORA
from benchmarks.peers import cache_dir
from benchmarks.run import work_dir
from benchmarks.tools import PASSWORD
from pvback.config import Secret, load_config
from pvback.model import LocalAddress
from pvback.ops.facade import Repository, init_repository
from pvback.repository.repository import open_repository_access
from pvback.storage.local import LocalStore
from pvback.storage.metered import MeteredStore
from pvback.storage.wrap import Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def count_steps(work: Path, name: str, scale: float, seed: int) -> Iterator[tuple[str, dict[Request, int]]]:
    """Each step with the requests of its command, opening the repository included."""
    source, where, cache = work / "source", work / "repository", work / "cache"
    checkout_corpus(CORPORA[name], source, cache_dir(), scale=scale, seed=seed)
    init_repository(where, PASSWORD, cache_dir=cache).close()
    config = load_config({"repository": str(where), "password": Secret(PASSWORD), "cache_dir": str(cache)})
    assert isinstance(config.repository, LocalAddress), "the directory was just made"
    for step in ("first", "unchanged", "changed", "restore"):
        if step == "changed":
            CORPORA[name].change(source, scale, seed)
        store = MeteredStore(LocalStore(config.repository.path))
        with Repository(open_repository_access(config, store=store)) as repository:
            if step == "restore":
                assert repository.restore("latest", work / "target").error_count == 0, "it was not whole"
            else:
                repository.backup(source)
        yield step, dict(store.usage().requests)


def main(argv: list[str] | None = None) -> int:
    """Count and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_requests", description=__doc__)
    parser.add_argument("--corpus", choices=CORPORA, default="small")
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    kinds = [Request.CREATE, Request.SWAP, Request.READ, Request.HEAD, Request.LIST, Request.DELETE]
    print("| corpus | step | all | " + " | ".join(kind.value for kind in kinds) + " |")
    print("|---|---|--:|" + "--:|" * len(kinds))
    with work_dir(None) as work:
        for step, requests in count_steps(work, options.corpus, options.scale, options.seed):
            cells = [str(requests.get(kind, 0)) for kind in kinds]
            print(f"| {options.corpus} | {step} | {sum(requests.values())} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
