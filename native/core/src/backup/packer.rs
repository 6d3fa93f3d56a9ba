//! Fills packs with sealed blobs and hands them over when they are full.
//!
//! A blob is sealed outside the lock, with the data key of the pack that is open when sealing
//! starts; if that pack closes meanwhile, the blob goes into the next one and takes its envelope along.
//! A pack counts as stored, and may be listed in a run, only after its put was answered.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashSet;

use crate::broker::lock;
use crate::crypto::{Action, BlobKey, ObjectBuilder};
use crate::error::Result;
use crate::format::Id;
use crate::format::SIGNATURE_BYTES;
use crate::format::pack::{
    Envelope, FOOTER_BYTES, PACK_ENTRIES_MAX, PackDirectory, PackEntry, PackKind, PackLayout,
};
use crate::index::{PackName, pack_key, pack_type};
use crate::scope::Scope;

/// What a blob is sealed with, and the envelope that leads to it.
pub(super) struct PackKey {
    pub(super) blob: BlobKey,
    pub(super) envelope: Envelope,
}

/// A pack that is stored.
pub(super) struct StoredPack {
    pub(super) name: PackName,
    pub(super) object_bytes: u32,
    pub(super) directory: PackDirectory,
}

struct OpenPack {
    name: PackName,
    key: Arc<PackKey>,
    builder: ObjectBuilder,
    directory: PackDirectory,
    /// At how many bytes it is full.
    bytes_max: usize,
}

/// The first data packs of a run are full at so many twelfths of the size of the others: until they are, the
/// store idles. Not less than what prune takes for small, or each run would leave it something to do; and none
/// is so much larger than those before it that the store has nothing to do until it is full, where packs are
/// filled two fifths faster than stored.
const FIRST_PACK_TWELFTHS: [usize; 5] = [3, 3, 4, 6, 8];

/// Where new packs come from.
pub(super) type KeySource = Box<dyn Fn() -> Result<PackKey> + Send + Sync>;

/// A put that had to wait this long says that storing is slower than compressing.
const SLOW_PUT: Duration = Duration::from_millis(20);

/// The zstd level: higher while storing is what the run waits for, back down when it is not.
pub(super) struct Level {
    now: AtomicI32,
    base: i32,
    most: i32,
}

impl Level {
    /// A fixed level, or one that moves between `base` and `most`.
    pub(super) fn new(base: i32, most: i32) -> Self {
        Self { now: AtomicI32::new(base), base, most }
    }

    /// The level to use now: the lowest after what has hardly shrunk.
    pub(super) fn get(&self, is_after_hard: bool) -> i32 {
        if is_after_hard { self.base } else { self.now.load(Relaxed) }
    }

    fn adapt(&self, waited: Duration) {
        let step = if waited > SLOW_PUT { 1 } else { -1 };
        let level = (self.get(false) + step).clamp(self.base, self.most);
        self.now.store(level, Relaxed);
    }
}

/// How many packs were taken out, and how many of them are with the broker: all of them, or all but one.
#[derive(Default)]
struct Leaving {
    begun: u64,
    ended: u64,
}

/// Packs of one kind.
pub(super) struct Packer {
    scope: Scope,
    kind: PackKind,
    pack_bytes: usize,
    is_dry: bool,
    new_key: KeySource,
    open: Mutex<Option<OpenPack>>,
    stored: Arc<Mutex<Vec<StoredPack>>>,
    /// Every pack this run has begun, stored or in doubt.
    own: Mutex<HashSet<PackName>>,
    /// The pack that was taken out to be sealed and is not yet with the broker.
    leaving: Mutex<Leaving>,
    left: Condvar,
    level: Arc<Level>,
    counters: Arc<super::progress::Counters>,
}

impl Packer {
    pub(super) fn new(
        scope: Scope,
        kind: PackKind,
        pack_bytes: usize,
        is_dry: bool,
        level: Arc<Level>,
        counters: Arc<super::progress::Counters>,
        new_key: KeySource,
    ) -> Self {
        Self {
            scope,
            kind,
            pack_bytes,
            is_dry,
            new_key,
            open: Mutex::default(),
            stored: Arc::default(),
            own: Mutex::default(),
            leaving: Mutex::default(),
            left: Condvar::new(),
            level,
            counters,
        }
    }

