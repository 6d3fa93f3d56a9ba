//! Sources that are one file: a disk image, a block device, any regular file.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fstat, open as open_path, seek};
use rustix::io::Errno;

use super::entries::time;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Stat, display_path, flags::read_flags, stat_fd, xattr::read_xattrs_fd};
use crate::tree::{Node, Xattrs};

/// What was opened.
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    /// Bytes that can be read.
    pub(super) size: u64,
    /// What the file system says; `None` for a device, whose inode tells nothing of its content.
    pub(super) stat: Option<Stat>,
}

/// Opens the source and puts what is known of it into `node`. `Usage` if it is neither a regular file
/// nor a block device.
pub(super) fn open(path: &Path, node: &mut Node) -> Result<Opened> {
    let shown = || display_path(path.as_os_str().as_encoded_bytes());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match open_path(path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => open_path(path, flags, Mode::empty()),
        other => other,
    };
    let fd = fd.map_err(|errno| Error::os("cannot open", errno).at(shown()))?;
    let mode = fstat(&fd).map_err(|errno| Error::os("cannot stat", errno).at(shown()))?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => {
            let stat = stat_fd(fd.as_fd())?;
            node.mode = stat.mode;
            (node.uid, node.gid, node.ino) = (stat.uid, stat.gid, stat.ino);
            (node.mtime, node.ctime) = (time(stat.mtime), time(stat.ctime));
            node.btime = stat.btime.map(time);
            node.flags = read_flags(fd.as_fd()).unwrap_or_default();
            let xattrs = read_xattrs_fd(fd.as_fd()).unwrap_or_default();
            node.xattrs = Xattrs::new(xattrs.pairs).unwrap_or_default();
            Ok(Opened { fd, size: stat.size, stat: Some(stat) })
        }
        FileType::BlockDevice => {
            let size = seek(&fd, SeekFrom::End(0)).map_err(|errno| {
                Error::os("cannot tell the size of the device", errno).at(shown())
            })?;
            Ok(Opened { fd, size, stat: None })
        }
        _ => {
            let what = "neither a regular file nor a block device";
            Err(Error::new(ErrorKind::Usage, what).at(shown()))
        }
    }
}
