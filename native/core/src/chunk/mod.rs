//! Cutting bytes into chunks.
//!
//! A [`Chunker`] looks at a buffer that the caller owns and says where the chunk at its start ends.
//! It keeps nothing between calls and allocates nothing, so one chunker serves any number of
//! threads, and the same bytes give the same chunks however they were read.
//!
//! - [`Argmin`]: content-defined, keyed, for files.
//! - [`Fixed`]: pages of one size, aligned to the start of the file, for block volumes and for
//!   files that are rewritten in place.
//! - [`Spans`]: sets zero blocks aside before either of them sees a byte.

use std::ops::Range;

mod argmin;
mod fixed;
mod kernels;
mod zeros;

pub use argmin::{
    ARGMIN_AVERAGE_BYTES_DEFAULT, ARGMIN_AVERAGE_BYTES_MAX, ARGMIN_AVERAGE_BYTES_STEP, Argmin,
    ArgminSizes, CutKey,
};
pub use fixed::{FIXED_BYTES_DEFAULT, FIXED_BYTES_MAX, FIXED_BYTES_STEP, Fixed};
pub use kernels::Kernel;
pub use zeros::{Span, Spans, ZERO_BLOCK_BYTES, is_zero};

/// One of the ways to cut, chosen when the repository or the source is set up.
#[derive(Clone, Debug)]
pub enum Chunker {
    /// Content-defined chunks.
    Argmin(Argmin),
    /// Chunks of one size, aligned to the start of the file.
    Fixed(Fixed),
}

impl Chunker {
    /// Length of the chunk that starts at `data[0]`, which is byte `offset` of the file or stream,
    /// and at which the chunk before it ended.
    ///
    /// `None` asks for more bytes; it is never returned once `data` holds
    /// [`longest_chunk_bytes`](Self::longest_chunk_bytes), nor when `at_end` is set, except for
    /// empty `data`. `at_end` says that no byte follows `data`. The answer is never 0, and does not
    /// depend on how much more than the longest chunk is shown.
    pub fn cut(&self, offset: u64, data: &[u8], at_end: bool) -> Option<usize> {
        match self {
            Self::Argmin(argmin) => argmin.cut(data, at_end),
            Self::Fixed(fixed) => fixed.cut(offset, data, at_end),
        }
    }

    /// The chunks of `data`, as ranges in it, in order and without gaps. Ends where more bytes are
    /// needed: keep those from [`Chunks::consumed`] on, append to them, and ask again.
    pub fn chunks<'a>(&'a self, offset: u64, data: &'a [u8], at_end: bool) -> Chunks<'a> {
        Chunks { chunker: self, offset, data, at_end, consumed: 0 }
    }

    /// No chunk is longer than this many bytes: a buffer that holds as much always makes progress.
    pub fn longest_chunk_bytes(&self) -> usize {
        match self {
            Self::Argmin(argmin) => argmin.sizes().max_bytes(),
            Self::Fixed(fixed) => fixed.chunk_bytes(),
        }
    }
}

/// Iterator over the chunks of one buffer; see [`Chunker::chunks`].
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    chunker: &'a Chunker,
    offset: u64,
    data: &'a [u8],
    at_end: bool,
    consumed: usize,
}

impl Chunks<'_> {
    /// Bytes at the start of the buffer that the chunks returned so far cover.
    pub fn consumed(&self) -> usize {
        self.consumed
    }
}

impl Iterator for Chunks<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.consumed;
        let rest = self.data.get(start..)?;
        // A file offset may be close to 2^64 only if a caller made it up; wrapping keeps alignment.
        let offset = self.offset.wrapping_add(start as u64);
        let length = self.chunker.cut(offset, rest, self.at_end)?;
        self.consumed = start + length;
        Some(start..self.consumed)
    }
}
