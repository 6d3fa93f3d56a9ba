//! `repack`: what is needed out of some packs, copied into new ones as it lies.
//!
//! A blob is bound to its id and to the data key of its envelope, not to its place, so it moves without being
//! opened: sealed bytes and envelope are taken over, and only the pack's outer seal is made anew. The new
//! directory holds envelopes of others and is signed by a maintainer or the owner.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lists::Part;
use super::select::{Chosen, Selection, select};
use super::writer::PackWriter;
use super::{BulkOptions, MarksOptions};
use crate::blobs::GAP_BYTES;
use crate::directory::{OpenedPack, PackOpening};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{PackEntry, PackKind};
use crate::index::pack_key;
use crate::scope::{PendingRange, Scope};

/// Packs whose directories are asked for ahead.
const OPENINGS_MAX: usize = 8;

/// Options of `repack`.
#[derive(Clone, Debug, Deserialize)]
pub struct RepackOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// Names of the packs to copy from, in the order in which their blobs shall lie.
    pub packs: Vec<String>,
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
        copy(scope, &options.bulk, &selection, &mut writer)?;
    }
    writer.finish()
}

/// One pack that is copied from.
struct Origin {
    opened: OpenedPack,
    kind: PackKind,
}

/// Blobs that are read with one request.
struct Stretch {
    origin: Arc<Origin>,
    entries: Vec<PackEntry>,
    start: u64,
    end: u64,
}

/// Reads ahead: directories of the next packs, and stretches of them up to a number of bytes.
struct Reader<'a> {
    scope: &'a Scope,
    /// Of the packs that were not asked for yet: what to copy.
    rest: &'a [Chosen],
    selection: &'a Selection,
    opening: VecDeque<(PackOpening, PackKind, &'a [Chosen])>,
    planned: VecDeque<Stretch>,
    pending: VecDeque<(Stretch, PendingRange)>,
    pending_bytes: u64,
    /// Bytes that may be on their way, in how many requests, and in one of them.
    bytes_max: u64,
    gets: usize,
    stretch_max: u64,
    directory_max: u64,
}

fn copy(
    scope: &Scope,
    bulk: &BulkOptions,
    selection: &Selection,
    writer: &mut PackWriter<'_>,
) -> Result<()> {
    let bytes_max = bulk.memory_bytes / 16;
    let mut reader = Reader {
        scope,
        rest: &selection.chosen,
        selection,
        opening: VecDeque::new(),
        planned: VecDeque::new(),
        pending: VecDeque::new(),
        pending_bytes: 0,
        bytes_max,
        gets: bulk.gets.max(1),
        stretch_max: (bytes_max / 4).clamp(64 << 10, 8 << 20),
        directory_max: bulk.memory_bytes / 8,
    };
    while let Some((stretch, bytes)) = reader.next()? {
        let Origin { opened, kind } = &*stretch.origin;
        for entry in &stretch.entries {
            let start = usize::try_from(u64::from(entry.offset) - stretch.start);
            let start = start.unwrap_or(usize::MAX);
            let sealed = bytes.get(start..start.saturating_add(entry.length as usize));
            let envelope = opened.directory.envelopes.get(usize::from(entry.envelope));
            let (Some(sealed), Some(envelope)) = (sealed, envelope) else {
                return Err(Error::internal("a blob outside of what was read"));
            };
            writer.add(*kind, entry, envelope, sealed)?;
        }
    }
    Ok(())
}

/// A pack that the index lists is there, or something is wrong.
fn lost(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => {
            Error { kind: ErrorKind::Damaged, what: "the object is missing".into(), ..error }
        }
        _ => error,
    }
}

impl Reader<'_> {
    /// The next stretch with its bytes.
    fn next(&mut self) -> Result<Option<(Stretch, crate::buffers::Buffer)>> {
        self.ask()?;
        let Some((stretch, pending)) = self.pending.pop_front() else {
            return Ok(None);
        };
        self.pending_bytes -= stretch.end - stretch.start;
        let bytes = stretch.origin.opened.ranged.finish(pending).map_err(lost)?;
        Ok(Some((stretch, bytes)))
    }

    fn ask(&mut self) -> Result<()> {
        loop {
            self.ask_directories()?;
            let Some(stretch) = self.planned.front() else {
                let Some((opening, kind, chosen)) = self.opening.pop_front() else {
                    return Ok(());
                };
                let opened = opening.finish(self.scope, self.directory_max);
                let opened = opened.map_err(lost)?;
                self.plan(Origin { opened, kind }, chosen)?;
                continue;
            };
            let bytes = stretch.end - stretch.start;
            let is_full =
                self.pending.len() >= self.gets || self.pending_bytes + bytes > self.bytes_max;
            if is_full && !self.pending.is_empty() {
                return Ok(());
            }
            let pending = stretch.origin.opened.ranged.start(stretch.start..stretch.end)?;
            self.pending_bytes += bytes;
            self.pending.extend(self.planned.pop_front().map(|stretch| (stretch, pending)));
        }
    }

    fn ask_directories(&mut self) -> Result<()> {
        while self.opening.len() < OPENINGS_MAX
            && let Some(first) = self.rest.first()
        {
            let count = self.rest.partition_point(|chosen| chosen.order <= first.order);
            let (now, later) = self.rest.split_at(count);
            let pack = self.selection.packs.get(first.order as usize).and_then(Option::as_ref);
            let pack = pack.ok_or_else(|| Error::internal("a pack that was not listed"))?;
            let (name, size) = (pack_key(pack.kind, &pack.name), u64::from(pack.object_bytes));
            let opening = PackOpening::start(self.scope, pack.kind, name, size)?;
            self.opening.push_back((opening, pack.kind, now));
            self.rest = later;
        }
        Ok(())
    }

    /// Joins what is wanted of a pack into stretches.
    fn plan(&mut self, origin: Origin, chosen: &[Chosen]) -> Result<()> {
        let origin = Arc::new(origin);
        let entries = &origin.opened.directory.entries;
        for one in chosen {
            let found = entries.binary_search_by_key(&one.offset, |entry| entry.offset).ok();
            let entry = found.and_then(|at| entries.get(at)).filter(|entry| {
                entry.length == one.length && entry.id.0.first_chunk() == Some(&one.check)
            });
            let Some(entry) = entry else {
                let what = "a pack does not have what the index says";
                let error = Error::damaged(what).offset(u64::from(one.offset));
                return Err(error.at(origin.opened.ranged.key()));
            };
            let start = u64::from(entry.offset);
            let end = start + u64::from(entry.length);
            match self.planned.back_mut() {
                Some(open)
                    if Arc::ptr_eq(&open.origin, &origin)
                        && start <= open.end + GAP_BYTES
                        && end - open.start <= self.stretch_max =>
                {
                    open.end = end;
                    open.entries.push(*entry);
                }
                _ => {
                    let (origin, entries) = (Arc::clone(&origin), vec![*entry]);
                    self.planned.push_back(Stretch { origin, entries, start, end });
                }
            }
        }
        Ok(())
    }
}
