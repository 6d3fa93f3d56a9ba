//! File flags (`chattr`): immutable, append-only, no copy-on-write and their like.

use std::os::fd::BorrowedFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::error::{Error, Result};

const COMPRESS: u32 = 0x4;
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;
const NO_COMPRESS: u32 = 0x400;
const NO_COW: u32 = 0x0080_0000;
const DAX: u32 = 0x0200_0000;
const CASEFOLD: u32 = 0x4000_0000;

/// The bits that a person or program sets and that mean the same on every file system. The others
/// (extents, inline data, encrypted, verity) tell how one file system stores one file.
pub const RESTORABLE: u32 = COMPRESS
    | IMMUTABLE
    | APPEND
    | NO_COMPRESS
    | NO_COW
    | DAX
    | CASEFOLD
    | IFlags::SECURE_REMOVAL.bits()
    | IFlags::UNRM.bits()
    | IFlags::SYNC.bits()
    | IFlags::NODUMP.bits()
    | IFlags::NOATIME.bits()
    | IFlags::JOURNALING.bits()
    | IFlags::NOTAIL.bits()
    | IFlags::DIRSYNC.bits()
    | IFlags::TOPDIR.bits()
    | IFlags::PROJECT_INHERIT.bits();

/// The bits that stop even their owner and root from changing the file.
pub const PROTECTING: u32 = IMMUTABLE | APPEND;

/// The bits that work only when set while a file or directory is empty.
const EARLY: u32 = COMPRESS | NO_COMPRESS | NO_COW | CASEFOLD;

/// The flags of the file or directory behind `fd`, only bits of [`RESTORABLE`]; 0 where the file
/// system has none.
pub fn read_flags(fd: BorrowedFd<'_>) -> Result<u32> {
    Ok(read_raw(fd)?.unwrap_or(0) & RESTORABLE)
}

/// Sets those of `wanted` that must be set before the first byte or entry is written. Best effort:
/// [`set_flags`] tries again in the end, and tells what is missing.
pub fn set_early_flags(fd: BorrowedFd<'_>, wanted: u32) {
    if wanted & EARLY == 0 {
        return;
    }
    if let Ok(Some(current)) = read_raw(fd) {
        set_each(fd, current, wanted & EARLY & !current);
    }
}

/// Makes the flags of `fd` equal to `wanted` within [`RESTORABLE`], inherited ones included.
/// Returns the bits that could not be changed, with the error of the last of them.
pub fn set_flags(fd: BorrowedFd<'_>, wanted: u32) -> Result<Option<(u32, Errno)>> {
    let wanted = wanted & RESTORABLE;
    let Some(current) = read_raw(fd)? else {
        return Ok((wanted != 0).then_some((wanted, Errno::OPNOTSUPP)));
    };
    let different = (current & RESTORABLE) ^ wanted;
    if different == 0 || set_raw(fd, current ^ different).is_ok() {
        return Ok(None);
    }
    // All or nothing failed: one by one, so that one unknown bit does not cost the others. The
    // protecting bits come last, as nothing can be changed behind them.
    let refused = set_each(fd, current, different & !PROTECTING);
    let current = read_raw(fd)?.unwrap_or(current);
    Ok(set_each(fd, current, different & PROTECTING).or(refused))
}

/// Takes the immutable and append-only bits off, so that the file can be overwritten. Returns
/// whether something was taken off.
pub fn unprotect(fd: BorrowedFd<'_>) -> Result<bool> {
    let Some(current) = read_raw(fd)? else {
        return Ok(false);
    };
    if current & PROTECTING == 0 {
        return Ok(false);
    }
    set_raw(fd, current & !PROTECTING)
        .map_err(|errno| Error::os("cannot clear the immutable flag", errno))?;
    Ok(true)
}

/// Flips the bits of `different` one at a time; returns those that were refused.
fn set_each(fd: BorrowedFd<'_>, mut current: u32, different: u32) -> Option<(u32, Errno)> {
    let mut refused = None;
    for bit in (0..u32::BITS).map(|shift| 1 << shift).filter(|bit| different & bit != 0) {
        match set_raw(fd, current ^ bit) {
            Ok(()) => current ^= bit,
            Err(errno) => refused = Some((refused.map_or(0, |(bits, _)| bits) | bit, errno)),
        }
    }
    refused
}

/// `None` where the file system has no flags.
fn read_raw(fd: BorrowedFd<'_>) -> Result<Option<u32>> {
    match ioctl_getflags(fd) {
        Ok(flags) => Ok(Some(flags.bits())),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(Error::os("cannot read the file flags", errno)),
    }
}

fn set_raw(fd: BorrowedFd<'_>, flags: u32) -> rustix::io::Result<()> {
    ioctl_setflags(fd, IFlags::from_bits_retain(flags))
}
