//! Zero blocks, which are extents of their own and never reach a chunker.
//!
//! Only whole blocks of [`ZERO_BLOCK_BYTES`] at multiples of that size in the file count, and the
//! partial block at the end. So how a file was read in pieces has no influence on what is found, and
//! a few zeros inside a database page do not tear its chunk apart.

use std::ops::Range;

/// Size and alignment of the blocks that are tested, in bytes.
pub const ZERO_BLOCK_BYTES: usize = 64 << 10;

/// Bytes that are looked at before the next decision to go on: wide enough for vector instructions
/// to pay, small enough that data that is not zero costs next to nothing.
const STRIDE_BYTES: usize = 256;

/// Whether all bytes are zero; true of none. Stops near the first byte that is not.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (strides, rest) = bytes.as_chunks::<STRIDE_BYTES>();
    let or = |bytes: &[u8]| bytes.iter().fold(0, |bits, byte| bits | byte);
    strides.iter().all(|stride| or(stride) == 0) && or(rest) == 0
}

/// A part of a buffer, as a range in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Bytes for the chunker.
    Data(Range<usize>),
    /// Nothing but zeros.
    Zero(Range<usize>),
}

impl Span {
    /// The range in the buffer; never empty.
    pub fn range(&self) -> Range<usize> {
        let (Self::Data(range) | Self::Zero(range)) = self;
        range.clone()
    }
}

/// Iterator that takes a buffer apart into data and zeros, in turn and without gaps.
///
/// A partial block at the end of the buffer is not returned unless it is the end of the data,
/// since the rest of it is not known yet: keep the bytes from [`consumed`](Self::consumed) on and
/// go on from there with more. The spans of one buffer after the other, joined where two of a kind
/// meet, are those of the whole, if the first buffer starts at a multiple of [`ZERO_BLOCK_BYTES`]
/// or at the start of an extent. Bytes up to the first such multiple are data.
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    data: &'a [u8],
    /// Bytes of the first block that lie before the buffer.
    before: usize,
    at_end: bool,
    consumed: usize,
    /// The piece that ended the span before, so that no block is tested twice.
    next: Option<Piece>,
}

/// What one test found at one place.
#[derive(Clone, Copy, Debug)]
struct Piece {
    end: usize,
    is_zero: bool,
}

impl<'a> Spans<'a> {
    /// Takes `data` apart, whose first byte is byte `offset` of the file. `at_end` says that no
    /// byte follows `data`, in the file or in this extent of it.
    pub fn new(offset: u64, data: &'a [u8], at_end: bool) -> Self {
        // The remainder is less than 64 Ki.
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of what fits")]
        let before = (offset % ZERO_BLOCK_BYTES as u64) as usize;
        let mut spans = Self { data, before, at_end, consumed: 0, next: None };
        spans.next = spans.piece_at(0);
        spans
    }

