//! What was read of packs lately, and a little more than was asked for: pages that are wanted one after the
//! other mostly lie one after the other, and a request costs more than the bytes behind it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::blobs::{GAP_BYTES, Range1};
use crate::buffers::Buffer;
use crate::index::Place;

/// Packs of up to this many bytes are read at once.
const WHOLE_BYTES: u64 = 1 << 20;
/// How far a read goes ahead that follows another; each further one goes twice as far, up to the most. One that
/// begins its pack goes as far as packs are read at once.
const AHEAD_BYTES_MIN: u64 = GAP_BYTES;
const AHEAD_BYTES_MAX: u64 = 2 << 20;
/// Bytes of all that is kept.
const KEPT_BYTES_MAX: u64 = 4 << 20;

/// A part of a pack, its outer layer opened.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pack: (u32, u32),
    /// Plaintext offsets of the pack.
    pub(crate) bytes: Range<u64>,
    pub(crate) data: Arc<Buffer>,
}

/// The windows that were read last.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    kept: VecDeque<Window>,
    ahead: u64,
}

impl Windows {
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
        if pack_bytes <= WHOLE_BYTES {
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
            (true, _) => WHOLE_BYTES,
            (false, true) => (2 * self.ahead).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX),
            (false, false) => 0,
        };
        start..(range.bytes.end + self.ahead).min(pack_bytes).max(range.bytes.end)
    }

    /// Keeps what was read, unless it is much: then it was not read for a page or two.
    pub(crate) fn keep(&mut self, pack: (u32, u32), bytes: Range<u64>, data: Buffer) -> Window {
        let window = Window { pack, bytes, data: Arc::new(data) };
        if window.len() <= KEPT_BYTES_MAX {
            self.kept.push_back(window.clone());
        }
        while self.kept.iter().map(Window::len).sum::<u64>() > KEPT_BYTES_MAX {
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
        let mut windows = Windows::default();
        assert_eq!(widen(&mut windows, 0..100), 0..100 + WHOLE_BYTES);
        assert_eq!(widen(&mut windows, 5000..6000), 5000..6000);
        assert_eq!(widen(&mut windows, PACK - 10..PACK), PACK - 10..PACK);
        assert_eq!(widen(&mut windows, 0..PACK - 1), 0..PACK);
        let small = windows.widen(&Range1 { blobs: Vec::new(), bytes: 7..8 }, WHOLE_BYTES);
        assert_eq!(small, 0..WHOLE_BYTES);
    }
}
