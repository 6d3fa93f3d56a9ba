//! Bringing chunks: ranges of packs are asked for by many threads that mostly wait, and their blobs opened
//! and written by as many as there are cores.

use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::compare::read_exact;
use super::lane::Delivery;
use super::progress::Counters;
use super::run::{Job, Mode, Run};
use super::window::{Piece, Plan};
use crate::blobs::{Range1, Wanted};
use crate::budget::Permit;
use crate::buffers::Buffer;
use crate::crypto::BlobOpener;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;

/// What a range costs while it is on its way: it is there sealed and opened for a moment.
const COPIES: u64 = 2;

/// A range of a pack to bring.
pub(super) struct RangeJob {
    pub(super) plan: Arc<Plan>,
    pub(super) range: Range1,
}

/// A range that was brought.
struct Brought {
    plan: Arc<Plan>,
    range: Range1,
    /// Its bytes, or why there are none.
    bytes: Result<Buffer>,
    _permit: Permit,
}

/// One blob of it.
pub(super) struct BlobJob {
    brought: Arc<Brought>,
    blob: Wanted,
}

/// The loop of a thread that asks for ranges.
pub(super) fn fetch(run: &Run, ranges: &Receiver<Option<RangeJob>>) {
    while let Ok(Some(RangeJob { plan, range })) = ranges.recv() {
        if run.check().is_err() {
            continue;
        }
        let Range { start, end } = range.bytes;
        // What was brought before a failure may lie in a queue that nobody empties any more.
        let cost = (end - start) * COPIES;
        let Ok(permit) = run.fetch_budget.acquire_while(cost, || run.check()) else {
            continue;
        };
        let bytes = run.blobs.read(&range);
        Counters::add(&run.counters.ranges_fetched, 1);
        Counters::add(&run.counters.bytes_fetched, end - start);
        let brought = Arc::new(Brought { plan, range, bytes, _permit: permit });
        for blob in &brought.range.blobs {
            run.send(Job::Blob(BlobJob { brought: Arc::clone(&brought), blob: *blob }));
        }
    }
}

impl BlobJob {
    /// Opens the blob and gives every piece that wants it its bytes.
    pub(super) fn work(self, run: &Run, opener: &mut BlobOpener) {
        let Self { brought, blob } = self;
        let plan = Arc::clone(&brought.plan);
        let Some(chunk) = plan.chunk(&blob.id) else {
            return run.fail(Error::internal("a chunk that nobody wants"));
        };
        let raw = match &brought.bytes {
            Ok(bytes) => run.blobs.open(opener, &brought.range, bytes, &blob),
            Err(error) => Err(error.clone()),
        };
        drop(brought);
        let raw = match raw {
            Err(error) if is_worth_another_copy(&error) => {
                run.blobs.fetch(opener, &blob.id, PackKind::Data)
            }
            other => other,
        };
        match raw {
            Ok(raw) if run.mode == Mode::Verify => {
                for piece in plan.pieces_of(chunk) {
                    verify(run, piece, &raw);
                }
            }
            Ok(raw) => {
                let raw = Arc::new(raw);
                for number in plan.numbers_of(chunk) {
                    let (plan, chunk) = (Arc::clone(&plan), Arc::clone(&raw));
                    let Some(file) = plan.piece(number).map(|piece| Arc::clone(&piece.file)) else {
                        continue;
                    };
                    file.lane.deliver(run, Delivery { plan, piece: number, chunk });
                }
            }
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {
                plan.lose(run, chunk, &error);
            }
            Err(error) => run.fail(error),
        }
    }
}

/// A store that fails altogether is not asked for each chunk again.
fn is_worth_another_copy(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Storage)
}

/// The bytes of a piece; where its chunk has none for it, it is lost.
fn slice<'a>(run: &Run, piece: &Piece, chunk: &'a [u8]) -> Option<&'a [u8]> {
    let start = piece.chunk_offset as usize;
    let end = start.saturating_add(piece.len as usize);
    let bytes = chunk.get(start..end);
    if bytes.is_none() {
        piece.lose(run, &Error::damaged("an extent reaches beyond its chunk"));
    }
    bytes
}

fn verify(run: &Run, piece: &Piece, chunk: &[u8]) {
    let Some(bytes) = slice(run, piece, chunk) else { return };
    let mut there = vec![0; bytes.len()];
    let is_same =
        piece.file.readable(run).and_then(|fd| read_exact(fd.as_fd(), &mut there, piece.offset));
    match is_same {
        Ok(true) if there == bytes => piece.settle(run),
        Ok(_) => piece.lose(run, &Error::damaged("differs from the snapshot")),
        Err(error) => piece.lose(run, &error),
    }
}

/// Writes a piece to its file.
pub(super) fn write(run: &Run, piece: &Piece, chunk: &[u8]) {
    if let Some(bytes) = slice(run, piece, chunk) {
        piece.file.write(run, piece.offset, bytes);
        piece.settle(run);
    }
}
