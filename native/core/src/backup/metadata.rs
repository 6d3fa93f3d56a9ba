//! Where new pages go, what a snapshot refers to, and the runs that list what was stored.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::chunks::Known;
use super::packer::{Packer, StoredPack};
use super::progress::Counters;
use crate::broker::lock;
use crate::crypto::{BlobKind, BlobSealer, Compression, ObjectType};
use crate::error::{Error, Result};
use crate::format::refs::RefSetBuilder;
use crate::format::run::RunBuilder;
use crate::format::{Id, ShortId};
use crate::scope::{Scope, hex16};
use crate::tree::PageSink;

/// zstd level of pages: they are few, and read often.
const PAGE_LEVEL: i32 = 6;

/// Seals pages that are new into metadata packs.
pub(super) struct Pages {
    pub(super) known: Arc<Known>,
    pub(super) packer: Arc<Packer>,
    pub(super) counters: Arc<Counters>,
    /// What the pages are noted in; nothing for a checkpoint, which protects itself by its register.
    pub(super) refs: Option<Arc<Refs>>,
    sealer: BlobSealer,
}

impl Pages {
    pub(super) fn new(
        known: Arc<Known>,
        packer: Arc<Packer>,
        counters: Arc<Counters>,
        refs: Option<Arc<Refs>>,
    ) -> Result<Self> {
        Ok(Self { known, packer, counters, refs, sealer: BlobSealer::new()? })
    }

    /// Notes a chunk that the snapshot refers to.
    pub(super) fn note(&self, id: &Id) -> Result<()> {
        self.refs.as_ref().map_or(Ok(()), |refs| refs.insert(id.short()))
    }
}

impl PageSink for Pages {
    fn put_page(&mut self, raw: Vec<u8>, id: Id) -> Result<()> {
        if let Some(refs) = &self.refs {
            refs.insert_page(id.short())?;
        }
        if !self.known.claim(&id.short())? {
            return Ok(());
        }
        let key = self.packer.key()?;
        let compression = Compression::Zstd(PAGE_LEVEL);
        let sealed = self.sealer.seal(&key.blob, BlobKind::Page, &id.0, &raw, compression)?;
        self.counters.new_page();
        self.packer.add(&key, id, sealed)
    }
}

/// The chunks and pages that the new tree reaches.
pub(super) struct Refs {
    scope: Scope,
    snapshot: String,
    is_dry: bool,
    state: Mutex<RefState>,
}

#[derive(Default)]
struct RefState {
    builder: RefSetBuilder,
    parts: Vec<ObjectHash>,
    /// Ids in the parts.
    ids: u64,
    /// Pages noted.
    pages: u64,
}

/// How many chunks and pages a snapshot refers to.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Counts {
    /// Chunks.
    pub chunks: u64,
    /// Tree and extent pages.
    pub pages: u64,
}

/// Name of an object below the scope, and BLAKE3 of its bytes.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ObjectHash {
    /// Name.
    pub name: String,
    /// Hash in hex.
    pub hash: String,
}

impl Refs {
    pub(super) fn new(scope: Scope, snapshot: String, is_dry: bool) -> Arc<Self> {
        Arc::new(Self { scope, snapshot, is_dry, state: Mutex::default() })
    }

    /// Notes a page.
    pub(super) fn insert_page(&self, id: ShortId) -> Result<()> {
        lock(&self.state).pages += 1;
        self.insert(id)
    }

    /// How many ids there are. Pages are counted each time that they are noted.
    pub(super) fn counts(&self) -> Counts {
        let state = lock(&self.state);
        let pages = state.pages.min(state.ids);
        Counts { chunks: state.ids - pages, pages }
    }

    /// Notes a chunk.
    pub(super) fn insert(&self, id: ShortId) -> Result<()> {
        let mut state = lock(&self.state);
        match state.builder.insert(id) {
            Some(body) => self.put(&mut state, body),
            None => Ok(()),
        }
    }

    /// Stores the last part; the caller waits for the puts.
    pub(super) fn finish(&self) -> Result<Vec<ObjectHash>> {
        let mut state = lock(&self.state);
        let builder = std::mem::take(&mut state.builder);
        if let Some(body) = builder.finish() {
            self.put(&mut state, body)?;
        }
        Ok(std::mem::take(&mut state.parts))
    }

    fn put(&self, state: &mut RefState, body: Vec<u8>) -> Result<()> {
        let name = format!("refs/{}-{}", self.snapshot, state.parts.len());
        let count = body.get(8..12).and_then(|bytes| bytes.first_chunk().copied());
        state.ids += u64::from(u32::from_le_bytes(count.unwrap_or_default()));
        let sealed = self.scope.seal_body(ObjectType::ReferenceSet, &name, body)?;
        let hash = blake3::hash(&sealed).to_hex().to_string();
        if !self.is_dry {
            self.scope.broker.put(self.scope.key(&name), sealed, Box::new(|_| ()))?;
        }
        state.parts.push(ObjectHash { name, hash });
        Ok(())
    }
}

/// Under which generation runs are written, and whether they may be now.
pub(super) struct RunGate {
    state: Mutex<Gate>,
    changed: Condvar,
}

struct Gate {
    generation: u64,
    is_paused: bool,
}

impl RunGate {
    pub(super) fn new(generation: u64) -> Self {
        Self { state: Mutex::new(Gate { generation, is_paused: false }), changed: Condvar::new() }
    }

    /// Waits for the run that is being written, and lets none begin until [`Self::open`].
    pub(super) fn pause(&self) {
        lock(&self.state).is_paused = true;
    }

    /// Runs go on, under `generation`.
    pub(super) fn open(&self, generation: u64) {
        *lock(&self.state) = Gate { generation, is_paused: false };
        self.changed.notify_all();
    }

    /// Writes a run of these packs and waits until it is durable; `None` if there are none.
    ///
    /// The gate stays locked meanwhile: no run is in flight across an acknowledgement.
    pub(super) fn write_run(
        &self,
        scope: &Scope,
        packs: &[StoredPack],
        is_dry: bool,
    ) -> Result<Option<String>> {
        if packs.is_empty() {
            return Ok(None);
        }
        let mut builder = RunBuilder::new();
        for pack in packs {
            builder.add_directory(pack.name, pack.object_bytes, &pack.directory)?;
        }
        let body = builder.finish()?;
        let mut state = lock(&self.state);
        while state.is_paused {
            scope.broker.check()?;
            let wait = std::time::Duration::from_millis(100);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut random = [0; 16];
        crate::random(&mut random)?;
        let name = format!("{:016x}-{}", state.generation, hex16(&random));
        let object = format!("index/{name}");
        let sealed = scope.seal_body(ObjectType::Run, &object, body)?;
        if !is_dry {
            let failed = Arc::new(Mutex::new(None::<Error>));
            let note = Arc::clone(&failed);
            let on_put = Box::new(move |result: &Result<()>| {
                *lock(&note) = result.clone().err();
            });
            scope.broker.put(scope.key(&object), sealed, on_put)?;
            scope.broker.wait_puts()?;
            if let Some(error) = lock(&failed).take() {
                return Err(error);
            }
        }
        Ok(Some(name))
    }
}
