//! The content-defined chunker: a chunk ends where a keyed function of the last four bytes is least.
//!
//! Position `p` of the data, counted from the last cut, has the value
//! `v(p) = (u32le(data[p..p+4]) * a + b) mod 2^32`, with `a` odd and both secret. With at least
//! `max` bytes at hand the candidates are `min-4 <= p <= max-4`; the smallest value wins, the
//! leftmost of equals, and the cut is at `p + 4`. At the end of the data a rest of at most `average`
//! bytes is one chunk, and a longer one ends its candidates at its own last four bytes.
//!
//! `min` is half and `max` one and a half times the average. That window is deliberate: after an
//! insertion the cuts meet the old ones again within about one average, while a window half as wide
//! needs four times as long. The mean over random data is the average.
//!
//! The key keeps the cuts of known files from being computed by who does not hold it. It is no
//! pseudo-random function: who learns chunk lengths in quantity learns the key.

use std::fmt;

use zeroize::ZeroizeOnDrop;

use super::kernels::{Kernel, WINDOW_BYTES};
use crate::{Error, ErrorKind, Result};

/// Average chunk of a repository that does not say otherwise, in bytes.
pub const ARGMIN_AVERAGE_BYTES_DEFAULT: usize = 512 << 10;
/// Largest average, in bytes: one and a half times it still fits a small pack.
pub const ARGMIN_AVERAGE_BYTES_MAX: usize = 8 << 20;
/// An average is a multiple of this many bytes, and at least as large.
pub const ARGMIN_AVERAGE_BYTES_STEP: usize = 4096;

/// The secret of the chunker: two 32-bit numbers, wiped when dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct CutKey {
    multiplier: u32,
    addend: u32,
}

impl CutKey {
    /// The secret in the first eight bytes of the scope's chunker key: a little-endian multiplier,
    /// made odd, and a little-endian addend.
    pub fn new(chunker_key: &[u8; 32]) -> Self {
        let [a0, a1, a2, a3, b0, b1, b2, b3, ..] = *chunker_key;
        Self {
            multiplier: u32::from_le_bytes([a0, a1, a2, a3]) | 1,
            addend: u32::from_le_bytes([b0, b1, b2, b3]),
        }
    }
}

impl fmt::Debug for CutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CutKey(..)")
    }
}

/// Bounds of a chunk's length. Always `min = average / 2` and `max = average / 2 * 3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgminSizes {
    average: usize,
}

impl ArgminSizes {
    /// The sizes around an average, in bytes.
    ///
    /// Fails with [`ErrorKind::Usage`] unless the average is a multiple of
    /// [`ARGMIN_AVERAGE_BYTES_STEP`] from that to [`ARGMIN_AVERAGE_BYTES_MAX`].
    pub fn from_average(average: usize) -> Result<Self> {
        let in_range = (ARGMIN_AVERAGE_BYTES_STEP..=ARGMIN_AVERAGE_BYTES_MAX).contains(&average);
        if !in_range || !average.is_multiple_of(ARGMIN_AVERAGE_BYTES_STEP) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "average chunk of {average} bytes: must be a multiple of \
                     {ARGMIN_AVERAGE_BYTES_STEP} from {ARGMIN_AVERAGE_BYTES_STEP} to \
                     {ARGMIN_AVERAGE_BYTES_MAX}"
                ),
            ));
        }
        Ok(Self { average })
    }

    /// The sizes that a repository has stored, in bytes.
    ///
    /// Fails with [`ErrorKind::Unsupported`] if they are not those that this version makes: another
    /// relation between them would cut the same data elsewhere, and nothing would deduplicate.
    pub fn from_stored(min: u64, average: u64, max: u64) -> Result<Self> {
        let sizes = usize::try_from(average)
            .ok()
            .and_then(|average| Self::from_average(average).ok())
            .filter(|sizes| sizes.min_bytes() as u64 == min && sizes.max_bytes() as u64 == max);
        sizes.ok_or_else(|| {
            Error::unsupported(format!(
                "chunk sizes of {min}, {average} and {max} bytes are not known to this version"
            ))
        })
    }

    /// No chunk is shorter than this many bytes, but for the last.
    pub fn min_bytes(self) -> usize {
        self.average / 2
    }

    /// Mean length over random data, and the longest rest that is not searched, in bytes.
    pub fn average_bytes(self) -> usize {
        self.average
    }

    /// No chunk is longer than this many bytes.
    pub fn max_bytes(self) -> usize {
        self.average / 2 * 3
    }
}

impl Default for ArgminSizes {
    fn default() -> Self {
        Self { average: ARGMIN_AVERAGE_BYTES_DEFAULT }
    }
}

/// The content-defined chunker.
#[derive(Clone, Debug)]
pub struct Argmin {
    sizes: ArgminSizes,
    key: CutKey,
    kernel: Kernel,
}

impl Argmin {
    /// A chunker that runs on the fastest kernel of this machine.
    pub fn new(sizes: ArgminSizes, key: CutKey) -> Self {
        Self::with_kernel(sizes, key, Kernel::fastest())
    }

