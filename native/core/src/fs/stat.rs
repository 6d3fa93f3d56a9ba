//! `statx`, relative to an open directory and never through a symlink.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, makedev, statx};

use super::dir::Dir;
use super::display_path;
use super::meta::{FileKind, Stat, Timestamp};
use super::names::Names;
use crate::error::{Error, ErrorKind, Result};

/// `stx_blocks` counts units of 512 bytes whatever the file system's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// What the entry `name` of `dir` is; a symlink itself, not what it points to. Triggers no
/// automount.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let raw = statx(dir, name, flags, wanted_fields())
        .map_err(|errno| Error::os("cannot stat", errno).at(display_path(name)))?;
    convert(&raw).map_err(|error| error.at(display_path(name)))
}

/// What `fd` has open. Works on `O_PATH` descriptors too.
pub fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat> {
    let raw = statx(fd, c"", AtFlags::EMPTY_PATH, wanted_fields())
        .map_err(|errno| Error::os("cannot stat an open file", errno))?;
    convert(&raw)
}

/// One [`Stat`] or error for each of `names`, in their order. May run for many batches at once. If
/// `dir` itself can no longer be reached, each entry has that error.
pub fn stat_batch(dir: &Dir, names: &Names) -> Vec<Result<Stat>> {
    match dir.fd() {
        Ok(fd) => names
            .iter()
            .map(|(name, _)| stat_at(fd.as_fd(), name).map_err(|error| dir.locate(error, name)))
            .collect(),
        Err(error) => names.iter().map(|(name, _)| Err(dir.locate(error.clone(), name))).collect(),
    }
}

fn wanted_fields() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

fn convert(raw: &Statx) -> Result<Stat> {
    let mode = u32::from(raw.stx_mode);
    let kind = FileKind::from_type(FileType::from_raw_mode(mode))
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "unknown kind of file"))?;
    let has_btime = raw.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(Stat {
        kind,
        mode: mode & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        size: raw.stx_size,
        allocated_bytes: raw.stx_blocks.saturating_mul(STAT_BLOCK_BYTES),
        mtime: timestamp(&raw.stx_mtime),
        ctime: timestamp(&raw.stx_ctime),
        btime: has_btime.then(|| timestamp(&raw.stx_btime)),
        ino: raw.stx_ino,
        dev: makedev(raw.stx_dev_major, raw.stx_dev_minor),
        nlink: raw.stx_nlink,
        rdev: if kind.is_device() { (raw.stx_rdev_major, raw.stx_rdev_minor) } else { (0, 0) },
    })
}

fn timestamp(raw: &StatxTimestamp) -> Timestamp {
    Timestamp { secs: raw.tv_sec, nanos: raw.tv_nsec }
}
