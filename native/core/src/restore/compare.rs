//! Comparing what is in the target with the snapshot, so that only what differs is fetched.

use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};

use super::file::FileTask;
use super::progress::Counters;
use super::run::{Mode, Run};
use super::window::{Piece, Plan, SparsePiece};
use crate::error::{Error, Result};

/// Files with a digest are compared as a whole up to this size; others by their chunks.
const DIGEST_BYTES_MAX: u64 = 4 << 20;
/// Bytes read at a time where zeros are expected.
const ZERO_BYTES: usize = 256 << 10;
/// Bytes of a device that are cleared together, because some of them are not zero.
const DATA_BYTES: u64 = 64 << 10;

/// Compares a batch of chunks.
pub(super) fn compare(run: &Run, plan: &Arc<Plan>, from: usize, to: usize, buffer: &mut Vec<u8>) {
    for chunk in plan.chunks.get(from..to).unwrap_or_default() {
        for piece in plan.pieces_of(chunk) {
            if !piece.file.is_existing() {
                continue;
            }
            match is_there(run, piece, chunk.id.0, buffer) {
                Ok(false) => {}
                Ok(true) => {
                    Counters::add(&run.counters.bytes_unchanged, u64::from(piece.len));
                    piece.settle(run);
                }
                Err(error) => {
                    piece.file.fail(run, error);
                    piece.settle(run);
                }
            }
        }
    }
    plan.batch_compared(run);
}

/// Whether the bytes of a piece are in the target for sure.
fn is_there(run: &Run, piece: &Piece, id: [u8; 32], buffer: &mut Vec<u8>) -> Result<bool> {
    let file = &piece.file;
    if let Some(digest) = &file.digest
        && file.size <= DIGEST_BYTES_MAX
    {
        if let Some(is_equal) = file.is_equal.get() {
            return Ok(*is_equal);
        }
        let is_equal =
            read_range(run, file, 0, file.size, buffer)? && run.ids.id(buffer).starts_with(digest);
        return Ok(*file.is_equal.get_or_init(|| is_equal));
    }
    // A piece that is a whole chunk has the chunk's id; what is only a part of one is fetched.
    Ok(piece.chunk_offset == 0
        && read_range(run, file, piece.offset, u64::from(piece.len), buffer)?
        && run.ids.id(buffer) == id)
}

/// Reads a range of a file into `buffer`, which it then fills; false if the file is shorter.
fn read_range(
    run: &Run,
    file: &FileTask,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> Result<bool> {
    let fd = file.readable(run)?;
    let len = usize::try_from(len).map_err(|_| Error::internal("a range too long for memory"))?;
    buffer.resize(len, 0);
    read_exact(fd.as_fd(), buffer, offset)
}

/// Fills `buffer` from `offset` on; false if the file is shorter.
pub(super) fn read_exact(
    fd: BorrowedFd<'_>,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> Result<bool> {
    while !buffer.is_empty() {
        match pread(fd, &mut *buffer, offset) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                buffer = buffer.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("cannot read the target", errno).offset(offset)),
        }
    }
    Ok(true)
}

/// Makes a batch of holes and zeros, or compares them.
pub(super) fn sparse(run: &Run, pieces: &[SparsePiece]) {
    for piece in pieces {
        if run.check().is_err() {
            return;
        }
        let file = &piece.file;
        match run.mode {
            Mode::Restore => file.clear(run, piece.offset, piece.len, piece.is_zero),
            Mode::DryRun => {}
            Mode::Verify => match is_piece_zero(run, piece) {
                Ok(true) => {}
                Ok(false) => {
                    let why = Error::damaged("not zero as in the snapshot");
                    file.damage(run, piece.offset, piece.len, &why);
                }
                Err(error) => file.fail(run, error),
            },
        }
        Counters::add(&run.counters.bytes, piece.len);
        Counters::add(&run.counters.bytes_sparse, piece.len);
        file.piece_done(run);
    }
}

fn is_piece_zero(run: &Run, piece: &SparsePiece) -> Result<bool> {
    let fd = piece.file.readable(run)?;
    is_zero(fd.as_fd(), piece.offset..piece.offset + piece.len)
}

/// Whether a range reads as zeros, as far as the file reaches. Only what is allocated is read.
pub(super) fn is_zero(fd: BorrowedFd<'_>, range: Range<u64>) -> Result<bool> {
    let mut buffer = Vec::new();
    let mut at = range.start;
    while at < range.end {
        // What cannot be told counts as data.
        let data = match seek(fd, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(true),
            Ok(data) => data.max(at),
            Err(_) => at,
        };
        if data >= range.end {
            return Ok(true);
        }
        at = match seek(fd, SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => hole.min(range.end),
            _ => range.end,
        };
        if !is_data_zero(fd, data..at, &mut buffer)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first data in a range that does not read as zeros, to within a few pages; None where there is none.
pub(super) fn first_data(fd: BorrowedFd<'_>, range: Range<u64>) -> Result<Option<Range<u64>>> {
    let mut buffer = Vec::new();
    let mut found: Option<Range<u64>> = None;
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + DATA_BYTES);
        if is_data_zero(fd, at..end, &mut buffer)? {
            if found.is_some() {
                break;
            }
        } else {
            found = Some(found.map_or(at, |data| data.start)..end);
        }
        at = end;
    }
    Ok(found)
}

fn is_data_zero(fd: BorrowedFd<'_>, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        buffer.resize(left.min(ZERO_BYTES), 0);
        if !read_exact(fd, buffer, at)? || !crate::chunk::is_zero(buffer) {
            return Ok(false);
        }
        at += buffer.len() as u64;
    }
    Ok(true)
}
