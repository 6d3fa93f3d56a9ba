"""Which file system may be frozen: the volume's own, and never one that anything else stands on.

A frozen file system stops everybody who writes to it. A volume may be a folder of the node's own file system;
to freeze that would stop the node, and with it who could thaw it. So two checks that know nothing of each
other have to pass: what the kernel says is mounted where, and the device numbers of what is there. What is
not understood is refused. The first half is pure; the second asks the kernel.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvback.errors import UsageError

__all__ = ["WITNESSES", "Mount", "check_devices", "check_mounts", "open_volume", "parse_mounts"]

TYPES = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs")
"""File systems that freeze as a whole, and that we know to."""
WITNESSES = ("/", "/etc/hosts", "/dev/termination-log")
"""What container runtimes take from the node: where they are missing, nothing is known of its devices."""
_NUMBERED = ("ext2", "ext3", "ext4", "xfs", "f2fs")
"""Whose files have the number of the device that is mounted; btrfs gives each subvolume one of its own."""
_NO_DEVICES = ("/dev/root",)
_ESCAPED = re.compile(r"\\([0-7]{3})")
_FIELDS_MIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of `/proc/self/mountinfo`; see proc(5).

    Attributes:
        device: `MAJOR:MINOR`.
        root: What of the file system is mounted.
        point: Where.
        kind: Of the file system.
        source: As it was mounted by.
    """

    device: str
    root: str
    point: str
    kind: str
    source: str


def parse_mounts(text: str) -> list[Mount]:
    """All mounts, in order. Raises UsageError for a line that is not understood."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        try:
            at = fields.index("-", 6)
            kind, source = fields[at + 1 : at + 3]
            found.append(
                Mount(
                    device=fields[2],
                    root=_plain(fields[3]),
                    point=_plain(fields[4]),
                    kind=kind,
                    source=_plain(source),
                )
            )
        except ValueError:
            raise UsageError(f"a mount is not understood: {line!r}") from None
    return found


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def check_mounts(mounts: Sequence[Mount], folder: str) -> Mount:
    """The mount at `folder`, if it is a whole file system on a device that nothing else here is of.

    Raises UsageError with what is against it.
    """
    own = [one for one in mounts if one.point == folder]
    if len(own) != 1:
        raise _refused(f"{len(own)} mounts are there, not one", folder)
    (mount,) = own
    if missing := [one for one in WITNESSES if all(two.point != one for two in mounts)]:
        raise _refused(f"{', '.join(missing)} is no mount here: nothing tells the node's devices", folder)
    if mount.kind not in TYPES:
        raise _refused(f"{mount.kind} is none of {', '.join(TYPES)}", folder)
    if mount.root != "/":
        raise _refused(f"it is the folder {mount.root} of a file system that others may use", folder)
    if not mount.source.startswith("/dev/") or mount.source in _NO_DEVICES:
        raise _refused(f"{mount.source} is no device of its own", folder)
    for other in mounts:
        if other is not mount and (other.source == mount.source or other.device == mount.device):
            raise _refused(f"{other.point} is on the same device, {mount.source}", folder)
    return mount


def check_devices(devices: Mapping[str, int], folder: str, *, mount: Mount) -> int:
    """The device number of what is in `folder`, if no other place has it: `devices` is of all places.

    Raises UsageError with what is against it.
    """
    missing = [one for one in (folder, *WITNESSES) if one not in devices]
    if missing:
        raise _refused(f"the device of {', '.join(missing)} is not known", folder)
    own = devices[folder]
    same = sorted(place for place, number in devices.items() if number == own and place != folder)
    if same:
        raise _refused(f"{', '.join(same)} is on the same device", folder)
    number = f"{os.major(own)}:{os.minor(own)}"
    if mount.kind in _NUMBERED and number != mount.device:
        raise _refused(f"its files are of device {number}, and what is mounted is {mount.device}", folder)
    return own


def open_volume(folder: Path, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> int:
    """A descriptor of the folder, when both checks have passed. Raises UsageError, OSError."""
    mounts = parse_mounts(mountinfo.read_text())
    mount = check_mounts(mounts, str(folder))
    places = {str(folder), *WITNESSES, "/tmp", *(one.point for one in mounts)}  # noqa: S108 -- of the container
    number = check_devices(_devices(places), str(folder), mount=mount)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(opened).st_dev != number:
        os.close(opened)
        raise _refused("something else is mounted there by now", str(folder))
    return opened


def _devices(places: set[str]) -> dict[str, int]:
    found = {}
    for place in places:
        try:
            found[place] = Path(place).stat().st_dev
        except OSError:
            # Hidden by another mount, or closed to us; the places that have to be known are asked for.
            continue
    return found


def _refused(why: str, folder: str) -> UsageError:
    return UsageError(
        f"not frozen: {why}",
        key=folder,
        hint="only a volume that is a device with a file system of its own can be frozen",
    )
