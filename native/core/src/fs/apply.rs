//! Giving an entry its attributes back.
//!
//! The order matters. Changing the owner clears setuid, setgid and file capabilities, so the owner
//! comes first. Extended attributes come while the owner may still write. An access control list
//! changes the group bits, so the mode comes after it. File systems are free to touch times on each
//! of these, so times come next to last. Flags come last, as an immutable file cannot be changed
//! any more.
//!
//! What the kernel does not permit is no error: [`Denied`] counts it. A restore without
//! privilege brings back what it may.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat,
    fchmod, futimens, openat, utimensat,
};
use rustix::io::Errno;

use super::denied::{Category, Denied};
use super::flags::{set_flags, unprotect};
use super::meta::{Attributes, FileKind, Stat, Timestamp, Xattr};
use super::stat::stat_fd;
use super::xattr::{Place, XattrsRead, read_all};
use super::{display_path, proc_error, proc_path};
use crate::error::{Error, ErrorKind, Result};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// No user or group: `chown` takes it as "leave alone".
const NOBODY_AT_ALL: u32 = u32::MAX;

/// The inode to apply attributes to, however it was reached. It stays the same inode, whatever
/// happens to its name.
#[derive(Debug)]
pub enum Subject<'fd> {
    /// A regular file or directory that is open for reading or writing.
    Open(BorrowedFd<'fd>),
    /// An `O_PATH` descriptor of any kind of entry, and its `/proc` path.
    Handle(OwnedFd, CString),
}

impl Subject<'_> {
    /// The entry `name` of `dir`; a symlink itself. Opens nothing that could react. Needs `/proc`.
    pub fn open(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())
            .map_err(|errno| Error::os("cannot open", errno).at(display_path(name)))?;
        let path = proc_path(&fd, None)?;
        Ok(Self::Handle(fd, path))
    }

    /// What it is now.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.fd())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Handle(fd, _) => fd.as_fd(),
        }
    }

    /// Gives the owner the permissions `mode` besides those that are. Returns whether they were
    /// missing and no longer are.
    pub(super) fn add_mode(&self, mode: u32) -> Result<bool> {
        let stat = self.stat()?;
        if stat.kind == FileKind::Symlink || stat.mode & mode == mode {
            return Ok(false);
        }
        self.chmod(stat.mode | mode)
            .map_err(|errno| proc_error("cannot change the mode", errno))?;
        // Some file systems accept a mode and keep their own.
        Ok(self.stat()?.mode & mode == mode)
    }

    /// Takes the immutable and append-only flags off. Returns whether there were any.
    pub(super) fn unprotect(&self) -> Result<bool> {
        self.with_readable(false, unprotect)
    }

    /// Calls `act` with a descriptor for flags, if this kind has any and it can be opened; else
    /// returns `otherwise`.
    fn with_readable<T>(
        &self,
        otherwise: T,
        act: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Open(fd) => act(*fd),
            Self::Handle(fd, path) => {
                // Opening a device or FIFO could act on it.
                if !stat_fd(fd.as_fd())?.kind.has_flags() {
                    return Ok(otherwise);
                }
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match openat(CWD, path, flags, Mode::empty()) {
                    Ok(readable) => act(readable.as_fd()),
                    Err(_) => Ok(otherwise),
                }
            }
        }
    }

    fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> rustix::io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(self.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn chmod(&self, mode: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Handle(_, path) => chmodat(CWD, path, mode, AtFlags::empty()),
        }
    }

    fn set_mtime(&self, mtime: Timestamp) -> rustix::io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) },
        };
        match self {
            Self::Open(fd) => futimens(fd, &times),
            Self::Handle(_, path) => utimensat(CWD, path, &times, AtFlags::empty()),
        }
    }

    fn place(&self) -> Place<'_> {
        match self {
            Self::Open(fd) => Place::Fd(*fd),
            Self::Handle(_, path) => Place::Handle(path.clone()),
        }
    }
}

