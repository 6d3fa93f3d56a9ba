//! The content of one file as a stream of outputs, in order, with chunks fetched ahead of it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, unbounded};
use hashbrown::HashMap;
use serde::Serialize;

use super::options::DumpOptions;
use super::progress::Counters;
use super::{Control, Snapshot};
use crate::blobs::{BlobStore, Range1, Wanted};
use crate::broker::{Broker, lock};
use crate::buffers::Buffer;
use crate::crypto::BlobOpener;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::fs::display_path;
use crate::scope::Scope;
use crate::tree::{Body, Extent, ExtentKind};

/// Bytes of an output, about.
const OUTPUT_BYTES: usize = 1 << 20;
/// Batches on their way: one going out, one coming in.
const BATCHES: usize = 2;
/// Bytes of a batch at most, and extents.
const BATCH_BYTES_MAX: u64 = 64 << 20;
const BATCH_EXTENTS_MAX: usize = 16 << 10;
/// Threads are no use beyond the number of ranges in two batches.
const RANGE_BYTES: u64 = 4 << 20;

/// What a dump tells in the end.
#[derive(Clone, Debug, Serialize)]
pub struct DumpResult {
    /// Bytes that were put out.
    pub bytes: u64,
}

/// Chunks that are wanted at about the same time.
#[derive(Default)]
struct Batch {
    chunks: Mutex<HashMap<Id, Result<Arc<Vec<u8>>>>>,
    came: Condvar,
}

struct RangeJob {
    batch: Arc<Batch>,
    range: Range1,
}

/// Puts out the content of one file as outputs of kind `bytes`. Stops with an error at the first byte that
/// cannot be had: a stream has no place for what is missing. The broker must be served meanwhile.
pub fn dump(scope: &Scope, options: &DumpOptions, control: &Control) -> Result<DumpResult> {
    let snapshot = Snapshot::open(scope, &options.read)?;
    let node = snapshot.find(&options.path)?;
    let at = |error: Error| error.at(display_path(&options.path));
    let Body::File { size, content } = &node.body else {
        return Err(at(Error::new(ErrorKind::Usage, "not a regular file")));
    };
    if node.unreadable || node.partial {
        return Err(at(Error::damaged("its content was not stored, or not all of it")));
    }
    Counters::add(&control.counters.bytes_total, *size);
    let (ranges, ranges_in) = unbounded();
    let mut flow = Flow {
        snapshot: &snapshot,
        blobs: &BlobStore::new(snapshot.scope.clone(), Arc::clone(&snapshot.index), None),
        ranges,
        counters: &control.counters,
        buffer: Vec::with_capacity(OUTPUT_BYTES),
    };
    let batch_bytes = (options.read.memory() / 8).min(BATCH_BYTES_MAX);
    let useful = BATCHES as u64 * batch_bytes / RANGE_BYTES + 1;
    let threads = options.read.fetchers().min(usize::try_from(useful).unwrap_or(1));
    let blobs = flow.blobs;
    std::thread::scope(|scope| {
        let counters = &control.counters;
        for _ in 0..threads {
            let ranges = &ranges_in;
            scope.spawn(move || fetch(blobs, counters, ranges));
        }
        let extents = snapshot.reader.extents(content);
        let outcome = flow.stream(extents, batch_bytes);
        // Ends the threads, after those ranges that are under way.
        drop(flow);
        if outcome.is_err() {
            while ranges_in.try_recv().is_ok() {}
        }
        outcome
    })
    .map_err(at)?;
    Ok(DumpResult { bytes: *size })
}

struct Flow<'a> {
    snapshot: &'a Snapshot,
    blobs: &'a BlobStore,
    ranges: Sender<RangeJob>,
    counters: &'a Counters,
    buffer: Vec<u8>,
}

