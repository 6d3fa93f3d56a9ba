//! Lookups in a run of which only the header and the filter are loaded.

use std::ops::Range;

use super::super::ShortId;
use super::super::filter::Filter;
use super::{
    Location, RUN_ENTRY_BYTES, RUN_HEADER_BYTES, RawEntry, RunHeader, entry_id, entry_location,
    entry_order, interpolate,
};
use crate::{Error, Result};

/// Entries in one block: as many as fit into 64 KiB.
const BLOCK_ENTRIES: u64 = (64 << 10) / RUN_ENTRY_BYTES as u64;
/// After so many guesses that missed, blocks are halved instead: ids are not as uniform as they look.
const GUESSES_MAX: u32 = 4;

/// The header and filter of a run.
#[derive(Clone, Debug)]
pub struct RunParts {
    header: RunHeader,
    filter: Vec<u8>,
}

impl RunParts {
    /// Reads the first bytes of a run's plaintext: at least those up to the end of its filter
    /// ([`RunHeader::filter_range`]).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let header = RunHeader::parse(bytes)?;
        let end = RUN_HEADER_BYTES + header.filter_bytes as usize;
        let Some(filter) = bytes.get(RUN_HEADER_BYTES..end) else {
            return Err(Error::damaged("index run ends in its filter").offset(bytes.len() as u64));
        };
        Filter::parse(filter)?;
        Ok(Self { header, filter: filter.to_vec() })
    }

    /// The sizes of the run's parts.
    pub const fn header(&self) -> &RunHeader {
        &self.header
    }

    /// False when `id` is surely not in the run.
    pub fn maybe_contains(&self, id: &ShortId) -> bool {
        Filter::parse(&self.filter).is_ok_and(|filter| filter.maybe_contains(id))
    }

    /// Starts a lookup, whether or not the filter would let it through.
    pub fn probe(&self, id: ShortId) -> Probe {
        Probe {
            id,
            entries_start: self.header.entries_range().start,
            entries: self.header.entries,
            packs: self.header.packs,
            low: 0,
            high: self.header.entries,
            low_rank: 0,
            high_rank: u64::MAX,
            high_matches: false,
            guesses: 0,
            collecting: false,
            found: Vec::new(),
        }
    }
}

/// A lookup that asks for blocks of entries until it knows. Mostly one or two of them:
///
/// ```text
/// while let Some(range) = probe.wanted() { probe.feed(&range, &fetch(range)?)?; }
/// probe.into_locations()
/// ```
#[derive(Clone, Debug)]
pub struct Probe {
    id: ShortId,
    entries_start: u64,
    entries: u64,
    packs: u32,
    /// The first entry not below `id` is at `low..=high`; ranks are those of the entries around.
    low: u64,
    high: u64,
    low_rank: u64,
    high_rank: u64,
    /// Whether the entry at `high` has this id.
    high_matches: bool,
    guesses: u32,
    /// `low` is where the matches go on.
    collecting: bool,
    found: Vec<Location>,
}

impl Probe {
    /// The range of the run's plaintext that is needed next: one block of whole entries, at most
    /// 64 KiB, always at the same borders so that blocks can be cached. None when all is known.
    pub fn wanted(&self) -> Option<Range<u64>> {
        if self.low >= self.high {
            return None;
        }
        let count = self.high - self.low;
        let guess = if self.collecting {
            0
        } else if self.guesses < GUESSES_MAX {
            interpolate(self.id.rank(), self.low_rank, self.high_rank, count)
        } else {
            count / 2
        };
        let first = (self.low + guess) / BLOCK_ENTRIES * BLOCK_ENTRIES;
        let end = (first + BLOCK_ENTRIES).min(self.entries);
        let offset = |entry: u64| self.entries_start + entry * RUN_ENTRY_BYTES as u64;
        Some(offset(first)..offset(end))
    }

    /// Takes the bytes of a range that [`wanted`](Self::wanted) asked for.
    pub fn feed(&mut self, range: &Range<u64>, bytes: &[u8]) -> Result<()> {
        let (block, rest) = bytes.as_chunks::<RUN_ENTRY_BYTES>();
        let wrong = || Error::internal("not the block of the index run that was asked for");
        if !rest.is_empty() || range.end - range.start != bytes.len() as u64 {
            return Err(wrong());
        }
        let (Some(first), Some(last)) = (block.first(), block.last()) else {
            return Err(wrong());
        };
        let block_low = (range.start.checked_sub(self.entries_start).ok_or_else(wrong)?)
            / RUN_ENTRY_BYTES as u64;
        let block_high = block_low + block.len() as u64;
        if block_low >= self.high || block_high <= self.low || block_high > self.entries {
            return Err(wrong());
        }
        self.check(block, range.start)?;
        let offset_of = |entry: u64| usize::try_from(entry - block_low).unwrap_or(usize::MAX);
        if self.collecting {
            let from = block.get(offset_of(self.low)..).unwrap_or_default();
            self.collect(from, block_high);
        } else if entry_id(last) < self.id {
            self.low = block_high;
            self.low_rank = entry_id(last).rank();
        } else if entry_id(first) >= self.id && block_low > self.low {
            self.high = block_low;
            self.high_rank = entry_id(first).rank();
            self.high_matches = entry_id(first) == self.id;
        } else {
            let start = block.partition_point(|entry| entry_id(entry) < self.id);
            self.collect(block.get(start..).unwrap_or_default(), block_high);
        }
        self.guesses += 1;
        // Nothing is left between the bounds: the first entry not below is the one at `high`.
        if !self.collecting && self.low == self.high && self.high_matches {
            self.high = self.entries;
            self.collecting = true;
        }
        Ok(())
    }

    fn collect(&mut self, entries: &[RawEntry], block_high: u64) {
        let before = self.found.len();
        let matches = entries.iter().take_while(|entry| entry_id(entry) == self.id);
        self.found.extend(matches.map(entry_location));
        let all_match = self.found.len() - before == entries.len();
        self.collecting = true;
        self.low = block_high;
        self.high = if all_match { self.entries } else { block_high };
    }

    fn check(&self, block: &[RawEntry], offset: u64) -> Result<()> {
        let damaged = |what: &'static str| Err(Error::damaged(what).offset(offset));
        if !block.is_sorted_by(|a, b| entry_order(a) < entry_order(b)) {
            return damaged("entries of an index run are not sorted");
        }
        let inside = |entry: &RawEntry| {
            let location = entry_location(entry);
            location.pack < self.packs && location.length > 0
        };
        if !block.iter().all(inside) {
            return damaged("entry of an index run names no pack");
        }
        Ok(())
    }

    /// Where blobs with this short id lie; empty when the run has none.
    pub fn into_locations(self) -> Vec<Location> {
        self.found
    }
}
