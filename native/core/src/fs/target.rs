//! Creating entries below the root of a restore, and never outside of it.
//!
//! A path is resolved with `openat2` where the kernel has it, else name by name; both ways no
//! symlink is followed and nothing above the root can be reached, whoever changes the target
//! meanwhile. All else works on one name in an open directory, and checks that it is one name.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;

use super::apply::Subject;
use super::denied::{Category, Denied};
use super::flags::unprotect;
use super::meta::{FileKind, Stat};
use super::open::{PATH_BYTES_MAX, open_beneath, open_stepwise};
use super::stat::{stat_at, stat_fd};
use super::{check_name, display_path};
use crate::error::{Error, Result};

/// Permissions of new files and directories until their own are applied: nobody else gets in.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The root of a restore.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
}

impl Target {
    /// The existing directory at `path`, which itself may lead through symlinks.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            Error::os("cannot open the target", errno).at(path.to_string_lossy())
        })?;
        Ok(Self { root })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the existing directory at `path` below the root: names joined by `/`, of any total
    /// length; empty for the root itself. An error with `ELOOP` or `ENOTDIR` if a symlink is in the
    /// way.
    pub fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let fail = |error: Error| error.at(display_path(path));
        if path.is_empty() {
            return self.root.try_clone().map_err(|error| {
                fail(Error::os("cannot open", Errno::from_io_error(&error).unwrap_or(Errno::IO)))
            });
        }
        for name in path.split(|&byte| byte == b'/') {
            check_name(name)?;
        }
        let mut rest = path;
        let mut base: Option<OwnedFd> = None;
        while !rest.is_empty() {
            let (piece, after) = split_piece(rest);
            let from = base.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            base = Some(
                open_beneath(from, piece)
                    .map_err(|errno| fail(Error::os("cannot open the directory", errno)))?,
            );
            rest = after;
        }
        base.ok_or_else(|| fail(Error::internal("path without a name")))
    }

    /// Opens the directory at `path`, making those on the way that are missing.
    pub fn make_dirs(&self, path: &[u8]) -> Result<OwnedFd> {
        if let Ok(fd) = self.dir(path) {
            return Ok(fd);
        }
        let mut fd = self.dir(b"")?;
        for name in path.split(|&byte| byte == b'/') {
            fd = make_dir(fd.as_fd(), name).map_err(|error| error.at(display_path(path)))?.0;
        }
        Ok(fd)
    }
}

/// Cuts as many whole names off `path` as one system call takes.
fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_BYTES_MAX {
        return (path, &[]);
    }
    let head = path.get(..PATH_BYTES_MAX).unwrap_or(path);
    let cut = head.iter().rposition(|&byte| byte == b'/').unwrap_or(head.len());
    (path.get(..cut).unwrap_or(path), path.get(cut + 1..).unwrap_or_default())
}

/// Makes the directory `name` in `dir`, or opens the one that is there; tells whether it is new. An
/// existing one becomes writable for its owner, and loses the immutable flag. An error with
/// `ENOTDIR` or `ELOOP` if something else has the name.
pub fn make_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, bool)> {
    check_name(name)?;
    let fail = |errno| Error::os("cannot make the directory", errno).at(display_path(name));
    let is_new = match mkdirat(dir, name, Mode::from_raw_mode(DIR_MODE)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(fail(errno)),
    };
    let fd = match open_stepwise(dir, name) {
        Err(Errno::ACCESS) if make_accessible(dir, name, DIR_MODE) => open_stepwise(dir, name),
        other => other,
    }
    .map_err(fail)?;
    if !is_new {
        let stat = stat_fd(fd.as_fd())?;
        // Best effort: where this is not permitted, what is done inside says so.
        let _ = unprotect(fd.as_fd());
        if stat.mode & DIR_MODE != DIR_MODE {
            let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.mode | DIR_MODE));
        }
    }
    Ok((fd, is_new))
}

