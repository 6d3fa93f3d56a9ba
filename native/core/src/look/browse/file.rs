//! One open file: which extents a range of it has, and how far ahead it is read.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::chunks::Chunks;
use super::view::{CachedPages, View};
use crate::broker::lock;
use crate::crypto::SourceId;
use crate::error::{Error, Result};
use crate::format::Id;
use crate::tree::extents::ExtentIter;
use crate::tree::{Content, Extent, ExtentKind};

/// Extents that are remembered of a file at least, if there are so many; and at most, unless a single read
/// has more.
const EXTENTS_MIN: usize = 1024;
const EXTENTS_MAX: usize = 8 * EXTENTS_MIN;
/// What is read ahead at first, in bytes; it doubles as long as reading goes straight on.
const AHEAD_BYTES_MIN: u64 = 1 << 20;
/// The kernel asks for neighbouring ranges at once, and they arrive in any order.
const STRAIGHT_BYTES: u64 = 2 << 20;

/// Extents with their offsets in the file.
type Extents = Arc<Vec<(u64, Extent)>>;

pub(super) struct OpenFile {
    pub(super) source: SourceId,
    /// What the file says it has.
    pub(super) size: u64,
    /// What of it is stored.
    covered: u64,
    content: Content,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A run of extents, and the bytes that they cover.
    extents: Extents,
    bytes: Range<u64>,
    /// Where reading has come to, how far chunks were asked for, and how far ahead to go.
    reached: u64,
    asked: u64,
    ahead: u64,
}

impl OpenFile {
    /// A file of `size` bytes, of which those that `content` covers can be read.
    pub(super) fn new(source: SourceId, size: u64, content: Content) -> Self {
        let covered = content.covered().unwrap_or(0).min(size);
        Self { source, size, covered, content, state: Mutex::default() }
    }

    /// The bytes of a range that lies within the file. `Damaged` if any of them was not stored.
    pub(super) fn read(
        &self,
        view: &Arc<View>,
        pages: &CachedPages,
        chunks: &Chunks,
        (bytes, ahead_max): (Range<u64>, u64),
    ) -> Result<Vec<u8>> {
        if bytes.end > self.covered {
            return Err(Error::damaged("the content was not stored, or not all of it"));
        }
        let ahead = self.plan_ahead(&bytes, ahead_max);
        let needed = bytes.start..ahead.as_ref().map_or(bytes.end, |ahead| ahead.end);
        let extents = self.extents(pages, &bytes, needed.end)?;
        if let Some(ahead) = ahead {
            chunks.read_ahead(view, chunks_of(&extents, &ahead));
        }
        let count = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(count);
        for (start, extent) in overlapping(&extents, &bytes) {
            let from = bytes.start.max(*start) - start;
            let to = bytes.end.min(start + extent.length) - start;
            match extent.kind {
                ExtentKind::Hole | ExtentKind::Zero => out.resize(out.len() + place(to - from), 0),
                ExtentKind::Data { id, offset } => {
                    let chunk = chunks.get(view, &id)?;
                    let (from, to) = (place(from) + offset as usize, place(to) + offset as usize);
                    let short = || Error::damaged("an extent reaches beyond its chunk");
                    out.extend_from_slice(chunk.get(from..to).ok_or_else(short)?);
                }
            }
        }
        if out.len() == count {
            Ok(out)
        } else {
            Err(Error::damaged("the extents of the file have gaps"))
        }
    }

    /// Where the next hole, or the next data, begins at or after `offset`; none when no data follows. The end of
    /// the file counts as a hole.
    pub(super) fn seek(
        &self,
        pages: &CachedPages,
        offset: u64,
        is_hole: bool,
    ) -> Result<Option<u64>> {
        for extent in ExtentIter::new(pages, &self.content, offset).read_ahead(1) {
            let (start, extent) = extent?;
            if (extent.kind == ExtentKind::Hole) == is_hole {
                return Ok(Some(start.max(offset)));
            }
        }
        // What was not stored is data that cannot be read.
        let lost = (self.covered < self.size).then_some(self.covered.max(offset));
        Ok(if is_hole { Some(self.size) } else { lost })
    }

    /// What to read ahead of who reads `bytes`, if reading goes straight on and there is something to do.
    fn plan_ahead(&self, bytes: &Range<u64>, ahead_max: u64) -> Option<Range<u64>> {
        let mut state = lock(&self.state);
        let is_straight = bytes.start <= state.reached.saturating_add(STRAIGHT_BYTES)
            && bytes.end.saturating_add(STRAIGHT_BYTES) >= state.reached
            && state.reached > 0;
        if !is_straight {
            (state.reached, state.asked, state.ahead) = (bytes.end, bytes.end, 0);
            return None;
        }
        state.reached = state.reached.max(bytes.end);
        let from = state.asked.max(bytes.end);
        if from >= self.covered || from > state.reached.saturating_add(state.ahead / 2) {
            return None;
        }
        state.ahead = (state.ahead * 2).clamp(AHEAD_BYTES_MIN, ahead_max.max(AHEAD_BYTES_MIN));
        state.asked = state.reached.saturating_add(state.ahead).min(self.covered).max(from);
        Some(from..state.asked)
    }

    /// Extents that hold `bytes`, and what follows as far as `wanted_end` or as many as are remembered.
    fn extents(&self, pages: &CachedPages, bytes: &Range<u64>, wanted_end: u64) -> Result<Extents> {
        {
            let state = lock(&self.state);
            let holds = state.bytes.start <= bytes.start && bytes.end <= state.bytes.end;
            let middle = state.bytes.start.midpoint(state.bytes.end);
            if holds && (wanted_end <= state.bytes.end || bytes.start < middle) {
                return Ok(Arc::clone(&state.extents));
            }
        }
        let mut found = Vec::new();
        let mut end = bytes.start;
        // One page holds more of them than most reads need.
        for extent in ExtentIter::new(pages, &self.content, bytes.start).read_ahead(1) {
            let (start, extent) = extent?;
            end = start + extent.length;
            found.push((start, extent));
            let enough = if end >= wanted_end { EXTENTS_MIN } else { EXTENTS_MAX };
            if end >= bytes.end && found.len() >= enough {
                break;
            }
        }
        let found = Arc::new(found);
        let start = found.first().map_or(bytes.start, |(start, _)| *start);
        let mut state = lock(&self.state);
        (state.extents, state.bytes) = (Arc::clone(&found), start..end);
        Ok(found)
    }
}

fn overlapping<'a>(
    extents: &'a [(u64, Extent)],
    bytes: &Range<u64>,
) -> impl Iterator<Item = &'a (u64, Extent)> + use<'a> {
    let first = extents.partition_point(|(start, extent)| start + extent.length <= bytes.start);
    let end = bytes.end;
    extents.get(first..).unwrap_or_default().iter().take_while(move |(start, _)| *start < end)
}

/// The chunks of a range, each with the bytes that it has at least.
fn chunks_of(extents: &[(u64, Extent)], bytes: &Range<u64>) -> impl Iterator<Item = (Id, u64)> {
    overlapping(extents, bytes).filter_map(|(_, extent)| match extent.kind {
        ExtentKind::Data { id, offset } => Some((id, extent.length + u64::from(offset))),
        ExtentKind::Hole | ExtentKind::Zero => None,
    })
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
