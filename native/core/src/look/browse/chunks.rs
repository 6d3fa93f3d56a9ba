//! Chunks of files: kept while there is room, read once however many want them at a time, and read ahead
//! by threads for whoever reads a file from its beginning to its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, unbounded};
use hashbrown::HashMap;

use super::cache::Cache;
use super::view::View;
use crate::blobs::{BlobStore, Range1};
use crate::broker::lock;
use crate::buffers::Buffer;
use crate::crypto::BlobOpener;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::PackKind;

/// Ranges that are read ahead have at most this many bytes, and a quarter of what may be under way.
const RANGE_BYTES: u64 = 4 << 20;
/// Openers that are kept for the next who needs one.
const OPENERS_MAX: usize = 8;

pub(super) type Chunk = Arc<Vec<u8>>;

/// A chunk on its way, and all who wait for it.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Result<Chunk>>>,
    came: Condvar,
}

struct Shared {
    ready: Cache<Chunk>,
    flights: Mutex<HashMap<Id, Arc<Flight>>>,
    openers: Mutex<Vec<BlobOpener>>,
    /// Bytes that were asked for ahead and have not come.
    ahead_bytes: AtomicU64,
    ahead_bytes_max: u64,
}

pub(super) struct Chunks {
    shared: Arc<Shared>,
    ahead: Mutex<Option<Sender<Ahead>>>,
    ahead_out: Receiver<Ahead>,
}

/// A range that is to be read ahead. What is dropped unread fails for those who wait for it.
struct Ahead {
    view: Arc<View>,
    range: Range1,
    landings: Vec<Landing>,
}

/// The duty to bring a chunk, or say why not: who drops it without a word has failed.
struct Landing {
    shared: Arc<Shared>,
    id: Id,
    flight: Arc<Flight>,
    ahead_bytes: u64,
}

enum Found {
    Ready(Chunk),
    Flying(Arc<Flight>),
    Ours(Landing),
}

impl Chunks {
    /// Keeps up to `kept_bytes_max` of chunks, and has up to `ahead_bytes_max` on their way ahead of readers.
    pub(super) fn new(kept_bytes_max: u64, ahead_bytes_max: u64) -> Self {
        let (ahead, ahead_out) = unbounded();
        let shared = Shared {
            ready: Cache::new(kept_bytes_max),
            flights: Mutex::default(),
            openers: Mutex::default(),
            ahead_bytes: AtomicU64::new(0),
            ahead_bytes_max,
        };
        Self { shared: Arc::new(shared), ahead: Mutex::new(Some(ahead)), ahead_out }
    }

    /// The chunk, checked against its id.
    pub(super) fn get(&self, view: &View, id: &Id) -> Result<Chunk> {
        match self.shared.find(id, 0) {
            Found::Ready(chunk) => Ok(chunk),
            // Who failed may have looked by an older view, from before the index was loaded anew.
            Found::Flying(flight) => flight.wait().or_else(|_| self.fetch(view, id)),
            Found::Ours(landing) => {
                let chunk = self.fetch(view, id);
                landing.land(chunk.clone());
                chunk
            }
        }
    }

    fn fetch(&self, view: &View, id: &Id) -> Result<Chunk> {
        let mut opener = self.shared.take_opener()?;
        let chunk = view.blobs.fetch(&mut opener, id, PackKind::Data).map(Arc::new);
        self.shared.put_opener(opener);
        chunk
    }

