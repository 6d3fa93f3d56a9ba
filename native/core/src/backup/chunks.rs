//! What happens to one chunk: named, looked up, and if the repository does not have it, compressed,
//! sealed and packed. Runs on as many threads as there are cores, in any order.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashSet;

use super::packer::{Level, Packer};
use super::progress::Counters;
use super::slab::Slice;
use super::slot::Slot;
use crate::broker::lock;
use crate::budget::Permit;
use crate::crypto::{BlobKind, BlobSealer, Compression, IdKey};
use crate::error::Result;
use crate::format::{Id, ShortId};
use crate::index::{Index, PackName};

/// The bytes of a chunk, with the permit for the memory that they take.
pub(super) enum Bytes {
    /// A slice of a read buffer.
    Slice(Slice),
    /// A buffer of its own.
    Own { bytes: Vec<u8>, _permit: Permit },
}

/// A chunk on its way to a worker.
pub(super) struct ChunkTask {
    pub(super) bytes: Bytes,
    pub(super) slot: Arc<Slot<Id>>,
}

impl ChunkTask {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Slice(slice) => slice.bytes(),
            Bytes::Own { bytes, .. } => bytes,
        }
    }
}

/// Ids met in this run, in shards so that workers seldom wait for each other.
struct Seen([Mutex<HashSet<ShortId>>; SHARDS]);

const SHARDS: usize = 64;

impl Seen {
    fn shard(&self, id: &ShortId) -> &Mutex<HashSet<ShortId>> {
        let [first, rest @ ..] = &self.0;
        let [.., last] = id.0;
        rest.get(usize::from(last) % SHARDS).unwrap_or(first)
    }

    /// Notes the id; false if it was known.
    fn insert(&self, id: ShortId) -> bool {
        lock(self.shard(&id)).insert(id)
    }

    fn contains(&self, id: &ShortId) -> bool {
        lock(self.shard(id)).contains(id)
    }
}

/// Which blobs the repository has: those of the index, and those of this run.
pub(super) struct Known {
    index: RwLock<Arc<Index>>,
    seen: Seen,
    /// Packs that this run relies on.
    used_packs: Mutex<HashSet<PackName>>,
    /// Blobs that the index has and that could not be read: they are stored again.
    distrusted: Mutex<HashSet<ShortId>>,
}

impl Known {
    pub(super) fn new(index: Index) -> Self {
        Self {
            index: RwLock::new(Arc::new(index)),
            seen: Seen(std::array::from_fn(|_| Mutex::default())),
            used_packs: Mutex::default(),
            distrusted: Mutex::default(),
        }
    }

    /// Whether the repository has this blob. From then on this run relies on the pack that has it.
    pub(super) fn has(&self, id: &ShortId) -> Result<bool> {
        if self.seen.contains(id) {
            return Ok(true);
        }
        let found = self.is_indexed(id)?;
        if found {
            self.seen.insert(*id);
        }
        Ok(found)
    }

    /// Claims the blob: true if the caller must store it, because nobody has and nobody will.
    pub(super) fn claim(&self, id: &ShortId) -> Result<bool> {
        Ok(self.seen.insert(*id) && !self.is_indexed(id)?)
    }

    /// These could not be read: whoever claims one stores it once more. Those that only this run has are
    /// sound, and must not stand twice in a pack.
    pub(super) fn distrust(&self, ids: impl IntoIterator<Item = ShortId>) {
        for id in ids {
            if matches!(self.is_indexed(&id), Ok(true)) && lock(&self.distrusted).insert(id) {
                lock(self.seen.shard(&id)).remove(&id);
            }
        }
    }

    fn is_indexed(&self, id: &ShortId) -> Result<bool> {
        if lock(&self.distrusted).contains(id) {
            return Ok(false);
        }
        // The lock is held until the pack is noted, so that a change of the view sees every use.
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = index.lookup(id)? else {
            return Ok(false);
        };
        let name = index.pack(&place)?.name;
        lock(&self.used_packs).insert(name);
        Ok(true)
    }

    /// Takes a new view, and says which of `condemned` this run relies on.
    pub(super) fn replace(&self, index: Index, condemned: &HashSet<PackName>) -> Vec<PackName> {
        let mut view = self.index.write().unwrap_or_else(PoisonError::into_inner);
        *view = Arc::new(index);
        let used = lock(&self.used_packs);
        condemned.iter().filter(|name| used.contains(*name)).copied().collect()
    }

    /// The view now.
    pub(super) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all workers share.
pub(super) struct Chunks {
    pub(super) known: Arc<Known>,
    pub(super) packer: Arc<Packer>,
    pub(super) ids: IdKey,
    pub(super) level: Arc<Level>,
    pub(super) counters: Arc<Counters>,
}

impl Chunks {
    /// Names the chunk and makes sure that the repository will have it.
    pub(super) fn process(&self, sealer: &mut BlobSealer, bytes: &[u8]) -> Result<Id> {
        let id = Id(self.ids.id(bytes));
        let length = bytes.len() as u64;
        if !self.known.claim(&id.short())? {
            self.counters.known_chunk(length);
            return Ok(id);
        }
        let key = self.packer.key()?;
        let compression = Compression::Zstd(self.level.get(sealer.is_hard()));
        let blob = sealer.seal(&key.blob, BlobKind::Data, &id.0, bytes, compression)?;
        self.counters.new_chunk(length, blob.len() as u64);
        self.packer.add(&key, id, blob)?;
        Ok(id)
    }
}