    /// Bytes at the start of the buffer that the spans returned so far cover.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// The piece that starts at `start`, no longer than a block.
    fn piece_at(&self, start: usize) -> Option<Piece> {
        let rest = self.data.get(start..).filter(|rest| !rest.is_empty())?;
        let into_block = (self.before + start) % ZERO_BLOCK_BYTES;
        if into_block != 0 {
            let length = rest.len().min(ZERO_BLOCK_BYTES - into_block);
            return Some(Piece { end: start + length, is_zero: false });
        }
        let block = match rest.get(..ZERO_BLOCK_BYTES) {
            Some(block) => block,
            None if self.at_end => rest,
            None => return None,
        };
        Some(Piece { end: start + block.len(), is_zero: is_zero(block) })
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.next?;
        let start = self.consumed;
        let mut end = first.end;
        self.next = loop {
            match self.piece_at(end) {
                Some(piece) if piece.is_zero == first.is_zero => end = piece.end,
                other => break other,
            }
        };
        self.consumed = end;
        Some(if first.is_zero { Span::Zero(start..end) } else { Span::Data(start..end) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = ZERO_BLOCK_BYTES;

    fn spans(offset: u64, data: &[u8], at_end: bool) -> Vec<Span> {
        Spans::new(offset, data, at_end).collect()
    }

    #[test]
    fn a_single_bit_is_seen_wherever_it_is() {
        for length in [0, 1, 3, 255, 256, 257, 1000, 1024] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for position in 0..length {
                bytes[position] = 1 << (position % 8);
                assert!(!is_zero(&bytes), "{position} of {length}");
                bytes[position] = 0;
            }
        }
    }

    #[test]
    fn only_whole_aligned_blocks_count() {
        let mut data = vec![0; 4 * BLOCK];
        assert_eq!(spans(0, &data, false), [Span::Zero(0..4 * BLOCK)]);
        data[BLOCK] = 1;
        data[3 * BLOCK - 1] = 1;
        let torn =
            [Span::Zero(0..BLOCK), Span::Data(BLOCK..3 * BLOCK), Span::Zero(3 * BLOCK..4 * BLOCK)];
        assert_eq!(spans(7 * BLOCK as u64, &data, false), torn);
        // Nearly two blocks of zeros, out of step, hold one whole block, or none.
        let zeros = vec![0; 2 * BLOCK - 1];
        let lead = [Span::Data(0..BLOCK - 1), Span::Zero(BLOCK - 1..2 * BLOCK - 1)];
        assert_eq!(spans(1, &zeros, false), lead);
        let short = &zeros[..2 * BLOCK - 3];
        assert_eq!(spans(2, short, false), [Span::Data(0..BLOCK - 2)]);
        assert_eq!(spans(u64::MAX, &[0; 8], false), [Span::Data(0..1)]);
    }

    #[test]
    fn the_last_partial_block_waits_for_the_end() {
        let data = vec![0; BLOCK + 10];
        let mut open = Spans::new(0, &data, false);
        assert_eq!(open.next(), Some(Span::Zero(0..BLOCK)));
        assert_eq!(open.next(), None);
        assert_eq!(open.consumed(), BLOCK);
        assert_eq!(spans(0, &data, true), [Span::Zero(0..BLOCK + 10)]);
        assert_eq!(spans(0, &data[..10], true), [Span::Zero(0..10)]);
        // What comes before the buffer may not be zero.
        assert_eq!(spans(5, &data[..10], true), [Span::Data(0..10)]);
        assert_eq!(spans(0, &[], true), []);
        let mut ends_in_data = data.clone();
        ends_in_data[BLOCK + 9] = 1;
        let expected = [Span::Zero(0..BLOCK), Span::Data(BLOCK..BLOCK + 10)];
        assert_eq!(spans(0, &ends_in_data, true), expected);
    }

    /// Zero or data for each byte, by the definition.
    fn zeros_by_definition(offset: usize, data: &[u8]) -> Vec<bool> {
        let block_of = |position: usize| (offset + position) / BLOCK;
        let is_whole_and_zero = |block: usize| {
            let start = (block * BLOCK).checked_sub(offset);
            let end = data.len().min((block + 1) * BLOCK - offset);
            start.is_some_and(|start| data[start..end].iter().all(|&byte| byte == 0))
        };
        let first = block_of(0);
        let blocks: Vec<bool> = (first..=block_of(data.len())).map(is_whole_and_zero).collect();
        (0..data.len()).map(|position| blocks[block_of(position) - first]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_make_the_whole(
            offset in prop_oneof![Just(0_usize), Just(4 * BLOCK), 0..2 * BLOCK],
            length in 0..6 * BLOCK,
            ones in prop::collection::vec(0..6 * BLOCK, 0..5),
            reads in prop::collection::vec(1..2 * BLOCK, 1..20),
        ) {
            let mut data = vec![0; length];
            for one in ones {
                if let Some(byte) = data.get_mut(one) {
                    *byte = 1;
                }
            }
            let (mut found, mut shown, mut reads) = (Vec::new(), 0, reads.into_iter().cycle());
            while found.len() < length {
                shown = length.min(shown + reads.next().unwrap_or(1));
                let start = found.len();
                let mut spans = Spans::new(
                    (offset + start) as u64, &data[start..shown], shown == length,
                );
                let mut last = None;
                for span in spans.by_ref() {
                    prop_assert_eq!(start + span.range().start, found.len());
                    prop_assert!(!span.range().is_empty());
                    let is_zero = matches!(span, Span::Zero(_));
                    prop_assert_ne!(last.replace(is_zero), Some(is_zero), "spans were not joined");
                    found.resize(start + span.range().end, is_zero);
                }
                prop_assert_eq!(start + spans.consumed(), found.len());
            }
            prop_assert_eq!(found, zeros_by_definition(offset, &data));
        }
    }
}