/// Makes the regular file `name` in `dir`, which must not exist, and opens it for reading and
/// writing.
pub fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    check_name(name)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from_raw_mode(FILE_MODE))
        .map_err(|errno| Error::os("cannot create the file", errno).at(display_path(name)))
}

/// Opens the existing regular file `name` in `dir` for reading and writing in place, whatever its
/// flags and permissions, if it can be done. `None` if it is no regular file, or not there. Its
/// `nlink` tells whether other names will see what is written.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<(OwnedFd, Stat)>> {
    check_name(name)?;
    // Before it is opened: opening a device can act on it.
    match stat_at(dir, name) {
        Ok(stat) if stat.kind == FileKind::File => {}
        Ok(_) => return Ok(None),
        Err(error) if error.os_error == Some(Errno::NOENT.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || openat(dir, name, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::ACCESS) if make_accessible(dir, name, FILE_MODE) => open(),
        Err(Errno::PERM) if unprotect_entry(dir, name) => open(),
        other => other,
    };
    let fd = match opened {
        Ok(fd) => fd,
        Err(
            Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV | Errno::ISDIR | Errno::NOTDIR,
        ) => {
            return Ok(None);
        }
        Err(errno) => {
            return Err(Error::os("cannot open for writing", errno).at(display_path(name)));
        }
    };
    let stat = stat_fd(fd.as_fd())?;
    Ok((stat.kind == FileKind::File).then_some((fd, stat)))
}

/// Makes the symlink `name` in `dir`; `link_target` is any bytes but NUL, 1 to 4095 of them.
pub fn make_symlink(dir: BorrowedFd<'_>, name: &[u8], link_target: &[u8]) -> Result<()> {
    check_name(name)?;
    symlinkat(link_target, dir, name)
        .map_err(|errno| Error::os("cannot make the symlink", errno).at(display_path(name)))
}

/// Makes the FIFO, socket or device node `name` in `dir`. Returns false where device nodes are not
/// permitted, which `denied` counts for `path`.
pub fn make_special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    wanted: &Stat,
    path: &[u8],
    denied: &mut Denied,
) -> Result<bool> {
    check_name(name)?;
    let file_type = match wanted.kind {
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::File | FileKind::Dir | FileKind::Symlink => {
            return Err(Error::internal("not a special file").at(display_path(name)));
        }
    };
    let device = makedev(wanted.rdev.0, wanted.rdev.1);
    match mknodat(dir, name, file_type, Mode::from_raw_mode(FILE_MODE), device) {
        Ok(()) => Ok(true),
        Err(errno @ (Errno::PERM | Errno::ACCESS | Errno::INVAL)) if wanted.kind.is_device() => {
            denied.add(Category::Device, path, Some(errno));
            Ok(false)
        }
        Err(errno) => Err(Error::os("cannot make the node", errno).at(display_path(name))),
    }
}

/// Makes `name` in `dir` another name of `old_name` in `old_dir`, of any kind but a directory. Not
/// possible once the file is immutable: flags come after links. Without privilege the kernel may
/// refuse links to other owners' or setuid files.
pub fn make_link(
    old_dir: BorrowedFd<'_>,
    old_name: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<()> {
    check_name(old_name)?;
    check_name(name)?;
    linkat(old_dir, old_name, dir, name, AtFlags::empty())
        .map_err(|errno| Error::os("cannot make the hard link", errno).at(display_path(name)))
}

/// Adds `mode` to the permissions of an entry that we own. Returns whether to try again.
pub(super) fn make_accessible(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> bool {
    Subject::open(dir, name).and_then(|subject| subject.add_mode(mode)).unwrap_or(false)
}

/// Takes the immutable and append-only flags off a regular file or directory. Returns whether to
/// try again.
pub(super) fn unprotect_entry(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    Subject::open(dir, name).and_then(|subject| subject.unprotect()).unwrap_or(false)
}
