//! A window: a stretch of the tree whose chunks are planned together, so that each is fetched and
//! opened once however many files want it, and neighbours in a pack come with one request.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hashbrown::HashMap;

use super::fetch::RangeJob;
use super::file::FileTask;
use super::pass::RANGE_BYTES_MIN;
use super::progress::Counters;
use super::run::{Job, Mode, Run};
use super::windows::{Mark, Ticket};
use crate::blobs::{BlobStore, Wanted};
use crate::error::{Error, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::tree::{Extent, ExtentKind};

/// A window is full with so many bytes of content,
const BYTES_MAX: u64 = 1 << 30;
/// or so many pieces and entries, each some hundred bytes of memory.
const ITEMS_MAX: usize = 16 << 10;
/// The first has fewer, and each one after it four times as many: until the first is planned, the store idles.
const ITEMS_FIRST: usize = 2 << 10;
/// Chunks compared by one worker at a time.
const COMPARE_BATCH: usize = 8;
/// Holes and zeros made by one worker at a time.
const SPARSE_BATCH: usize = 256;

/// A part of a file that is a slice of a chunk.
pub(super) struct Piece {
    pub(super) file: Arc<FileTask>,
    /// Offset in the file, in bytes.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u32,
    /// Offset in the chunk, in bytes.
    pub(super) chunk_offset: u32,
    chunk: u32,
    /// Nothing more to do: it is in the target already, or its file cannot be restored.
    is_settled: AtomicBool,
}

/// A part of a file that has no bytes.
pub(super) struct SparsePiece {
    pub(super) file: Arc<FileTask>,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Allocated zeros; else a hole.
    pub(super) is_zero: bool,
}

/// A window that is being filled.
pub(super) struct Window {
    pub(super) ticket: Arc<Ticket>,
    ids: HashMap<Id, u32>,
    chunks: Vec<Id>,
    pieces: Vec<Piece>,
    sparse: Vec<SparsePiece>,
    bytes: u64,
    items: usize,
    items_max: usize,
}

/// A window that is being worked off.
pub(super) struct Plan {
    ids: HashMap<Id, u32>,
    /// Chunks in the order in which files want them.
    pub(super) chunks: Vec<Chunk>,
    /// Pieces in the order of their chunks.
    pieces: Vec<Piece>,
    pub(super) sparse: Vec<SparsePiece>,
    /// Batches that are still to be compared.
    comparing: AtomicUsize,
    _ticket: Arc<Ticket>,
}

/// A chunk of a window.
pub(super) struct Chunk {
    pub(super) id: Id,
    pieces: Range<usize>,
}

impl Window {
    pub(super) fn new(ticket: Arc<Ticket>) -> Self {
        let is_among_first = ticket.number() < 2;
        let items_max =
            if is_among_first { ITEMS_FIRST << (2 * ticket.number()) } else { ITEMS_MAX };
        Self {
            ticket,
            ids: HashMap::new(),
            chunks: Vec::new(),
            pieces: Vec::new(),
            sparse: Vec::new(),
            bytes: 0,
            items: 0,
            items_max,
        }
    }

    /// Whether it has enough.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX || self.items >= self.items_max
    }

    /// Counts something that is not a piece.
    pub(super) fn add_item(&mut self) {
        self.items += 1;
    }

    /// Adds a part of `file`.
    pub(super) fn add_extent(&mut self, file: &Arc<FileTask>, offset: u64, extent: &Extent) {
        self.items += 1;
        file.expect();
        let ExtentKind::Data { id, offset: chunk_offset } = extent.kind else {
            self.sparse.push(SparsePiece {
                file: Arc::clone(file),
                offset,
                len: extent.length,
                is_zero: extent.kind == ExtentKind::Zero,
            });
            return;
        };
        let next = self.chunks.len();
        // Bounded by ITEMS_MAX, and slices by the largest chunk.
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let chunk = *self.ids.entry(id).or_insert(narrow(next as u64));
        if chunk as usize == next {
            self.chunks.push(id);
        }
        self.bytes += extent.length;
        self.pieces.push(Piece {
            file: Arc::clone(file),
            offset,
            len: narrow(extent.length),
            chunk_offset,
            chunk,
            is_settled: AtomicBool::new(false),
        });
    }

    /// Ends the window at `mark` and has its work done.
    pub(super) fn submit(self, run: &Run, mark: Mark) {
        self.ticket.ends_at(mark);
        let plan = Arc::new(Plan::new(self));
        for range in batches(plan.sparse.len(), SPARSE_BATCH) {
            run.send(Job::Sparse(Arc::clone(&plan), range.start, range.end));
        }
        if plan.pieces.iter().any(|piece| piece.file.is_existing()) {
            let ranges: Vec<_> = batches(plan.chunks.len(), COMPARE_BATCH).collect();
            plan.comparing.store(ranges.len(), Ordering::Release);
            for range in ranges {
                run.send(Job::Compare(Arc::clone(&plan), range.start, range.end));
            }
        } else {
            plan.fetch(run);
        }
    }
}

fn batches(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |start| start..count.min(start + size))
}

