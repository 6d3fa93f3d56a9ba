"""The only importer of the FUSE binding: mounts, and lends the binding what it lacks."""

import ctypes
import signal
from typing import Any

import mfusepy

from pvback import limits
from pvback.errors import FileError, UsageError
from pvback.fuse.files import Files, MountOptions
from pvback.ops.browse import Browser
from pvback.ops.shelf import Place, Shelves
from pvback.runtime import Clock

__all__ = ["mount"]

_FILL_PLUS = 2
"""libfuse's FUSE_FILL_DIR_PLUS: these attributes are complete, so that the kernel need not ask for them."""
_IDLE_THREADS = 10
"""That wait for the kernel at most. libfuse 3.14 complains of its own default."""
_ENDED_BY_SIGNAL = 8
"""What libfuse's main returns when its loop did not end by an unmount."""


def mount(
    directory: str, browser: Browser, *, top: Shelves | Place, clock: Clock, options: MountOptions
) -> None:
    """Show `top` at `directory` until it is unmounted, or SIGINT or SIGTERM comes; then unmount it.

    Only for the main thread. Raises UsageError for a libfuse that is too old, FileError when it cannot be
    mounted.
    """
    if mfusepy.fuse_version_major != 3:
        raise UsageError("libfuse 2 was found, but 3 is needed", hint="set FUSE_LIBRARY_NAME=fuse3")
    files = Files(browser, top=top, clock=clock, options=options)
    others = {"allow_other": True, "default_permissions": True} if options.allow_other else {}
    # libfuse ends its loop and unmounts by these signals, where nobody else has taken them.
    old = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _Session(
            files,
            directory,
            foreground=True,
            ro=True,
            nosuid=True,
            nodev=True,
            fsname="pvback",
            subtype="pvback",
            use_ino=True,
            kernel_cache=True,
            entry_timeout=limits.MOUNT_KERNEL_SECONDS,
            attr_timeout=limits.MOUNT_KERNEL_SECONDS,
            max_idle_threads=_IDLE_THREADS,
            **others,
        )
    except RuntimeError as exc:
        if exc.args != (_ENDED_BY_SIGNAL,) or not files.was_ready:
            raise FileError(
                "it could not be mounted", key=directory, hint="libfuse has said why above"
            ) from exc
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Session(mfusepy.FUSE):  # type: ignore[misc] # the binding has no types
    """The binding's own, but for directories: it hands over names only, and the kernel would ask for each."""

    def readdir_fuse_3(self, path: Any, buf: Any, filler: Any, offset: int, fip: Any, flags: int) -> int:  # noqa: ANN401 - C values
        """Hands over entries with all their attributes, from `offset` on, as many as there is room for."""
        found = mfusepy.c_stat()
        for name, attributes, following in self.operations.entries_from(fip.contents.fh, offset):
            ctypes.memset(ctypes.byref(found), 0, ctypes.sizeof(found))
            mfusepy.set_st_attrs(found, attributes, use_ns=True)
            if filler(buf, name, found, following, _FILL_PLUS):
                break
        return 0

    def lseek(self, path: Any, offset: int, whence: int, fip: Any) -> int:  # noqa: ANN401 - C values
        """The binding knows this operation but does not pass it on."""
        found: int = self.operations.lseek(offset, whence, fip.contents.fh)
        return found