/// Makes the attributes of `subject` those of `wanted`: owner, extended attributes, mode, mtime,
/// flags. `path` is what `denied` shows. Directories from the deepest up, after all that is to be
/// created in them; a file after its content and its hard links.
///
/// Setuid and setgid of a file are left out if its owner or group could not be restored: they would
/// lend the rights of somebody else. What is there in the end is compared with `wanted`.
pub fn apply_attributes(
    subject: &Subject<'_>,
    wanted: &Attributes,
    path: &[u8],
    denied: &mut Denied,
) -> Result<()> {
    apply_attributes_but_flags(subject, wanted, path, denied)?;
    apply_flags(subject, wanted, path, denied)
}

/// The first part of [`apply_attributes`], for a file that is still to get hard links.
pub fn apply_attributes_but_flags(
    subject: &Subject<'_>,
    wanted: &Attributes,
    path: &[u8],
    denied: &mut Denied,
) -> Result<()> {
    let found = subject.stat().map_err(|error| error.at(display_path(path)))?;
    if found.kind != wanted.stat.kind {
        let what = "replaced by another kind of file while it was restored";
        return Err(Error::new(ErrorKind::Io, what).at(display_path(path)));
    }
    let mut work = Work { subject, wanted, path, denied };
    work.apply(&found).map_err(|error| error.at(display_path(path)))
}

/// The last part of [`apply_attributes`]. Nothing can be changed behind it if the file is
/// immutable.
pub fn apply_flags(
    subject: &Subject<'_>,
    wanted: &Attributes,
    path: &[u8],
    denied: &mut Denied,
) -> Result<()> {
    if !wanted.stat.kind.has_flags() {
        return Ok(());
    }
    let unreachable = (wanted.flags != 0).then_some((wanted.flags, Errno::ACCESS));
    let refused = subject
        .with_readable(unreachable, |fd| set_flags(fd, wanted.flags))
        .map_err(|error| error.at(display_path(path)))?;
    if let Some((_, errno)) = refused {
        denied.add(Category::Flags, path, Some(errno));
    }
    Ok(())
}

struct Work<'a> {
    subject: &'a Subject<'a>,
    wanted: &'a Attributes,
    path: &'a [u8],
    denied: &'a mut Denied,
}

