//! Changing what is allocated in a file or block device: holes, reserved zeros, the end.

use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::{Errno, pwrite, retry_on_intr};

use crate::error::{Error, Result};

/// Written at once where zeros must really be written.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// No device has larger sectors, in bytes, but such as take zeros written everywhere.
const SECTOR_BYTES_MAX: u64 = 4096;

/// Makes `len` bytes from `offset` a hole, without changing the file's size. Where the file system
/// has no holes, or a device not in such places, writes zeros.
pub fn punch_hole(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| fallocate(fd, flags, offset, len)) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(fd, offset, len),
        // A device takes whole sectors only.
        Err(Errno::INVAL) => punch_whole_sectors(fd, offset, len),
        Err(errno) => Err(Error::os("cannot punch a hole", errno).offset(offset)),
    }
}

/// Punches the whole sectors of a range, and writes zeros over what is left of it at both ends.
fn punch_whole_sectors(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let end = offset.saturating_add(len);
    let first = offset.checked_next_multiple_of(SECTOR_BYTES_MAX).unwrap_or(end).min(end);
    let last = (end - end % SECTOR_BYTES_MAX).max(first);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if first == last || retry_on_intr(|| fallocate(fd, flags, first, last - first)).is_err() {
        return write_zeros(fd, offset, len);
    }
    write_zeros(fd, offset, first - offset)?;
    write_zeros(fd, last, end - last)
}

/// Makes `len` bytes from `offset` allocated zeros, whatever was there, growing the file if needed.
pub fn zero_range(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(fd, FallocateFlags::ZERO_RANGE, offset, len)) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(fd, offset, len),
        Err(errno) => Err(Error::os("cannot allocate", errno).offset(offset)),
    }
}

/// Reserves space for `len` bytes from `offset`, keeping the size and what is there, so that a full
/// disk shows before the first byte is fetched and the file lies in one piece. Does nothing where
/// the file system cannot.
pub fn reserve(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(fd, FallocateFlags::KEEP_SIZE, offset, len)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(Error::os("cannot reserve space", errno).offset(offset)),
    }
}

/// Sets the file's size; what it gains is a hole.
pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    retry_on_intr(|| ftruncate(fd, size))
        .map_err(|errno| Error::os("cannot set the size", errno).offset(size))
}

/// Writes all of `bytes` at `offset`.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        let fail = |errno| Error::os("cannot write", errno).offset(offset);
        let count = retry_on_intr(|| pwrite(fd, bytes, offset)).map_err(fail)?;
        if count == 0 {
            return Err(fail(Errno::IO));
        }
        bytes = bytes.get(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

fn write_zeros(fd: BorrowedFd<'_>, mut offset: u64, mut len: u64) -> Result<()> {
    while len > 0 {
        let count = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        write_all(fd, ZEROS.get(..count).unwrap_or_default(), offset)?;
        offset += count as u64;
        len -= count as u64;
    }
    Ok(())
}
