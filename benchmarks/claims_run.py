"""Claims on the test cluster against the command alone: what pods, Jobs and the API cost.

Usage: `make cluster-up image`, then `python -m benchmarks.claims_run`; `--help` says how much of what.
Volumes are folders of node `n1`, so that the command reads the very same directory. Both write into one
MinIO, into repositories of their own. Prints a line of JSON for each measurement; nothing is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, connect, new_namespace
from tests.cluster.fleet import Fleet, wait_nothing_left
from tests.cluster.local import layout, storage
from tests.cluster.local.images import BUSYBOX, load_image
from tests.cluster.local.programs import find_programs
from tests.support.s3_servers import minio

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PER_FOLDER = 1000
NODE = layout.NODES[0]
WAYS = ("backup", "restore")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A namespace with claims on folders of this machine, and a store for both ways."""

    cluster: Cluster
    namespace: Namespace
    fleet: Fleet
    stack: ExitStack

    def volume(self, name: str, *, size_mib: int) -> Path:
        """The folder of a new claim."""
        volume = f"bench-{secrets.token_hex(4)}"
        manifest = storage.make_static_volume(NODE, volume, size_mib=size_mib)
        folder = NODE.volumes / volume
        self.stack.callback(storage.remove_static_volume, volume)
        # Millions of files are quicker gone before anybody walks through them for loop devices.
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.cluster.create(manifest)
        kind = self.cluster.kind("v1", "PersistentVolume")
        self.stack.callback(kind.delete, name=volume)
        claim: Any = objects.claim(name, storage_class="static", size=f"{size_mib}Mi")
        claim["spec"]["volumeName"] = volume
        self.namespace.create(claim)
        self.namespace.wait_bound(name)
        return folder


@contextmanager
def prepared() -> Iterator[Place]:
    """Everything, and nothing of it afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pvback-bench-")))
        cluster = connect(
            layout.KUBECONFIG,
            is_local=True,
            image=BUSYBOX,
            storage_class="csi",
            snapshot_class="csi",
            host_address=str(layout.HOST_ADDRESS),
        )
        image = ROOT / "build/image"
        load_image(image / "pvback.tar", programs=find_programs())
        name = json.loads((image / "image.json").read_text())["name"]
        everything: Any = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
        policies = {"mover": {"Version": "2012-10-17", "Statement": [everything]}}
        server = stack.enter_context(minio(folder, address=cluster.host_address, policies=policies))
        fleet = Fleet(folder=folder, server=server, kubeconfig=cluster.kubeconfig, image=name)
        fleet.good("init", "-q")
        manifest: Any = objects.namespace(f"pvback-bench-{secrets.token_hex(4)}")
        # Files of every owner are read as root with one capability, as the command alone reads them.
        manifest["metadata"]["labels"] = {"pvback.test/namespace": "true"}
        manifest["metadata"]["annotations"] = {"pvback.io/privileged-movers": "true"}
        namespace = stack.enter_context(new_namespace(cluster, manifest))
        fleet.connect(namespace)
        yield Place(cluster=cluster, namespace=namespace, fleet=fleet, stack=stack)
        wait_nothing_left(namespace)


def timed(fleet: Fleet, *words: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a command that has to succeed, and what it says."""
    os.sync()
    began = time.monotonic()
    done = fleet.good(*words, "--json")
    seconds = time.monotonic() - began
    return seconds, [json.loads(line) for line in done.out.splitlines() if line.strip()]


