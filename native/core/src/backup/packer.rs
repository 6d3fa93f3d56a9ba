//! Fills packs with sealed blobs and hands them over when they are full.
//!
//! A blob is sealed outside the lock, with the data key of the pack that is open when sealing
//! starts; if that pack closes meanwhile, the blob goes into the next one and takes its envelope along.
//! A pack counts as stored, and may be listed in a run, only after its put was answered.

use std::collections::BTreeSet;
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
}

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

    /// The level to use now.
    pub(super) fn get(&self) -> i32 {
        self.now.load(Relaxed)
    }

    fn adapt(&self, waited: Duration) {
        let step = if waited > SLOW_PUT { 1 } else { -1 };
        let level = (self.get() + step).clamp(self.base, self.most);
        self.now.store(level, Relaxed);
    }
}

/// Packs on their way to the broker, numbered as they were taken out.
#[derive(Default)]
struct Leaving {
    next: u64,
    numbers: BTreeSet<u64>,
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
    /// Packs that were taken out to be sealed and are not yet with the broker.
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
            lock(&self.own).insert(name);
            let directory = PackDirectory {
                kind: self.kind,
                envelopes: vec![key.envelope],
                entries: Vec::new(),
            };
            let builder = ObjectBuilder::with_capacity(self.pack_bytes + (1 << 20));
            *open = Some(OpenPack { name, key, builder, directory });
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
            let is_full = pack.builder.plaintext_len() + pack.tail_bytes() >= self.pack_bytes
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
        let mark = leaving.next;
        while leaving.numbers.first().is_some_and(|number| *number < mark) {
            leaving = self.left.wait(leaving).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn take_out(&self, open: &mut Option<OpenPack>) -> Option<(u64, OpenPack)> {
        let pack = open.take_if(|pack| !pack.directory.entries.is_empty())?;
        // Under the lock of `open`, so that a flush sees every pack either there or here.
        let mut leaving = lock(&self.leaving);
        let number = leaving.next;
        leaving.next += 1;
        leaving.numbers.insert(number);
        Some((number, pack))
    }

    /// The packs that were stored since the last call.
    pub(super) fn take_stored(&self) -> Vec<StoredPack> {
        std::mem::take(&mut lock(&self.stored))
    }

    /// Whether this run made the pack.
    pub(super) fn is_own(&self, name: &PackName) -> bool {
        lock(&self.own).contains(name)
    }

    fn store(&self, (number, pack): (u64, OpenPack)) -> Result<()> {
        let result = self.seal_and_put(pack);
        lock(&self.leaving).numbers.remove(&number);
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
