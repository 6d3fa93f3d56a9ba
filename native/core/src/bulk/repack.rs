//! `repack`: what is needed out of some packs, copied into new ones, in the order in which trees need it.
//!
//! A blob is bound to its id and to the data key of its envelope, not to its place, so it moves without being
//! opened: sealed bytes and envelope are taken over, and only the pack's outer seal is made anew. The new
//! directory holds envelopes of others and is signed by a maintainer or the owner.

use std::collections::VecDeque;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::lists::Part;
use super::moves::{Moves, find_moves, lost};
use super::select::select;
use super::writer::PackWriter;
use super::{BulkOptions, MarksOptions};
use crate::blobs::GAP_BYTES;
use crate::buffers::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::scope::{PendingRange, Scope};

/// Options of `repack`.
#[derive(Clone, Debug, Deserialize)]
pub struct RepackOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// Names of the packs to copy from, in the order in which their blobs shall lie unless `order` says more.
    pub packs: Vec<String>,
    /// Parts of reference sets in whose order, and in the order of whose places, blobs shall lie. What none of
    /// them lists comes last. As many of them count as there is memory for.
    #[serde(default)]
    pub order: Vec<Part>,
    /// What is needed.
    #[serde(default)]
    pub marks: MarksOptions,
    /// Parts of reference sets that are needed, too.
    #[serde(default)]
    pub refs: Vec<Part>,
    /// Generation of the new runs.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Bytes of a new pack, about; less where the memory is short.
    pub pack_bytes: u64,
}

/// What was written.
#[derive(Debug, Default, Serialize)]
pub struct Repacked {
    /// Names of the new packs.
    pub packs: Vec<String>,
    /// Names of the new runs.
    pub runs: Vec<String>,
    /// Blobs that were copied.
    pub moved: u64,
    /// Their sealed bytes.
    pub moved_bytes: u64,
}

/// Copies. Every run is written after the packs that it lists are durable.
pub fn repack(scope: &Scope, options: &RepackOptions) -> Result<Repacked> {
    let mut writer = PackWriter::new(scope, options);
    let mut from = 0;
    let count = u32::try_from(options.packs.len())
        .map_err(|_| Error::new(ErrorKind::Usage, "too many packs"))?;
    while from < count {
        let selection = select(scope, options, from)?;
        from = selection.to;
        let moves = find_moves(scope, &options.bulk, &selection)?;
        drop(selection);
        copy(&options.bulk, &moves, &mut writer)?;
    }
    writer.finish()
}

/// Blobs that are read with one request.
struct Stretch {
    origin: u32,
    bytes: Range<u64>,
}

/// Blobs that lie beside each other when they are moved, and anywhere before: they are read together.
struct Window {
    /// In the list of moves.
    moves: Range<usize>,
    stretches: Vec<Stretch>,
    /// For each move: in which stretch it is, and where.
    spots: Vec<(u32, u32)>,
    /// Of the first stretches: what is on its way.
    pending: VecDeque<PendingRange>,
    /// What has come, of as many.
    read: Vec<Buffer>,
}

/// Reads one window while the one before is written.
fn copy(bulk: &BulkOptions, moves: &Moves, writer: &mut PackWriter<'_>) -> Result<()> {
    let window_bytes = bulk.memory_bytes / 16;
    let mut windows: VecDeque<Window> = VecDeque::new();
    let mut planned = 0;
    loop {
        while windows.len() < 2 && planned < moves.list.len() {
            let window = plan(moves, planned, window_bytes);
            planned = window.moves.end;
            windows.push_back(window);
        }
        let mut free =
            bulk.gets.max(1) - windows.iter().map(|window| window.pending.len()).sum::<usize>();
        for window in &mut windows {
            free -= window.ask(moves, free)?;
        }
        let Some(window) = windows.front_mut() else {
            return Ok(());
        };
        if window.take(moves)? {
            window.write(moves, writer)?;
            windows.pop_front();
        }
    }
}