def say(what: str, **figures: object) -> None:
    rounded = {name: round(one, 2) if isinstance(one, float) else one for name, one in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def compare(what: str, *, pod: float, alone: float, mib: float) -> None:
    """The overhead of the way by a pod, in seconds and of the throughput."""
    say(what, pod_s=pod, alone_s=alone, overhead_s=pod - alone, mib=round(mib), mib_per_s=mib / alone)


def write_large(folder: Path, mib: int, seed: int) -> None:
    rng = random.Random(f"claim-{seed}")
    for number in range(max(1, mib // 64)):
        with (folder / f"f{number}").open("wb") as file:
            for _ in range(64):
                # Half of it compresses, as in databases.
                file.write(rng.randbytes(1 << 19) + bytes(1 << 19))


def write_small(folder: Path, count: int) -> None:
    rng = random.Random("tiny")
    for number in range(count):
        if number % PER_FOLDER == 0:
            (folder / f"d{number // PER_FOLDER}").mkdir()
        (folder / f"d{number // PER_FOLDER}" / f"f{number}").write_bytes(rng.randbytes(100))


def one_claim(place: Place, mib: int, rounds: int) -> dict[str, tuple[float, float]]:
    """One claim end to end, and the same directory by the command alone: the medians of both, in seconds."""
    fleet, namespace = place.fleet, place.namespace
    name = f"one-{mib}"
    folder = place.volume(name, size_mib=2 * mib)
    write_large(folder, mib, seed=1)
    source = f"{namespace.name}/{name}"
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        alone = replace(fleet, prefix=f"alone-{mib}-{number}")
        alone.good("init", "-q")
        pods = connected(place, prefix=f"pods-{mib}-{number}")
        by_pod, _ = timed(pods, "pvc", "backup", source, "--method", "live", "--privileged")
        by_itself, _ = timed(alone, "backup", str(folder), "--memory", "384MiB")
        found["backup"].append((by_pod, by_itself))
        target = place.volume(f"again-{mib}-{number}", size_mib=2 * mib)
        other = place.volume(f"other-{mib}-{number}", size_mib=2 * mib)
        words = ("--to", f"again-{mib}-{number}", "--in-place", "--privileged")
        by_pod, _ = timed(pods, "pvc", "restore", source, *words)
        by_itself, _ = timed(alone, "restore", "latest", "-t", str(other / "data"), "--memory", "384MiB")
        found["restore"].append((by_pod, by_itself))
        for place_of, under in ((target, ""), (other, "data")):
            subprocess.run(["diff", "-r", str(folder), str(place_of / under)], check=True)
            shutil.rmtree(place_of)
            place_of.mkdir()
    for way in WAYS:
        for by_pod, by_itself in found[way]:
            compare(f"{way} of one claim", pod=by_pod, alone=by_itself, mib=mib)
    return {way: (_median(found[way], 0), _median(found[way], 1)) for way in WAYS}


def _median(rounds: list[tuple[float, float]], way: int) -> float:
    return statistics.median(one[way] for one in rounds)


def throughput(place: Place, mib: int, rounds: int) -> None:
    """What a larger claim costs more than a smaller one, both ways: no start of a pod is in it."""
    small_mib = mib // 4
    small, large = one_claim(place, small_mib, rounds), one_claim(place, mib, rounds)
    for what in WAYS:
        pod, alone = (large[what][way] - small[what][way] for way in (0, 1))
        more = mib - small_mib
        say(
            f"throughput of a {what}",
            pod_mib_per_s=more / pod,
            alone_mib_per_s=more / alone,
            ratio=alone / pod,
        )


def many_files(place: Place, count: int) -> None:
    """Files of 100 bytes, by a mover of 512 MiB: one that needs more is killed."""
    folder = place.volume("tiny", size_mib=4096)
    began = time.monotonic()
    write_small(folder, count)
    say("files are written", files=count, seconds=time.monotonic() - began)
    words = ("--privileged", "--mover-memory", "512MiB", "--method", "live")
    for what in ("first backup", "unchanged backup"):
        seconds, said = timed(place.fleet, "pvc", "backup", f"{place.namespace.name}/tiny", *words)
        stats = next(one for one in said if one.get("message_type") == "claim")["result"]["stats"]
        say(f"{what} of files of 100 B", files=stats["file_count"], seconds=seconds, limit_mib=512)


def several(place: Place, claims: int, mib: int) -> None:
    """Claims at once, against the same one after the other, each into a repository of its own."""
    names = [f"many-{number}" for number in range(claims)]
    for number, name in enumerate(names):
        write_large(place.volume(name, size_mib=2 * mib), mib, seed=100 + number)
    targets = [f"{place.namespace.name}/{name}" for name in names]
    seconds = {}
    for way, count in (("in turn", 1), ("at once", claims)):
        fleet = connected(place, prefix=way.replace(" ", "-"))
        words = ("--method", "live", "--privileged", "--at-once", str(count), "--per-node", str(count))
        seconds[way], _ = timed(fleet, "pvc", "backup", *targets, *words)
    say("several claims", claims=claims, mib=mib, at_once_s=seconds["at once"], in_turn_s=seconds["in turn"])


def connected(place: Place, *, prefix: str) -> Fleet:
    """A fresh repository that the namespace's movers write into."""
    fleet = replace(place.fleet, prefix=prefix)
    fleet.good("init", "-q")
    words = ("--replace", "--image", fleet.image, "--aws-credentials", str(fleet.credentials()))
    fleet.good("pvc", "connect", place.namespace.name, *words)
    return fleet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--mib", type=int, default=2048, help="of the one claim, and of a quarter; 0: leave out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=2_000_000, help="of 100 B; 0: leave out")
    parser.add_argument("--claims", type=int, default=8, help="at once; 0: leave out")
    parser.add_argument("--claim-mib", type=int, default=256)
    given = parser.parse_args()
    with prepared() as place:
        if given.mib:
            throughput(place, given.mib, given.rounds)
        if given.claims:
            several(place, given.claims, given.claim_mib)
        if given.files:
            many_files(place, given.files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