impl Work<'_> {
    fn apply(&mut self, found: &Stat) -> Result<()> {
        if found.kind.has_flags() {
            // Where that is not permitted, the steps below are not either, and are counted.
            let _ = self.subject.unprotect();
        }
        let owner = self.apply_owner(found)?;
        self.apply_xattrs(found)?;
        let mode = self.apply_mode()?;
        let times = self.apply_times()?;
        self.compare(owner, mode, times)
    }

    /// Counts what came out different: refused, or silently changed by the kernel (setgid of a
    /// group that is not ours), the file system (times that it cannot hold) or a server (owners
    /// that it maps). A refusal to set what was right already is none.
    fn compare(
        &mut self,
        owner: Option<Errno>,
        mode: Option<Errno>,
        times: Option<Errno>,
    ) -> Result<()> {
        let (found, wanted) = (self.subject.stat()?, &self.wanted.stat);
        if (found.uid, found.gid) != (wanted.uid, wanted.gid) {
            self.denied.add(Category::Owner, self.path, owner);
        }
        if found.kind != FileKind::Symlink && found.mode != wanted.mode {
            self.denied.add(Category::Mode, self.path, mode);
        }
        if found.mtime != wanted.mtime {
            self.denied.add(Category::Times, self.path, times);
        }
        Ok(())
    }

    fn apply_owner(&self, found: &Stat) -> Result<Option<Errno>> {
        let wanted = &self.wanted.stat;
        let uid = (wanted.uid != found.uid && wanted.uid != NOBODY_AT_ALL).then_some(wanted.uid);
        let gid = (wanted.gid != found.gid && wanted.gid != NOBODY_AT_ALL).then_some(wanted.gid);
        if uid.is_none() && gid.is_none() {
            return Ok(None);
        }
        let refused = tolerate("cannot change the owner", self.subject.chown(uid, gid))?;
        if refused.is_some() && uid.is_some() && gid.is_some() {
            // The owner may hand a file to a group of its own, even if it may not give it away.
            tolerate("cannot change the group", self.subject.chown(None, gid))?;
        }
        Ok(refused)
    }

    fn apply_xattrs(&mut self, found: &Stat) -> Result<()> {
        let place = self.subject.place();
        let present = read_all(&place)?;
        let stale = stale_names(&present, &self.wanted.xattrs);
        let missing =
            || self.wanted.xattrs.iter().filter(|&pair| present.pairs.binary_search(pair).is_err());
        let needs_write = missing().any(|(name, _)| name.starts_with(b"user."));
        if needs_write && found.kind.has_flags() && found.mode & 0o200 == 0 {
            // The kernel wants write permission for this namespace; the mode proper comes later.
            let _ = self.subject.add_mode(0o600);
        }
        let mut refusals = Vec::new();
        for name in stale {
            match place.remove(name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => refusals.push((Category::of_xattr(name), errno)),
            }
        }
        for (name, value) in missing() {
            if let Err(errno) = place.set(name, value) {
                refusals.push((Category::of_xattr(name), errno));
            }
        }
        for (category, errno) in refusals {
            let refused = tolerate("cannot change an extended attribute", Err(errno))?;
            self.denied.add(category, self.path, refused);
        }
        Ok(())
    }

    fn apply_mode(&self) -> Result<Option<Errno>> {
        let wanted = &self.wanted.stat;
        if wanted.kind == FileKind::Symlink {
            return Ok(None);
        }
        let mut mode = wanted.mode & 0o7777;
        // On a directory these only say whose group new entries get.
        if mode & (SETUID | SETGID) != 0 && wanted.kind != FileKind::Dir {
            let found = self.subject.stat()?;
            if found.uid != wanted.uid {
                mode &= !SETUID;
            }
            if found.gid != wanted.gid {
                mode &= !SETGID;
            }
        }
        tolerate("cannot change the mode", self.subject.chmod(mode))
    }

    fn apply_times(&self) -> Result<Option<Errno>> {
        let mtime = self.wanted.stat.mtime;
        // Larger values have meanings of their own to the kernel.
        if mtime.nanos >= 1_000_000_000 {
            return Ok(Some(Errno::INVAL));
        }
        tolerate("cannot change the times", self.subject.set_mtime(mtime))
    }
}

/// Tells a refusal, or something that this file system cannot hold, from an error.
fn tolerate(what: &'static str, outcome: rustix::io::Result<()>) -> Result<Option<Errno>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(
            errno @ (Errno::PERM
            | Errno::ACCESS
            | Errno::OPNOTSUPP
            | Errno::NOSYS
            | Errno::INVAL
            | Errno::RANGE
            | Errno::TOOBIG
            | Errno::OVERFLOW
            | Errno::NOSPC
            | Errno::DQUOT),
        ) => Ok(Some(errno)),
        Err(errno) => Err(proc_error(what, errno)),
    }
}

/// Attributes that are there and should not be, inherited access control lists among them. Labels
/// that a security module put on the new file stay: they are its business, and cannot be taken off.
fn stale_names<'a>(present: &'a XattrsRead, wanted: &[Xattr]) -> Vec<&'a [u8]> {
    // Not a binary search: the order of stored attributes is not to be trusted with this.
    let is_wanted = |name: &[u8]| wanted.iter().any(|pair| pair.0 == name);
    let is_ours = |name: &[u8]| {
        name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || name.starts_with(b"system.posix_acl_")
            || name == b"security.capability"
    };
    let names = present.pairs.iter().map(|(name, _)| name.as_slice());
    names.filter(|name| is_ours(name) && !is_wanted(name)).collect()
}
