//! The chunker for block volumes and files that are rewritten in place: chunks of one size, aligned
//! to the start of the file.
//!
//! A change in place touches the chunks it lies in and no other. Alignment counts from byte 0 of the
//! file, not from where reading began: after a hole that ends in the middle of a chunk, the first
//! chunk is only as long as it takes to get back into step.

use crate::{Error, ErrorKind, Result};

/// Size of a chunk where nothing else is asked for, in bytes.
pub const FIXED_BYTES_DEFAULT: usize = 128 << 10;
/// Largest size of a chunk, in bytes.
pub const FIXED_BYTES_MAX: usize = 8 << 20;
/// A size is a multiple of this many bytes (a page), and at least as large.
pub const FIXED_BYTES_STEP: usize = 4096;

/// The chunker that cuts at multiples of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    chunk_bytes: usize,
}

impl Fixed {
    /// Chunks of `chunk_bytes`.
    ///
    /// Fails with [`ErrorKind::Usage`] unless that is a multiple of [`FIXED_BYTES_STEP`] from that
    /// to [`FIXED_BYTES_MAX`].
    pub fn new(chunk_bytes: usize) -> Result<Self> {
        let in_range = (FIXED_BYTES_STEP..=FIXED_BYTES_MAX).contains(&chunk_bytes);
        if !in_range || !chunk_bytes.is_multiple_of(FIXED_BYTES_STEP) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "fixed chunk of {chunk_bytes} bytes: must be a multiple of {FIXED_BYTES_STEP} \
                     from {FIXED_BYTES_STEP} to {FIXED_BYTES_MAX}"
                ),
            ));
        }
        Ok(Self { chunk_bytes })
    }

    /// Size of a chunk, in bytes.
    pub fn chunk_bytes(self) -> usize {
        self.chunk_bytes
    }

    /// Length of the chunk at the start of `data`, which is byte `offset` of the file; see
    /// [`Chunker::cut`](super::Chunker::cut).
    pub fn cut(self, offset: u64, data: &[u8], at_end: bool) -> Option<usize> {
        // The remainder is less than a `usize` that was widened, so it fits one.
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of what fits")]
        let into_chunk = (offset % self.chunk_bytes as u64) as usize;
        let length = self.chunk_bytes - into_chunk;
        if data.len() >= length {
            Some(length)
        } else if at_end && !data.is_empty() {
            Some(data.len())
        } else {
            None
        }
    }
}

impl Default for Fixed {
    fn default() -> Self {
        Self { chunk_bytes: FIXED_BYTES_DEFAULT }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Fixed::default().chunk_bytes(), 131_072);
        for chunk_bytes in [4096, 12_288, 131_072, 8 << 20] {
            assert_eq!(Fixed::new(chunk_bytes).unwrap().chunk_bytes(), chunk_bytes);
        }
        for chunk_bytes in [0, 512, 4095, 6000, (8 << 20) + 4096, usize::MAX - 4095] {
            let error = Fixed::new(chunk_bytes).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage, "{chunk_bytes}");
        }
    }

    #[test]
    fn cuts_at_multiples_of_the_size() {
        let fixed = Fixed::new(8192).unwrap();
        let data = vec![0; 20_000];
        assert_eq!(fixed.cut(0, &data, false), Some(8192));
        assert_eq!(fixed.cut(8192, &data[8192..], false), Some(8192));
        assert_eq!(fixed.cut(16_384, &data[16_384..], false), None);
        assert_eq!(fixed.cut(16_384, &data[16_384..], true), Some(3616));
        assert_eq!(fixed.cut(20_000, &[], true), None);
        // Out of step: the first chunk leads back.
        assert_eq!(fixed.cut(12_288, &data, false), Some(4096));
        assert_eq!(fixed.cut(12_287, &data[..4096], false), None);
        assert_eq!(fixed.cut(12_287, &data[..4097], false), Some(4097));
        assert_eq!(fixed.cut(u64::MAX, &data, false), Some(1));
    }
}
