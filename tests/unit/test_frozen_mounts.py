"""Which file systems may be frozen. Nothing is frozen here."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback.errors import UsageError
from pvback.ops.frozen_mounts import (
    WITNESSES,
    Mount,
    check_devices,
    check_mounts,
    open_volume,
    parse_mounts,
)

# What a container is given whose volume is a device, and one whose volume is a folder of the node.
NODE = """\
158 103 0:92 / / rw,relatime master:64 - overlay overlay rw,lowerdir=/a/fs,upperdir=/b/fs,workdir=/b/work
219 158 0:94 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
220 158 0:95 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
225 224 0:29 /pods/x /sys/fs/cgroup/cpu ro,nosuid master:39 - cgroup cgroup rw,cpu
236 158 254:0 /kubelet/pods/x/etc-hosts /etc/hosts rw,relatime - ext4 /dev/vda rw,discard
237 220 254:0 /kubelet/pods/x/containers/m/5d /dev/termination-log rw,relatime - ext4 /dev/vda rw,discard
238 158 254:0 /containerd/x/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw,discard
239 158 254:0 /kubelet/pods/x/volumes/kubernetes.io~empty-dir/tmp /tmp rw,relatime - ext4 /dev/vda rw
240 220 0:74 / /dev/shm rw,nosuid,nodev,noexec,relatime shared:1 master:2 - tmpfs shm rw,size=65536k
112 219 0:95 /null /proc/interrupts rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
"""
DEVICE = "234 158 7:0 / /volume ro,relatime - ext4 /dev/loop0 rw\n"
FOLDER = "234 158 254:0 /csi/volumes/pvc-1/data /volume ro,relatime - ext4 /dev/vda rw,discard\n"
OWN, NODES = os.makedev(7, 0), os.makedev(254, 0)
DEVICES = {
    "/": os.makedev(0, 92),
    "/etc/hosts": NODES,
    "/dev/termination-log": NODES,
    "/tmp": NODES,
    "/volume": OWN,
}


def volume(**changes: str) -> Mount:
    """The volume that may be frozen, but for these changes."""
    (found,) = parse_mounts(DEVICE)
    return replace(found, **changes)


def refusal(mounts: list[Mount]) -> str:
    with pytest.raises(UsageError) as caught:
        check_mounts(mounts, "/volume")
    assert caught.value.what.startswith("not frozen: ")
    return caught.value.what


def test_a_device_with_a_file_system_of_its_own() -> None:
    mount = check_mounts(parse_mounts(NODE + DEVICE), "/volume")
    assert mount == Mount(device="7:0", root="/", point="/volume", kind="ext4", source="/dev/loop0")
    assert check_devices(DEVICES, "/volume", mount=mount) == OWN


def test_a_folder_of_the_node_is_refused_by_each_check() -> None:
    assert "it is the folder /csi/volumes/pvc-1/data" in refusal(parse_mounts(NODE + FOLDER))
    with pytest.raises(UsageError, match="/dev/termination-log, /etc/hosts, /tmp is on the same device"):
        check_devices({**DEVICES, "/volume": NODES}, "/volume", mount=volume())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # All of the node's own file system: nothing but its device tells.
        ({"source": "/dev/vda", "device": "254:0"}, "/etc/hosts is on the same device"),
        # The same device under another name, as /dev/mapper gives them.
        ({"source": "/dev/mapper/root", "device": "254:0"}, "/etc/hosts is on the same device"),
        # Of a file system that numbers its devices as it likes.
        ({"source": "/dev/vda", "kind": "btrfs", "device": "0:99"}, "/etc/hosts is on the same device"),
        ({"root": "/sub"}, "it is the folder /sub"),
        ({"root": "//"}, "it is the folder //"),
        ({"source": "/dev/root"}, "/dev/root is no device of its own"),
        ({"source": "server:/export"}, "no device of its own"),
        ({"source": "loop0"}, "no device of its own"),
        ({"source": "none"}, "no device of its own"),
        ({"source": "../dev/loop0"}, "no device of its own"),
    ],
)
def test_what_the_mounts_tell_against_it(changes: dict[str, str], words: str) -> None:
    assert words in refusal([*parse_mounts(NODE), volume(**changes)])


@pytest.mark.parametrize(
    "kind", ["overlay", "tmpfs", "nfs4", "zfs", "fuse", "fuseblk", "vfat", "ext", "ext44", "", "EXT4", "9p"]
)
def test_other_file_systems(kind: str) -> None:
    assert "is none of ext2, ext3, ext4, xfs, btrfs, f2fs" in refusal(
        [*parse_mounts(NODE), volume(kind=kind)]
    )


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"])
def test_file_systems_that_freeze(kind: str) -> None:
    assert check_mounts([*parse_mounts(NODE), volume(kind=kind)], "/volume").kind == kind


def test_mounts_over_each_other() -> None:
    mounts = parse_mounts(NODE)
    assert "0 mounts are there" in refusal(mounts)
    assert "2 mounts are there" in refusal([*mounts, volume(), volume(source="/dev/loop1", device="7:1")])
    assert "0 mounts are there" in refusal([*mounts, volume(point="/volume/")])


@pytest.mark.parametrize("point", ["/other", "/volume/below", "/"])
def test_the_same_device_elsewhere(point: str) -> None:
    """Somebody uses it for something else here: any such place is against it."""
    for other in (volume(point=point, root="/x"), volume(point=point, device="9:9")):
        assert f"{point} is on the same device" in refusal([*parse_mounts(NODE), volume(), other])
    assert f"{point} is on the same device" in refusal(
        [*parse_mounts(NODE), volume(), volume(point=point, source="/dev/dm-0")]
    )


@pytest.mark.parametrize("witness", WITNESSES)
def test_without_a_witness(witness: str) -> None:
    """A runtime that mounts nothing of the node tells nothing of its devices."""
    mounts = [one for one in parse_mounts(NODE) if one.point != witness]
    assert f"{witness} is no mount here" in refusal([*mounts, volume()])
    known = {place: number for place, number in DEVICES.items() if place != witness}
    with pytest.raises(UsageError, match="is not known"):
        check_devices(known, "/volume", mount=volume())


def test_what_the_devices_tell_against_it() -> None:
    mount = volume()
    for place in (*WITNESSES, "/tmp", "/anywhere"):
        with pytest.raises(UsageError, match=f"{place} is on the same device"):
            check_devices({**DEVICES, place: OWN}, "/volume", mount=mount)
    with pytest.raises(UsageError, match="of device 7:1, and what is mounted is 7:0"):
        check_devices({**DEVICES, "/volume": os.makedev(7, 1)}, "/volume", mount=mount)
    # Subvolumes have numbers of their own.
    own = os.makedev(0, 77)
    assert check_devices({**DEVICES, "/volume": own}, "/volume", mount=volume(kind="btrfs")) == own
    with pytest.raises(UsageError, match="the device of /volume is not known"):
        check_devices(dict.fromkeys(WITNESSES, 1), "/volume", mount=mount)


def test_names_with_spaces() -> None:
    (found,) = parse_mounts("1 2 7:0 /a\\040b /my\\134volume rw - ext4 /dev/disk\\040one rw\n")
    assert (found.root, found.point, found.source) == ("/a b", "/my\\volume", "/dev/disk one")


@pytest.mark.parametrize(
    "line", ["", "1 2 3", "1 2 7:0 / /volume rw ext4 /dev/loop0 rw", "1 2 7:0 / /v rw -"]
)
def test_a_line_that_is_not_understood(line: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_mounts(f"{NODE}{line}\n{DEVICE}")


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    """It is refused or understood, and never anything that is of the node."""
    try:
        mounts = parse_mounts(text)
        mount = check_mounts(mounts, "/volume")
    except UsageError:
        return
    assert mount.root == "/"


def test_this_machine_is_refused(tmp_path: Path) -> None:
    """What really is mounted here: a folder of it, its root, and what is no mount."""
    for folder in (tmp_path, Path("/"), Path("/proc"), Path("/tmp")):
        with pytest.raises(UsageError, match="not frozen"):
            open_volume(folder)
    # The kernel says the truth about devices where a table of mounts lies.
    table = tmp_path / "mountinfo"
    table.write_text(NODE + DEVICE.replace("/volume", str(tmp_path)))
    with pytest.raises(UsageError, match="not frozen"):
        open_volume(tmp_path, mountinfo=table)