impl Plan {
    fn new(window: Window) -> Self {
        let mut pieces = window.pieces;
        pieces.sort_by_key(|piece| piece.chunk);
        let mut start = 0;
        let chunks = (0..).zip(window.chunks).map(|(number, id): (u32, Id)| {
            let end = pieces.partition_point(|piece| piece.chunk <= number);
            let chunk = Chunk { id, pieces: start..end };
            start = end;
            chunk
        });
        Self {
            ids: window.ids,
            chunks: chunks.collect(),
            pieces,
            sparse: window.sparse,
            comparing: AtomicUsize::new(0),
            _ticket: window.ticket,
        }
    }

    /// A piece by its number.
    pub(super) fn piece(&self, number: usize) -> Option<&Piece> {
        self.pieces.get(number)
    }

    /// The numbers of the pieces of a chunk that still want it.
    pub(super) fn numbers_of(&self, chunk: &Chunk) -> impl Iterator<Item = usize> {
        let is_open = |number: &usize| self.piece(*number).is_some_and(|piece| !piece.is_settled());
        chunk.pieces.clone().filter(is_open)
    }

    /// The pieces of a chunk that still want it.
    pub(super) fn pieces_of(&self, chunk: &Chunk) -> impl Iterator<Item = &Piece> {
        let pieces = self.pieces.get(chunk.pieces.clone()).unwrap_or_default();
        pieces.iter().filter(|piece| !piece.is_settled())
    }

    /// The chunk with this id.
    pub(super) fn chunk(&self, id: &Id) -> Option<&Chunk> {
        self.chunks.get(*self.ids.get(id)? as usize)
    }

    /// Says that a batch was compared; the last one has the rest fetched.
    pub(super) fn batch_compared(self: &Arc<Self>, run: &Run) {
        if self.comparing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.fetch(run);
        }
    }

    /// Has everything fetched that is wanted.
    fn fetch(self: &Arc<Self>, run: &Run) {
        if run.mode == Mode::DryRun {
            return self.settle_all(run);
        }
        if let Err(error) = self.start_fetching(run) {
            run.fail(error);
        }
    }

    fn start_fetching(self: &Arc<Self>, run: &Run) -> Result<()> {
        let index = run.blobs.index();
        let mut wanted = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            for piece in self.pieces_of(chunk).filter(|piece| piece.file.has_failed()) {
                piece.settle(run);
            }
            if self.pieces_of(chunk).next().is_none() {
                continue;
            }
            let mut place = None;
            for candidate in index.lookup_all(&chunk.id.short())? {
                if index.pack(&candidate)?.kind == PackKind::Data {
                    place = Some(candidate);
                    break;
                }
            }
            match place {
                Some(place) => wanted.push(Wanted { id: chunk.id, place }),
                None => self.lose(run, chunk, &index.missing("chunk", &chunk.id)),
            }
        }
        // A range opens the segments at its ends for a part of each: longer ones waste less of a link. Half of the
        // fetchers are to have one; the others have those of the windows before and after.
        let bytes: u64 = wanted.iter().map(|blob| u64::from(blob.place.length())).sum();
        let longest = (2 * bytes / run.fetchers.max(1)).clamp(RANGE_BYTES_MIN, run.range_bytes_max);
        for range in BlobStore::plan(wanted, longest) {
            let job = RangeJob { plan: Arc::clone(self), range };
            if run.ranges.send(Some(job)).is_err() {
                return Err(Error::internal("a range after the end of the fetchers"));
            }
        }
        Ok(())
    }

    /// Nothing is fetched in a dry run: what is wanted is counted.
    fn settle_all(&self, run: &Run) {
        for piece in self.pieces.iter().filter(|piece| !piece.is_settled()) {
            crate::broker::lock(&piece.file.state).is_written = true;
            Counters::add(&run.counters.bytes_written, u64::from(piece.len));
            piece.settle(run);
        }
    }

    /// Tells all who wait for a chunk that it cannot be had.
    pub(super) fn lose(&self, run: &Run, chunk: &Chunk, why: &Error) {
        for piece in self.pieces_of(chunk) {
            piece.lose(run, why);
        }
    }
}

impl Piece {
    /// Whether nothing is left to do.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// Says that it is done, one way or the other. Once.
    pub(super) fn settle(&self, run: &Run) {
        self.is_settled.store(true, Ordering::Release);
        Counters::add(&run.counters.bytes, u64::from(self.len));
        self.file.piece_done(run);
    }

    /// Its bytes cannot be had.
    pub(super) fn lose(&self, run: &Run, why: &Error) {
        self.file.damage(run, self.offset, u64::from(self.len), why);
        self.settle(run);
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::Windows;
    use super::*;

    #[test]
    fn windows_grow() {
        let windows = Arc::new(Windows::default());
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let mut window = Window::new(windows.begin().unwrap());
            while !window.is_full() {
                window.add_item();
            }
            window.ticket.ends_at(Mark::default());
            sizes.push(window.items);
        }
        assert_eq!(sizes, [2048, 8192, ITEMS_MAX, ITEMS_MAX, ITEMS_MAX]);
    }
}
