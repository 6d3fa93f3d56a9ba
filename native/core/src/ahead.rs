//! What was read of packs lately, and a little more than was asked for: pages that are wanted one after the
//! other mostly lie one after the other, and a request costs more than the bytes behind it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::blobs::{GAP_BYTES, Range1};
use crate::buffers::Buffer;
use crate::index::Place;

/// How far the first read goes ahead that follows another; each further one goes twice as far, up to the most.
const AHEAD_BYTES_MIN: u64 = GAP_BYTES;
/// A pack of metadata, and more than it may be too long by.
const PACK_BYTES: u64 = 9 << 20;

/// How much more is read than was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Packs of up to this many bytes are read at once; of longer ones, a read that begins them goes so far.
    whole: u64,
    /// How far a read goes ahead at most that follows another.
    ahead: u64,
    /// Bytes of all that is kept.
    kept: u64,
}

impl Reach {
    /// For who may want a few pages only.
    pub(crate) const SHORT: Self = Self { whole: 1 << 20, ahead: 2 << 20, kept: 4 << 20 };

    /// For who walks through whole trees, more than once maybe, and has `bytes` for what is kept of them (and twice
    /// as much for what is on its way): a request for each pack, where that suffices.
    pub(crate) fn walk(bytes: u64) -> Self {
        let Self { whole, ahead, kept } = Self::SHORT;
        let bytes = bytes.min(PACK_BYTES);
        Self { whole: whole.max(bytes), ahead: ahead.max(bytes), kept: kept.max(bytes) }
    }
}

/// A part of a pack, its outer layer opened.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pack: (u32, u32),
    /// Plaintext offsets of the pack.
    pub(crate) bytes: Range<u64>,
    pub(crate) data: Arc<Buffer>,
}

/// The windows that were read last.
#[derive(Debug)]
pub(crate) struct Windows {
    kept: VecDeque<Window>,
    ahead: u64,
    reach: Reach,
}

impl Windows {
    /// None yet.
    pub(crate) fn new(reach: Reach) -> Self {
        Self { kept: VecDeque::new(), ahead: 0, reach }
    }

    /// The window that holds all of a blob.
    pub(crate) fn find(&self, place: &Place) -> Option<Window> {
        let start = u64::from(place.offset());
        let end = start + u64::from(place.length());
        let holds = |one: &&Window| {
            one.pack == place.pack_key() && one.bytes.start <= start && end <= one.bytes.end
        };
        self.kept.iter().find(holds).cloned()
    }

    /// How much to read where `range` is wanted of a pack of `pack_bytes`.
    pub(crate) fn widen(&mut self, range: &Range1, pack_bytes: u64) -> Range<u64> {
        if pack_bytes <= self.reach.whole {
            return 0..pack_bytes.max(range.bytes.end);
        }
        let pack = range.blobs.first().map(|blob| blob.place.pack_key());
        let start = range.bytes.start;
        // Who begins at the start of a pack is mostly on a walk through all of a tree.
        let is_first = start == 0;
        let goes_on = self.kept.iter().any(|one| {
            Some(one.pack) == pack && (one.bytes.end..=one.bytes.end + GAP_BYTES).contains(&start)
        });
        self.ahead = match (is_first, goes_on) {
            (true, _) => self.reach.whole,
            (false, true) => (2 * self.ahead).clamp(AHEAD_BYTES_MIN, self.reach.ahead),
            (false, false) => 0,
        };
        start..(range.bytes.end + self.ahead).min(pack_bytes).max(range.bytes.end)
    }

    /// Keeps what was read, unless it is much: then it was not read for a page or two.
    pub(crate) fn keep(&mut self, pack: (u32, u32), bytes: Range<u64>, data: Buffer) -> Window {
        let window = Window { pack, bytes, data: Arc::new(data) };
        if window.len() <= self.reach.kept {
            self.kept.push_back(window.clone());
        }
        while self.kept.iter().map(Window::len).sum::<u64>() > self.reach.kept {
            self.kept.pop_front();
        }
        window
    }
}

impl Window {
    fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u64 = 10 << 20;

    fn widen(windows: &mut Windows, bytes: Range<u64>) -> Range<u64> {
        windows.widen(&Range1 { blobs: Vec::new(), bytes }, PACK)
    }

    #[test]
    fn the_first_of_a_pack_goes_ahead_and_one_in_its_middle_does_not() {
        let whole = Reach::SHORT.whole;
        let mut windows = Windows::new(Reach::SHORT);
        assert_eq!(widen(&mut windows, 0..100), 0..100 + whole);
        assert_eq!(widen(&mut windows, 5000..6000), 5000..6000);
        assert_eq!(widen(&mut windows, PACK - 10..PACK), PACK - 10..PACK);
        assert_eq!(widen(&mut windows, 0..PACK - 1), 0..PACK);
        let small = windows.widen(&Range1 { blobs: Vec::new(), bytes: 7..8 }, whole);
        assert_eq!(small, 0..whole);
    }

    #[test]
    fn who_walks_reads_a_pack_at_once_where_there_is_room_for_it() {
        let pack = 8 << 20;
        let wanted = Range1 { blobs: Vec::new(), bytes: pack - 10..pack };
        assert_eq!(Windows::new(Reach::walk(pack)).widen(&wanted, pack), 0..pack);
        assert_eq!(Windows::new(Reach::walk(pack - 1)).widen(&wanted, pack), wanted.bytes);
        // However much there is, no more than that.
        assert_eq!(widen(&mut Windows::new(Reach::walk(1 << 40)), 0..100), 0..100 + PACK_BYTES);
        // Who has little reads as others do.
        assert_eq!(widen(&mut Windows::new(Reach::walk(0)), 0..100), 0..100 + Reach::SHORT.whole);
    }

    #[test]
    fn a_pack_that_was_read_at_once_is_kept_until_the_next() {
        let buffers = Arc::new(crate::buffers::Buffers::default());
        let mut windows = Windows::new(Reach::walk(PACK_BYTES));
        for (pack, bytes) in [(0, 1 << 20), (1, PACK_BYTES), (2, 6 << 20)] {
            let len = usize::try_from(bytes).unwrap();
            windows.keep((0, pack), 0..bytes, buffers.take(len).unwrap());
            let kept: Vec<_> = windows.kept.iter().map(|one| one.pack.1).collect();
            assert_eq!(kept, [pack]);
        }
    }
}
