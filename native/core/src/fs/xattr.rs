//! Extended attributes of all namespaces, access control lists among them.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, lgetxattr, listxattr,
    llistxattr, removexattr, setxattr,
};
use rustix::io::Errno;

use super::meta::Xattr;
use super::{display_path, proc_error, proc_path};
use crate::error::{Error, Result};

/// First size of the buffers for lists and values; most fit, and need one call then.
const FIRST_BYTES: usize = 1024;

/// Largest list and largest value that Linux knows, in bytes.
const BYTES_MAX: usize = 64 * 1024;

/// What reading the attributes of one entry gave.
#[derive(Clone, Debug, Default)]
pub struct XattrsRead {
    /// Those that could be read, sorted by name.
    pub pairs: Vec<Xattr>,
    /// Those whose names are listed but whose values are refused.
    pub errors: Vec<Error>,
}

/// The attributes of the regular file or directory behind `fd`, which is not an `O_PATH` one.
pub fn read_xattrs_fd(fd: BorrowedFd<'_>) -> Result<XattrsRead> {
    read_all(&Place::Fd(fd))
}

/// The attributes of the entry `name` of `dir`, of any kind; of a symlink itself. Needs `/proc`.
pub fn read_xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<XattrsRead> {
    let place = Place::Entry(proc_path(dir, Some(name))?);
    read_all(&place).map_err(|error| error.at(display_path(name)))
}

/// How to get at an inode's attributes.
pub(super) enum Place<'fd> {
    /// By an ordinary descriptor.
    Fd(BorrowedFd<'fd>),
    /// By a path whose last component is not followed.
    Entry(CString),
    /// By the `/proc` path of an `O_PATH` descriptor, which leads to exactly the inode it has open.
    Handle(CString),
}

impl Place<'_> {
    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Fd(fd) => flistxattr(fd, buffer),
            Self::Entry(path) => llistxattr(path, buffer),
            Self::Handle(path) => listxattr(path, buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Fd(fd) => fgetxattr(fd, name, buffer),
            Self::Entry(path) => lgetxattr(path, name, buffer),
            Self::Handle(path) => getxattr(path, name, buffer),
        }
    }

    /// Creates or replaces the attribute `name`.
    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        let flags = XattrFlags::empty();
        match self {
            Self::Fd(fd) => fsetxattr(fd, name, value, flags),
            Self::Handle(path) => setxattr(path, name, value, flags),
            Self::Entry(path) => rustix::fs::lsetxattr(path, name, value, flags),
        }
    }

    /// Removes the attribute `name`.
    pub(super) fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Fd(fd) => fremovexattr(fd, name),
            Self::Handle(path) => removexattr(path, name),
            Self::Entry(path) => rustix::fs::lremovexattr(path, name),
        }
    }
}

/// Reads all attributes of `place`.
pub(super) fn read_all(place: &Place<'_>) -> Result<XattrsRead> {
    let list = match read_growing(|buffer| place.list(buffer)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(XattrsRead::default()),
        Err(errno) => return Err(proc_error("cannot list the extended attributes", errno)),
    };
    let mut read = XattrsRead::default();
    for name in list.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        match read_growing(|buffer| place.get(name, buffer)) {
            Ok(value) => read.pairs.push((name.to_bytes().to_vec(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => {
                let what = format!("cannot read the attribute {}", display_path(name.to_bytes()));
                read.errors.push(Error::os(what, errno));
            }
        }
    }
    read.pairs.sort_unstable();
    read.pairs.dedup_by(|a, b| a.0 == b.0);
    Ok(read)
}

/// Calls `read` with larger buffers until what it reads fits; that may grow between two calls.
fn read_growing(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut first = [0; FIRST_BYTES];
    match read(&mut first) {
        Ok(len) => return Ok(first.get(..len).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    // Nothing is larger than this, so that growth cannot outrun us.
    let mut buffer = vec![0; BYTES_MAX];
    let len = read(&mut buffer)?;
    buffer.truncate(len);
    buffer.shrink_to_fit();
    Ok(buffer)
}
