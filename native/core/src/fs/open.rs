//! Opening what is to be read, without following, blocking, or leaving a trace.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::display_path;
use super::meta::{FileKind, Stat};
use super::stat::stat_fd;
use crate::error::{Error, Result};

/// Longest path handed to one system call, in bytes: `PATH_MAX` counts the NUL too.
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// What [`open_regular`] found.
#[derive(Debug)]
pub enum Opened {
    /// The file, open for reading, and what it is now: size and times may have moved on.
    File(OwnedFd, Stat),
    /// Something else has that name by now.
    Replaced,
}

/// Opens the regular file `name` in `dir` for reading, if it is still the inode that `expected`
/// describes. Never waits on a FIFO, never follows a symlink, leaves the access time alone where
/// permitted.
pub fn open_regular(dir: BorrowedFd<'_>, name: &[u8], expected: &Stat) -> Result<Opened> {
    let fd = match open_quietly(dir, name, OFlags::NONBLOCK) {
        Ok(fd) => fd,
        // A symlink, a socket or a device without a driver.
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(Opened::Replaced),
        Err(errno) => return Err(Error::os("cannot open", errno).at(display_path(name))),
    };
    let stat = stat_fd(fd.as_fd()).map_err(|error| error.at(display_path(name)))?;
    if stat.kind != FileKind::File || !stat.is_same_inode(expected) {
        return Ok(Opened::Replaced);
    }
    Ok(Opened::File(fd, stat))
}

/// Opens the directory `name` in `dir` for listing. Not through a symlink.
pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    open_quietly(dir, name, OFlags::DIRECTORY)
        .map_err(|errno| Error::os("cannot open the directory", errno).at(display_path(name)))
}

/// Where the symlink `name` in `dir` points: raw bytes of any length.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    readlinkat(dir, name, Vec::new())
        .map(std::ffi::CString::into_bytes)
        .map_err(|errno| Error::os("cannot read the link", errno).at(display_path(name)))
}

/// Opens for reading without touching the access time, or touching it where the kernel refuses to
/// leave it alone, as it does to all but the owner and the privileged.
fn open_quietly(dir: BorrowedFd<'_>, name: &[u8], extra: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// Opens the directory at `path` below `base`: checked names joined by `/`, no more than
/// [`PATH_BYTES_MAX`] bytes. Follows no symlink and leaves `base` for nothing.
pub(super) fn open_beneath(base: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(base, path, flags, Mode::empty(), resolve) {
        // Not there, forbidden by a sandbox that does not know it, or unsure because something
        // moved.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_stepwise(base, path),
        other => other,
    }
}

/// The same without `openat2`.
pub(super) fn open_stepwise(base: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = path.split(|&byte| byte == b'/');
    let mut fd = openat(base, names.next().unwrap_or_default(), flags, Mode::empty())?;
    for name in names {
        fd = openat(&fd, name, flags, Mode::empty())?;
    }
    Ok(fd)
}