    /// What to seal the next blob with.
    pub(super) fn key(&self) -> Result<Arc<PackKey>> {
        let mut open = lock(&self.open);
        let pack = self.ensure_open(&mut open)?;
        Ok(Arc::clone(&pack.key))
    }

    fn ensure_open<'a>(&self, open: &'a mut Option<OpenPack>) -> Result<&'a mut OpenPack> {
        if open.is_none() {
            let key = Arc::new((self.new_key)()?);
            let mut name = PackName::default();
            crate::random(&mut name)?;
            let before = {
                let mut own = lock(&self.own);
                own.insert(name);
                own.len() - 1
            };
            let directory = PackDirectory {
                kind: self.kind,
                envelopes: vec![key.envelope],
                entries: Vec::new(),
            };
            let builder = ObjectBuilder::with_capacity(self.pack_bytes + (1 << 20));
            let part = match self.kind {
                PackKind::Data => FIRST_PACK_TWELFTHS.get(before).copied().unwrap_or(12),
                PackKind::Metadata => 12,
            };
            let bytes_max = self.pack_bytes * part / 12;
            *open = Some(OpenPack { name, key, builder, directory, bytes_max });
        }
        open.as_mut().ok_or_else(|| crate::Error::internal("no open pack"))
    }

    /// Adds a blob that was sealed with `key`. Stores the pack when it is full; that takes place on
    /// the calling thread, which may have to wait for earlier packs to be stored.
    pub(super) fn add(&self, key: &Arc<PackKey>, id: Id, sealed: &[u8]) -> Result<()> {
        let full = {
            let mut open = lock(&self.open);
            let pack = self.ensure_open(&mut open)?;
            pack.add(key, id, sealed)?;
            let is_full = pack.builder.plaintext_len() + pack.tail_bytes() >= pack.bytes_max
                || pack.directory.entries.len() >= PACK_ENTRIES_MAX;
            if is_full { self.take_out(&mut open) } else { None }
        };
        full.map_or(Ok(()), |pack| self.store(pack))
    }

    /// Hands over what is open, and returns when every pack begun before is with the broker. Blobs
    /// added meanwhile by others go into a new pack, which is not waited for.
    pub(super) fn flush(&self) -> Result<()> {
        let pack = self.take_out(&mut lock(&self.open));
        pack.map_or(Ok(()), |pack| self.store(pack))?;
        let mut leaving = lock(&self.leaving);
        let begun = leaving.begun;
        while leaving.ended < begun {
            leaving = self.left.wait(leaving).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Takes out what is open, if it holds anything, once the pack before it is with the broker. Until
    /// then nobody adds to packs of this kind: or as many full ones as there are threads would wait.
    fn take_out(&self, open: &mut Option<OpenPack>) -> Option<OpenPack> {
        let pack = open.take_if(|pack| !pack.directory.entries.is_empty())?;
        // Under the lock of `open`, so that a flush sees every pack either there or here.
        let mut leaving = lock(&self.leaving);
        while leaving.ended < leaving.begun {
            leaving = self.left.wait(leaving).unwrap_or_else(PoisonError::into_inner);
        }
        leaving.begun += 1;
        Some(pack)
    }

    /// The packs that were stored since the last call.
    pub(super) fn take_stored(&self) -> Vec<StoredPack> {
        std::mem::take(&mut lock(&self.stored))
    }

    /// Whether this run made the pack.
    pub(super) fn is_own(&self, name: &PackName) -> bool {
        lock(&self.own).contains(name)
    }

    fn store(&self, pack: OpenPack) -> Result<()> {
        let result = self.seal_and_put(pack);
        lock(&self.leaving).ended += 1;
        self.left.notify_all();
        result
    }

    fn seal_and_put(&self, pack: OpenPack) -> Result<()> {
        let OpenPack { name, mut builder, directory, .. } = pack;
        let bare = builder.plaintext_len() as u64;
        let layout = PackLayout::plan(bare, directory.envelopes.len(), directory.entries.len())?;
        builder.extend_zeros(usize::try_from(layout.padding_bytes).unwrap_or_default());
        let listing = directory.encode()?;
        let object = pack_key(self.kind, &name);
        let kind = pack_type(self.kind);
        builder.extend(&listing);
        builder.extend(&self.scope.keys.sign_block(kind, &object, Action::Add, &listing)?);
        builder.extend(&layout.footer.encode());
        let sealed = builder.finish(self.scope.keys.objects(), kind, &object)?;
        let object_bytes = u32::try_from(sealed.len())
            .map_err(|_| crate::Error::internal("a pack of more than 4 GiB"))?;
        self.counters.stored(sealed.len() as u64);
        let stored = StoredPack { name, object_bytes, directory };
        if self.is_dry {
            lock(&self.stored).push(stored);
            return Ok(());
        }
        let list = Arc::clone(&self.stored);
        let on_put = Box::new(move |result: &Result<()>| {
            if result.is_ok() {
                lock(&list).push(stored);
            }
        });
        let before = Instant::now();
        self.scope.broker.put(self.scope.key(&object), sealed, on_put)?;
        self.level.adapt(before.elapsed());
        Ok(())
    }
}

impl OpenPack {
    fn tail_bytes(&self) -> usize {
        let directory = PackDirectory::encoded_bytes(
            self.directory.envelopes.len(),
            self.directory.entries.len(),
        );
        usize::try_from(directory).unwrap_or(usize::MAX / 2) + SIGNATURE_BYTES + FOOTER_BYTES
    }

    fn add(&mut self, key: &Arc<PackKey>, id: Id, sealed: &[u8]) -> Result<()> {
        let too_long = |_| crate::Error::internal("a pack of more than 4 GiB");
        let known = self.directory.envelopes.iter().position(|have| *have == key.envelope);
        let envelope = known.unwrap_or_else(|| {
            self.directory.envelopes.push(key.envelope);
            self.directory.envelopes.len() - 1
        });
        self.directory.entries.push(PackEntry {
            id,
            offset: u32::try_from(self.builder.plaintext_len()).map_err(too_long)?,
            length: u32::try_from(sealed.len()).map_err(too_long)?,
            envelope: u16::try_from(envelope).map_err(too_long)?,
        });
        self.builder.extend(sealed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::progress::Counters;
    use super::*;
    use crate::broker::Broker;
    use crate::crypto::{InitOptions, Keyring};

    #[test]
    fn what_hardly_shrinks_is_not_tried_harder() {
        let level = Level::new(3, 9);
        for _ in 0..9 {
            level.adapt(SLOW_PUT * 2);
        }
        assert_eq!([false, true].map(|hard| level.get(hard)), [9, 3]);
        level.adapt(Duration::ZERO);
        assert_eq!(level.get(false), 8);
        assert_eq!(Level::new(7, 7).get(true), 7);
    }

    #[test]
    fn few_full_packs_wait_however_many_threads_fill_them() {
        const THREADS: usize = 6;
        let (owner, _, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
        let keys = Arc::new(owner.scope(&owner.scopes()[0]).unwrap());
        let broker = Broker::new(1);
        let scope = Scope::new(Arc::clone(&broker), Arc::clone(&keys));
        let new_key: KeySource = Box::new(move || {
            let (blob, envelope) = keys.new_data_key()?;
            Ok(PackKey { blob, envelope: envelope.to_bytes() })
        });
        let counters = Arc::new(Counters::default());
        let level = Arc::new(Level::new(3, 3));
        let packer =
            Packer::new(scope, PackKind::Data, 4096, false, level, Arc::clone(&counters), new_key);
        let (next, mut most) = (AtomicUsize::new(0), 0);
        std::thread::scope(|threads| {
            let fillers: Vec<_> = (0..THREADS)
                .map(|_| {
                    threads.spawn(|| {
                        for _ in 0..20 {
                            let mut id = Id([0; 32]);
                            let number = next.fetch_add(1, Relaxed) as u64;
                            id.0[..8].copy_from_slice(&number.to_le_bytes());
                            let key = packer.key().unwrap();
                            packer.add(&key, id, &[1; 5000]).unwrap();
                        }
                    })
                })
                .collect();
            threads.spawn(|| {
                for filler in fillers {
                    filler.join().unwrap();
                }
                packer.flush().unwrap();
                broker.wait_puts().unwrap();
                broker.close();
            });
            let mut answered = 0;
            while let Some(request) = broker.next_request() {
                // Long enough for every thread to come with a full pack, if it may.
                (0..2000).for_each(|_| std::thread::yield_now());
                most = most.max(counters.stats().packs_stored - answered);
                request.complete(Vec::new());
                answered += 1;
            }
        });
        assert_eq!(packer.take_stored().len(), THREADS * 20);
        // One with the store, and one that waits for its turn.
        assert!(most <= 2, "{most} packs at a time");
    }
}
