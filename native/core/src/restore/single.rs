//! Restoring one entry to a path of its own: a file, whatever its name was, or an existing block device.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::pass::Root;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Target;
use crate::tree::{Kind, Node};

/// Where a single entry goes.
pub(super) struct Single {
    /// The directory that will hold it; none where a dry run finds none.
    pub(super) parent: Option<Target>,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// The device to write to instead.
    pub(super) device: Option<Arc<OwnedFd>>,
}

/// Opens the place for `node` at `path`.
pub(super) fn open(path: &Path, node: &Node, is_dry_run: bool) -> Result<Root> {
    let usage = |what| Error::new(ErrorKind::Usage, what).at(path.to_string_lossy());
    let name = path.file_name().ok_or_else(|| usage("not the path of a file"))?;
    let name = name.as_bytes().to_vec();
    // Here a symlink is followed: devices are often named by one.
    let device = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(usage("a directory cannot become a file; name a file in it"));
        }
        Ok(found) if found.file_type().is_block_device() => {
            if node.kind() != Kind::File {
                return Err(usage("only a file can be restored to a device"));
            }
            Some(Arc::new(open_device(path, node.size(), is_dry_run)?))
        }
        _ => None,
    };
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => return Err(usage("not the path of a file")),
    };
    let parent = super::open_target(&parent, is_dry_run)?;
    Ok(Root::Single(Single { parent, name, device }))
}

/// Opens a device that nobody else uses, and that is large enough.
fn open_device(path: &Path, size: u64, is_dry_run: bool) -> Result<OwnedFd> {
    let fail = |what, errno| Error::os(what, errno).at(path.to_string_lossy());
    let access = if is_dry_run { OFlags::RDONLY } else { OFlags::RDWR };
    // Exclusive: the kernel refuses while it is mounted or part of something.
    let flags = access | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::BUSY => fail("the device is in use", errno),
        _ => fail("cannot open the device", errno),
    })?;
    let capacity = seek(&fd, SeekFrom::End(0))
        .map_err(|errno| fail("cannot tell the device's size", errno))?;
    if capacity < size {
        let what = format!("the device has {capacity} bytes, and {size} are needed");
        return Err(Error::new(ErrorKind::Usage, what).at(path.to_string_lossy()));
    }
    Ok(fd)
}
