//! Which parts of a file hold data, by `SEEK_DATA` and `SEEK_HOLE`.

use std::iter::FusedIterator;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// How often a hole that appears and disappears while we look is asked about again.
const ATTEMPTS_MAX: u32 = 8;

/// A part of a file: `len` bytes from `offset`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Whether nothing is allocated here and it reads as zeros.
    pub is_hole: bool,
}

/// The segments of a file's first `size` bytes, in order, without gap or overlap, whatever others
/// do to the file meanwhile: growth is not seen, what was cut off looks like a hole (so compare the
/// size afterwards), and what cannot be told counts as data.
///
/// Moves the descriptor's file offset: read with `pread`, and not two of these on one descriptor.
#[derive(Debug)]
pub struct Segments<'fd> {
    fd: BorrowedFd<'fd>,
    next: u64,
    size: u64,
    is_supported: bool,
}

impl<'fd> Segments<'fd> {
    /// The segments of the first `size` bytes of `fd`.
    pub fn new(fd: BorrowedFd<'fd>, size: u64) -> Self {
        Self { fd, next: 0, size, is_supported: true }
    }

    /// The end of the segment that begins at `self.next`, and whether it is a hole.
    fn find_end(&mut self) -> (u64, bool) {
        for _ in 0..ATTEMPTS_MAX {
            if !self.is_supported {
                break;
            }
            match seek(self.fd, SeekFrom::Data(self.next)) {
                Err(Errno::NXIO) => return (self.size, true),
                Ok(data) if data > self.next => return (data.min(self.size), true),
                Ok(data) if data == self.next => {}
                // Not supported, or an answer that makes no sense.
                _ => self.is_supported = false,
            }
            match seek(self.fd, SeekFrom::Hole(self.next)) {
                Ok(hole) if hole > self.next => return (hole.min(self.size), false),
                // The data was punched away since the first question: ask again.
                Ok(_) | Err(Errno::NXIO) => {}
                Err(_) => self.is_supported = false,
            }
        }
        (self.size, false)
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.next >= self.size {
            return None;
        }
        let offset = self.next;
        let (end, is_hole) = self.find_end();
        self.next = end;
        Some(Segment { offset, len: end - offset, is_hole })
    }
}

impl FusedIterator for Segments<'_> {}