    /// Has these chunks read by the threads of [`Self::serve`], as far as there is room for that. `bytes`
    /// says about how long each is. What cannot be had is found out by who needs it.
    pub(super) fn read_ahead(&self, view: &Arc<View>, wanted: impl Iterator<Item = (Id, u64)>) {
        let mut ours: HashMap<Id, Landing> = HashMap::new();
        let mut places = Vec::new();
        for (id, bytes) in wanted {
            let flying = self.shared.ahead_bytes.load(Ordering::Relaxed);
            if flying.saturating_add(bytes) > self.shared.ahead_bytes_max {
                break;
            }
            let Ok(Some(place)) = view.place(&id) else { continue };
            if let Found::Ours(landing) = self.shared.find(&id, bytes) {
                ours.insert(id, landing);
                places.push(place);
            }
        }
        let range_bytes = RANGE_BYTES.min(self.shared.ahead_bytes_max / 4);
        for range in BlobStore::plan(places, range_bytes) {
            let landings = range.blobs.iter().filter_map(|blob| ours.remove(&blob.id)).collect();
            if let Some(ahead) = &*lock(&self.ahead) {
                let sent = ahead.send(Ahead { view: Arc::clone(view), range, landings });
                drop(sent);
            }
        }
    }

    /// The loop of a thread that reads ahead, until [`Self::close`].
    pub(super) fn serve(&self) {
        while let Ok(Ahead { view, range, landings }) = self.ahead_out.recv() {
            let bytes = view.blobs.read(&range);
            let mut landings = landings.into_iter();
            for blob in &range.blobs {
                let Some(landing) = landings.next() else { break };
                let chunk = self.open(&view, &range, &bytes, blob);
                landing.land(chunk.map(Arc::new));
            }
        }
    }

    fn open(
        &self,
        view: &View,
        range: &Range1,
        bytes: &Result<Buffer>,
        blob: &crate::blobs::Wanted,
    ) -> Result<Vec<u8>> {
        let mut opener = self.shared.take_opener()?;
        let chunk = match bytes {
            Ok(bytes) => view.blobs.open(&mut opener, range, bytes, blob),
            Err(error) => Err(error.clone()),
        };
        let chunk = match chunk {
            // There may be a copy of it elsewhere.
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {
                view.blobs.fetch(&mut opener, &blob.id, PackKind::Data)
            }
            other => other,
        };
        self.shared.put_opener(opener);
        chunk
    }

    /// Ends the threads that read ahead.
    pub(super) fn close(&self) {
        *lock(&self.ahead) = None;
        while self.ahead_out.try_recv().is_ok() {}
    }
}

impl Shared {
    fn find(self: &Arc<Self>, id: &Id, ahead_bytes: u64) -> Found {
        let mut flights = lock(&self.flights);
        // Looked for under this lock: what lands is kept before its flight ends.
        if let Some(chunk) = self.ready.get(id) {
            return Found::Ready(chunk);
        }
        if let Some(flight) = flights.get(id) {
            return Found::Flying(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::default());
        flights.insert(*id, Arc::clone(&flight));
        self.ahead_bytes.fetch_add(ahead_bytes, Ordering::Relaxed);
        Found::Ours(Landing { shared: Arc::clone(self), id: *id, flight, ahead_bytes })
    }

    fn take_opener(&self) -> Result<BlobOpener> {
        let kept = lock(&self.openers).pop();
        kept.map_or_else(BlobOpener::new, Ok)
    }

    fn put_opener(&self, opener: BlobOpener) {
        let mut openers = lock(&self.openers);
        if openers.len() < OPENERS_MAX {
            openers.push(opener);
        }
    }
}

impl Landing {
    fn land(self, chunk: Result<Chunk>) {
        if let Ok(chunk) = &chunk {
            self.shared.ready.insert(self.id, Arc::clone(chunk), chunk.len() as u64);
        }
        self.flight.end(chunk);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.ahead_bytes.fetch_sub(self.ahead_bytes, Ordering::Relaxed);
        lock(&self.shared.flights).remove(&self.id);
        self.flight.end(Err(Error::new(ErrorKind::Cancelled, "the chunk was not read")));
    }
}

impl Flight {
    /// The first end counts.
    fn end(&self, outcome: Result<Chunk>) {
        lock(&self.outcome).get_or_insert(outcome);
        self.came.notify_all();
    }

    fn wait(&self) -> Result<Chunk> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.came.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
