"""Backups that take a while, so that something can happen to them."""

import base64
from typing import Any

from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, make_claim, writer_pod

MEBIBYTES = 192
RATE = 8 << 20
"""Bytes a second: a backup takes 24 s."""
FILL = f"for i in 1 2 3 4; do dd if=/dev/urandom of=/data/f$i bs=1M count={MEBIBYTES // 4} 2>/dev/null; done"
LITTLE_MEMORY = ("--mover-memory", "300MiB")
"""What is on its way when it is told to end goes out at that rate, too."""


def make_slow(fleet: Fleet, namespace: Namespace, **wishes: Any) -> None:
    """Connect a namespace whose pod `app` has written a claim `data` that takes a while to back up."""
    fleet.connect(namespace)
    set_rate(namespace, RATE)
    make_claim(namespace, "data", size=f"{MEBIBYTES + 64}Mi")
    writer_pod(namespace, "app", "data", FILL, **wishes)


def set_rate(namespace: Namespace, rate: int | None, *, way: str = "upload") -> None:
    """Let the movers of a namespace send so fast, or fetch (`download`)."""
    option = f"{way}_bytes_per_second"
    secret = namespace.get("v1", "Secret", "pvback-repository")
    lines = base64.b64decode(secret.data["config.toml"]).decode().splitlines()
    kept = [line for line in lines if not line.startswith(option)]
    config = "\n".join([*([f"{option} = {rate}"] if rate else []), *kept])
    change = {"data": {"config.toml": base64.b64encode(config.encode()).decode()}}
    namespace.cluster.kind("v1", "Secret").patch(
        name="pvback-repository",
        namespace=namespace.name,
        body=change,
        content_type="application/merge-patch+json",
    )


def mover_of(namespace: Namespace) -> str:
    """The pod of the mover, when it has sent something."""

    def look() -> str | None:
        pods = namespace.cluster.kind("v1", "Pod").get(
            namespace=namespace.name,
            label_selector="pvback.io/role=mover",
            field_selector="status.phase=Running",
        )
        for one in pods.items:
            name = str(one.metadata.name)
            if '"stored_bytes": ' in namespace.log(name):
                return name
        return None

    return wait_for(look, lambda: f"no mover works: {namespace.events()}")


def next_run(fleet: Fleet, namespace: Namespace) -> dict[str, Any]:
    """What the next backup reports, at full speed."""
    set_rate(namespace, None)
    (claim,) = fleet.good("pvc", "backup", f"{namespace.name}/data", "--json").messages("claim")
    found: dict[str, Any] = claim["result"]
    return found
