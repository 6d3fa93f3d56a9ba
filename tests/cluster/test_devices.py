"""Claims that are raw devices: backed up, restored, restored in place, replaced."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace
from tests.cluster.fleet import Fleet, make_claim

pytestmark = pytest.mark.timeout(600)
MIB = 1 << 20
SECTOR = 512
SIZE_MIB = 64
Made = Callable[..., str]


def work(namespace: Namespace, claim: str, script: str) -> str:
    """What a pod prints that has the claim at /dev/CLAIM, and is gone then."""
    image = namespace.cluster.image
    said = namespace.run(objects.pod("work", f"exec 2>/dev/null; {script}", image=image, devices=[claim]))
    namespace.delete("v1", "Pod", "work")
    return said


def digest_of(namespace: Namespace, claim: str) -> str:
    return work(namespace, claim, f"sha256sum < /dev/{claim}")


def some_data(claim: str, *, at: int) -> str:
    """A script that writes eight MiB."""
    return f"dd if=/dev/urandom of=/dev/{claim} bs=1M count=8 seek={at} conv=notrunc"


def test_there_and_back(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "disk", block=True, size=f"{SIZE_MIB}Mi")
    work(connected, "disk", some_data("disk", at=3))
    target = f"{connected.name}/disk"
    (claim,) = fleet.good("pvc", "backup", target, "--json").messages("claim")
    assert claim["result"]["stats"]["new_bytes"] < 10 * MIB, "zeros are not stored"
    fleet.good("pvc", "restore", target, "--to", "again")
    assert digest_of(connected, "again") == digest_of(connected, "disk")


def test_in_place_only_what_differs(
    fleet: Fleet, connected: Namespace, static_volume: Made, seed: int
) -> None:
    """By the kernel's own count of what was written to the device, zeros too."""
    rng = random.Random(seed)
    volume = static_volume("n1", block=True, size_mib=SIZE_MIB)
    device = Path(connected.cluster.kind("v1", "PersistentVolume").get(name=volume).spec.local.path)
    content = bytearray(SIZE_MIB * MIB)
    for start, end in ((0, 20), (40, 44)):
        content[start * MIB : end * MIB] = rng.randbytes((end - start) * MIB)
    write(device, 0, content)
    manifest = objects.claim("disk", storage_class="static", block=True, size=f"{SIZE_MIB}Mi")
    manifest["spec"]["volumeName"] = volume
    connected.create(manifest)
    connected.wait_bound("disk")
    target = f"{connected.name}/disk"
    fleet.good("pvc", "backup", target)

    # Data where there was other data, data where there were zeros, and zeros where there was data.
    write(device, 3 * MIB + 100, rng.randbytes(MIB))
    write(device, 30 * MIB + 1000, rng.randbytes(MIB))
    write(device, 41 * MIB, bytes(MIB // 2))
    before = written_bytes(device)
    (summary,) = fleet.good("pvc", "restore", target, "--in-place", "--json").messages("summary")
    written, told = written_bytes(device) - before, summary["result"]["stats"]["bytes_written"]
    assert device.read_bytes() == content
    print(f"{written / MIB:.2f} MiB written to the device, {told / MIB:.2f} told")
    assert 2.5 * MIB < told < 6 * MIB
    assert 2.5 * MIB < written < 6 * MIB

    before = written_bytes(device)
    (summary,) = fleet.good("pvc", "restore", target, "--in-place", "--json").messages("summary")
    assert (written_bytes(device) - before, summary["result"]["stats"]["bytes_written"]) == (0, 0)


def write(device: Path, at: int, data: bytes | bytearray) -> None:
    with device.open("r+b") as file:
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def written_bytes(device: Path) -> int:
    """All that was ever written to it, discarded or cleared."""
    fields = [int(one) for one in Path("/sys/block", device.name, "stat").read_text().split()]
    written, discarded = fields[6], fields[13]
    return (written + discarded) * SECTOR


def test_replaced_and_undone(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "disk", block=True, size=f"{SIZE_MIB}Mi")
    work(connected, "disk", some_data("disk", at=3))
    before = digest_of(connected, "disk")
    target = f"{connected.name}/disk"
    fleet.good("pvc", "backup", target)
    work(connected, "disk", some_data("disk", at=40))
    spoilt = digest_of(connected, "disk")
    assert spoilt != before
    image = connected.cluster.image
    connected.create(objects.pod("user", "sleep 1000", image=image, devices=["disk"]))
    connected.wait_phase("user", "Running")
    for way in ("--in-place", "--replace"):
        refused = fleet.run("pvc", "restore", target, way).ended(11)
        assert "pods have the claim: user" in refused.err
    connected.delete("v1", "Pod", "user")
    old = connected.wait_bound("disk")
    fleet.good("pvc", "restore", target, "--replace")
    assert connected.wait_bound("disk") != old
    assert digest_of(connected, "disk") == before
    fleet.good("pvc", "undo", target)
    assert (connected.wait_bound("disk"), digest_of(connected, "disk")) == (old, spoilt)
    fleet.good("pvc", "commit", target)