impl Flow<'_> {
    fn stream(
        &mut self,
        extents: impl Iterator<Item = Result<(u64, Extent)>>,
        batch_bytes: u64,
    ) -> Result<()> {
        let mut under_way = VecDeque::new();
        let mut filling: Vec<Extent> = Vec::new();
        let mut filled = 0;
        for extent in extents {
            let (_, extent) = extent?;
            if let ExtentKind::Data { .. } = extent.kind {
                filled += extent.length;
            }
            filling.push(extent);
            if filled >= batch_bytes || filling.len() >= BATCH_EXTENTS_MAX {
                under_way.push_back(self.start(std::mem::take(&mut filling))?);
                filled = 0;
                if under_way.len() >= BATCHES
                    && let Some((batch, extents)) = under_way.pop_front()
                {
                    self.put_out(&batch, &extents)?;
                }
            }
        }
        under_way.push_back(self.start(filling)?);
        for (batch, extents) in under_way {
            self.put_out(&batch, &extents)?;
        }
        self.flush()
    }

    /// Has the chunks of these extents fetched.
    fn start(&self, extents: Vec<Extent>) -> Result<(Arc<Batch>, Vec<Extent>)> {
        let index = self.blobs.index();
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut known = hashbrown::HashSet::new();
        for extent in &extents {
            let ExtentKind::Data { id, .. } = extent.kind else { continue };
            if !known.insert(id) {
                continue;
            }
            let mut place = None;
            for candidate in index.lookup_all(&id.short())? {
                if index.pack(&candidate)?.kind == PackKind::Data {
                    place = Some(candidate);
                }
            }
            let Some(place) = place else {
                return Err(index.missing("chunk", &id));
            };
            wanted.push(Wanted { id, place });
        }
        let batch = Arc::new(Batch::default());
        for range in BlobStore::plan(wanted, RANGE_BYTES) {
            let job = RangeJob { batch: Arc::clone(&batch), range };
            let sent = self.ranges.send(job);
            sent.map_err(|_| Error::internal("a range after the end of the fetchers"))?;
        }
        Ok((batch, extents))
    }

    fn put_out(&mut self, batch: &Batch, extents: &[Extent]) -> Result<()> {
        for extent in extents {
            match extent.kind {
                ExtentKind::Data { id, offset } => {
                    let chunk = batch.wait(&id, &self.snapshot.scope.broker)?;
                    let start = offset as usize;
                    let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
                    let bytes = chunk.get(start..start.saturating_add(length));
                    let short = || Error::damaged("an extent reaches beyond its chunk");
                    self.put(bytes.ok_or_else(short)?)?;
                }
                ExtentKind::Hole | ExtentKind::Zero => self.put_zeros(extent.length)?,
            }
        }
        Ok(())
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = OUTPUT_BYTES.saturating_sub(self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= OUTPUT_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn put_zeros(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            let room = OUTPUT_BYTES.saturating_sub(self.buffer.len());
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(room);
            self.buffer.resize(self.buffer.len() + count, 0);
            length -= count as u64;
            if self.buffer.len() >= OUTPUT_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(OUTPUT_BYTES);
        let data = std::mem::replace(&mut self.buffer, next);
        Counters::add(&self.counters.bytes, data.len() as u64);
        self.snapshot.scope.broker.output("bytes", data)
    }
}

impl Batch {
    fn wait(&self, id: &Id, broker: &Broker) -> Result<Arc<Vec<u8>>> {
        let mut chunks = lock(&self.chunks);
        loop {
            if let Some(chunk) = chunks.get(id) {
                return chunk.clone();
            }
            broker.check()?;
            chunks = self.came.wait(chunks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn deliver(&self, id: Id, chunk: Result<Vec<u8>>) {
        lock(&self.chunks).insert(id, chunk.map(Arc::new));
        self.came.notify_all();
    }
}

/// The loop of a thread that brings ranges.
fn fetch(blobs: &BlobStore, counters: &Counters, ranges: &Receiver<RangeJob>) {
    let mut opener = None;
    while let Ok(RangeJob { batch, range }) = ranges.recv() {
        let bytes = blobs.read(&range);
        Counters::add(&counters.ranges_fetched, 1);
        Counters::add(&counters.bytes_fetched, range.bytes.end - range.bytes.start);
        for blob in &range.blobs {
            let chunk = open(blobs, &mut opener, &range, &bytes, blob);
            batch.deliver(blob.id, chunk);
        }
    }
}

fn open(
    blobs: &BlobStore,
    opener: &mut Option<BlobOpener>,
    range: &Range1,
    bytes: &Result<Buffer>,
    blob: &Wanted,
) -> Result<Vec<u8>> {
    let opener = match opener {
        Some(opener) => opener,
        None => opener.insert(BlobOpener::new()?),
    };
    let chunk = match bytes {
        Ok(bytes) => blobs.open(opener, range, bytes, blob),
        Err(error) => Err(error.clone()),
    };
    match chunk {
        Err(error) if error.kind != ErrorKind::Cancelled => {
            blobs.fetch(opener, &blob.id, PackKind::Data)
        }
        other => other,
    }
}