    /// A chunker that runs on `kernel`; all kernels cut alike, so this is for tests and measurements.
    pub fn with_kernel(sizes: ArgminSizes, key: CutKey, kernel: Kernel) -> Self {
        Self { sizes, key, kernel }
    }

    /// The bounds of its chunks.
    pub fn sizes(&self) -> ArgminSizes {
        self.sizes
    }

    /// The kernel it runs on.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Length of the chunk at the start of `data`; see [`Chunker::cut`](super::Chunker::cut).
    pub fn cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let end = if data.len() >= self.sizes.max_bytes() {
            self.sizes.max_bytes()
        } else if !at_end || data.is_empty() {
            return None;
        } else if data.len() <= self.sizes.average_bytes() {
            return Some(data.len());
        } else {
            data.len()
        };
        let first = self.sizes.min_bytes() - WINDOW_BYTES;
        let (multiplier, addend) = (self.key.multiplier, self.key.addend);
        let least = self.kernel.argmin(&data[first..end], multiplier, addend);
        Some(first + least + WINDOW_BYTES)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn argmin(average: usize) -> Argmin {
        let key = CutKey::new(&[0x5a; 32]);
        Argmin::new(ArgminSizes::from_average(average).unwrap(), key)
    }

    #[test]
    fn key_is_split_little_endian_and_made_odd() {
        let mut bytes = [0xff; 32];
        bytes[..8].copy_from_slice(&[0x10, 0x32, 0x54, 0x76, 1, 2, 3, 4]);
        let key = CutKey::new(&bytes);
        assert_eq!((key.multiplier, key.addend), (0x7654_3211, 0x0403_0201));
        assert_eq!(format!("{key:?}"), "CutKey(..)");
    }

    #[test]
    fn sizes_are_checked() {
        let sizes = ArgminSizes::default();
        assert_eq!(
            (sizes.min_bytes(), sizes.average_bytes(), sizes.max_bytes()),
            (262_144, 524_288, 786_432)
        );
        assert_eq!(ArgminSizes::from_stored(262_144, 524_288, 786_432).unwrap(), sizes);
        for average in [4096, 12_288, 8 << 20] {
            let sizes = ArgminSizes::from_average(average).unwrap();
            assert_eq!((sizes.min_bytes() * 2, sizes.max_bytes() * 2), (average, average * 3));
        }
        for average in [0, 64, 4095, 4097, (8 << 20) + 4096, usize::MAX] {
            let error = ArgminSizes::from_average(average).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage, "{average}");
        }
        for (min, average, max) in [
            (0, 0, 0),
            (262_143, 524_288, 786_432),
            (262_144, 524_288, 786_433),
            (2049, 4098, 6147),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            let error = ArgminSizes::from_stored(min, average, max).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported, "{min} {average} {max}");
        }
    }

    #[test]
    fn asks_for_more_until_it_can_decide() {
        let chunker = argmin(4096);
        let data = vec![7; 10_000];
        assert_eq!(chunker.cut(&[], false), None);
        assert_eq!(chunker.cut(&[], true), None);
        assert_eq!(chunker.cut(&data[..6143], false), None);
        // All values are equal, and the leftmost candidate ends at the minimum.
        assert_eq!(chunker.cut(&data[..6144], false), Some(2048));
        assert_eq!(chunker.cut(&data, false), Some(2048));
        assert_eq!(chunker.cut(&data[..1], true), Some(1));
        assert_eq!(chunker.cut(&data[..4096], true), Some(4096));
        assert_eq!(chunker.cut(&data[..4097], true), Some(2048));
        assert_eq!(chunker.cut(&data, true), Some(2048));
    }

    #[test]
    fn first_and_last_candidates_count_and_their_neighbours_do_not() {
        // With this key v(p) is the window itself, so that a window of zero bytes is the least.
        let key = CutKey::new(&[0; 32]);
        let chunker = Argmin::new(ArgminSizes::from_average(4096).unwrap(), key);
        let cut_with_zeros_at = |position: usize, length: usize, at_end: bool| {
            let mut data = vec![0xff; length];
            data[position..position + 4].fill(0);
            chunker.cut(&data, at_end)
        };
        assert_eq!(cut_with_zeros_at(2044, 6144, false), Some(2048));
        assert_eq!(cut_with_zeros_at(6140, 6144, false), Some(6144));
        assert_eq!(cut_with_zeros_at(6140, 9000, false), Some(6144));
        assert_eq!(cut_with_zeros_at(5001, 5005, true), Some(5005));
        // One byte after the window: three zero bytes are in sight, in the high end of the value.
        assert_eq!(cut_with_zeros_at(6141, 9000, false), Some(6144));
        // One byte before it: the first candidate sees them in the low end, and so do its neighbours.
        assert_eq!(cut_with_zeros_at(2043, 9000, false), Some(2048));
        assert_eq!(cut_with_zeros_at(2040, 9000, false), Some(2048));
    }
}
