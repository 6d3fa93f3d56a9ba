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
/// How far a second read ahead of the first goes; each further one goes twice as far, up to the most.
const AHEAD_BYTES_MIN: u64 = 128 << 10;
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
        let goes_on = self.kept.iter().any(|one| {
            Some(one.pack) == pack && (one.bytes.end..=one.bytes.end + GAP_BYTES).contains(&start)
        });
        self.ahead =
            if goes_on { (2 * self.ahead).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX) } else { 0 };
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