/// What of the moves from `from` on has about so many bytes together. No more than that is read besides, in
/// gaps, so that the window takes twice its bytes at most.
fn plan(moves: &Moves, from: usize, window_bytes: u64) -> Window {
    let mut left = window_bytes;
    let rest = moves.list.get(from..).unwrap_or_default();
    let fits = |one: &&super::moves::Move| {
        let is_within = u64::from(one.length) <= left;
        left = left.saturating_sub(u64::from(one.length));
        is_within
    };
    let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
    let now = rest.get(..count).unwrap_or_default();
    let mut by_offset: Vec<usize> = (0..count).collect();
    by_offset.sort_unstable_by_key(|at| now.get(*at).map(|one| (one.origin, one.offset)));
    let stretch_max = (window_bytes / 4).clamp(64 << 10, 8 << 20);
    let mut gaps = window_bytes;
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut spots = vec![(0, 0); count];
    for at in by_offset {
        let (Some(one), Some(spot)) = (now.get(at), spots.get_mut(at)) else { continue };
        let (start, end) = (u64::from(one.offset), u64::from(one.offset) + u64::from(one.length));
        match stretches.last_mut() {
            Some(Stretch { origin, bytes })
                if *origin == one.origin
                    && start - bytes.end <= GAP_BYTES.min(gaps)
                    && end - bytes.start <= stretch_max =>
            {
                gaps -= start - bytes.end;
                bytes.end = end;
            }
            _ => stretches.push(Stretch { origin: one.origin, bytes: start..end }),
        }
        let begin = stretches.last().map_or(0, |stretch| stretch.bytes.start);
        *spot = (
            u32::try_from(stretches.len() - 1).unwrap_or(u32::MAX),
            u32::try_from(start - begin).unwrap_or(u32::MAX),
        );
    }
    let (pending, read) = (VecDeque::new(), Vec::new());
    Window { moves: from..from + count, stretches, spots, pending, read }
}

impl Window {
    /// Asks for as many stretches as may be asked for. How many that were.
    fn ask(&mut self, moves: &Moves, free: usize) -> Result<usize> {
        let asked = self.read.len() + self.pending.len();
        let next = self.stretches.get(asked..).unwrap_or_default();
        for stretch in next.iter().take(free) {
            let origin = moves.origins.get(stretch.origin as usize);
            let origin = origin.ok_or_else(|| Error::internal("a pack that was not opened"))?;
            self.pending.push_back(origin.ranged.start(stretch.bytes.clone())?);
        }
        Ok(free.min(next.len()))
    }

    /// Waits for the next stretch. Whether that was all.
    fn take(&mut self, moves: &Moves) -> Result<bool> {
        let stretch = self.stretches.get(self.read.len());
        let origin = stretch.and_then(|stretch| moves.origins.get(stretch.origin as usize));
        if let (Some(origin), Some(pending)) = (origin, self.pending.pop_front()) {
            self.read.push(origin.ranged.finish(pending).map_err(lost)?);
        }
        Ok(self.read.len() == self.stretches.len())
    }

    fn write(&self, moves: &Moves, writer: &mut PackWriter<'_>) -> Result<()> {
        let list = moves.list.get(self.moves.clone()).unwrap_or_default();
        for (one, (stretch, start)) in list.iter().zip(&self.spots) {
            let (start, length) = (*start as usize, one.length as usize);
            let bytes = self.read.get(*stretch as usize);
            let sealed = bytes.and_then(|bytes| bytes.get(start..start.saturating_add(length)));
            let origin = moves.origins.get(one.origin as usize);
            let (Some(sealed), Some(origin)) = (sealed, origin) else {
                return Err(Error::internal("a blob outside of what was read"));
            };
            writer.add(origin.kind, one.id, moves.envelope(one)?, sealed)?;
        }
        Ok(())
    }
}
