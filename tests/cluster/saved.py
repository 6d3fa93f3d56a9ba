"""A namespace whose claim is backed up, and what a populator does in it."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster import objects
from tests.cluster.client import Namespace
from tests.cluster.fleet import Fleet, digest_of, make_claim, wait_nothing_left
from tests.cluster.restores import claim_of, restore

FILL = """for i in $(seq 1 50); do echo file $i > /data/f$i; done
mkdir /data/d
head -c 300000 /dev/urandom > /data/d/random
"""


@dataclass(frozen=True)
class Saved:
    """A namespace whose claim `data` is backed up, and what is in it."""

    fleet: Fleet
    namespace: Namespace
    digest: str

    def populate(self, *words: str, **variables: str) -> Any:
        return self.fleet.run("pvc", "populate", "-n", self.namespace.name, *words, **variables)

    def wish(
        self, name: str, *, wanted: str = "", storage_class: str = "csi-immediate", **wishes: Any
    ) -> None:
        """A Restore of `data`, and a claim that is to be filled from it."""
        if not wanted:
            self.namespace.create(restore(name, source={"claim": "data"}))
        self.namespace.create(claim_of(name, wanted or name, storage_class=storage_class, **wishes))

    @contextmanager
    def watching(self, *words: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """A populator that goes on, and ends in order when it is told to."""
        given = ("pvc", "populate", "-n", self.namespace.name, "--watch", "--interval", "0.5", *words)
        with self.fleet.start(*given, **variables) as process:
            yield process
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=150)
            print(out, err)
            assert process.returncode == 0, (out, err)
            assert "Traceback" not in err


@contextmanager
def save(fleet: Fleet, namespace: Namespace) -> Iterator[Saved]:
    """Fill its claim `data` and back it up; in the end nothing that runs have made is left."""
    fleet.connect(namespace)
    make_claim(namespace, "data", storage_class="csi-immediate")
    namespace.run(objects.pod("fill", FILL, image=namespace.cluster.image, claims=["data"]))
    namespace.delete("v1", "Pod", "fill")
    fleet.good("pvc", "backup", f"{namespace.name}/data", "--method", "live")
    yield Saved(fleet, namespace, digest_of(namespace, "data"))
    wait_nothing_left(namespace)
    keys = fleet.good("key", "list", "--json").json()
    ours = [one for one in keys if f"of {namespace.name}/" in (one["label"] or "")]
    print([one["label"] for one in ours])


def logs_of(namespace: Namespace) -> str:
    """What the populator of a namespace has printed."""
    pods = namespace.cluster.kind("v1", "Pod")
    found = pods.get(namespace=namespace.name, label_selector="pvback.io/role=populator").items
    return "\n".join(namespace.log(one.metadata.name) for one in found)
