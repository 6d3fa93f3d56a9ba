//! Bringing chunks: ranges of the source's packs are asked for by many threads that mostly wait, and their
//! blobs opened, named and sealed anew by as many as there are cores.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;

use super::is_lost;
use super::memo::{ChunkSlot, Memo};
use crate::backup::chunks::Chunks;
use crate::backup::files::stopped;
use crate::backup::progress::Counters;
use crate::backup::slot::Signal;
use crate::blobs::{BlobStore, Range1, Wanted};
use crate::broker::lock;
use crate::budget::{Budget, Permit};
use crate::buffers::Buffer;
use crate::crypto::{BlobOpener, BlobSealer};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::PackKind;

/// What a range costs while it is on its way: it is there sealed and opened for a moment.
const COPIES: u64 = 2;

/// Where the chunks of a window arrive.
pub(super) type Slots = HashMap<Id, Arc<ChunkSlot>>;

/// A range of a pack to bring.
pub(super) struct RangeTask {
    pub(super) range: Range1,
    pub(super) slots: Arc<Slots>,
}

/// A range that was brought.
struct Brought {
    range: Range1,
    slots: Arc<Slots>,
    /// Its bytes, or why there are none.
    bytes: Result<Buffer>,
    _permit: Permit,
}

/// One blob of it.
pub(super) struct BlobTask {
    brought: Arc<Brought>,
    blob: Wanted,
}

/// What fetchers and workers share.
pub(super) struct Fetching<'a> {
    pub(super) blobs: &'a BlobStore,
    pub(super) budget: &'a Arc<Budget>,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) memo: &'a Memo,
    pub(super) chunks: Chunks,
    pub(super) counters: &'a Counters,
    pub(super) loses_missing: bool,
    /// Held while the blobs of a range are handed to the workers: ranges that arrive at once would be done at
    /// once, too, and checkpoints reach only as far as all is done.
    pub(super) turn: Mutex<()>,
}

impl Fetching<'_> {
    /// The loop of a thread that asks for ranges.
    pub(super) fn fetch(
        &self,
        ranges: &Receiver<RangeTask>,
        tasks: &Sender<BlobTask>,
    ) -> Result<()> {
        for RangeTask { range, slots } in ranges {
            let Range { start, end } = range.bytes;
            let permit =
                self.budget.acquire_while((end - start) * COPIES, || self.signal.check())?;
            let bytes = self.blobs.read(&range);
            let turn = lock(&self.turn);
            let brought = Arc::new(Brought { range, slots, bytes, _permit: permit });
            for blob in &brought.range.blobs {
                let task = BlobTask { brought: Arc::clone(&brought), blob: *blob };
                tasks.send(task).map_err(|_| stopped())?;
            }
            drop(turn);
        }
        Ok(())
    }

    /// The loop of a worker.
    pub(super) fn work(&self, tasks: &Receiver<BlobTask>) -> Result<()> {
        let (mut opener, mut sealer) = (BlobOpener::new()?, BlobSealer::new()?);
        for BlobTask { brought, blob } in tasks {
            let slot = brought.slots.get(&blob.id).map(Arc::clone);
            let slot = slot.ok_or_else(|| Error::internal("a chunk that nobody wants"))?;
            let raw = self.open(&mut opener, &brought, &blob);
            drop(brought);
            match raw {
                Ok(raw) => {
                    self.counters.read(raw.len() as u64);
                    let id = self.chunks.process(&mut sealer, &raw)?;
                    self.memo.settle(&blob.id, Some(id));
                    slot.set(Ok(id));
                }
                Err(error) if is_lost(&error, self.loses_missing) => {
                    self.memo.settle(&blob.id, None);
                    slot.set(Err(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The chunk, from another place where it lies if this one does not have it.
    fn open(&self, opener: &mut BlobOpener, brought: &Brought, blob: &Wanted) -> Result<Vec<u8>> {
        let raw = match &brought.bytes {
            Ok(bytes) => self.blobs.open(opener, &brought.range, bytes, blob),
            Err(error) => Err(error.clone()),
        };
        match raw {
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {
                self.blobs.fetch(opener, &blob.id, PackKind::Data)
            }
            other => other,
        }
    }
}
