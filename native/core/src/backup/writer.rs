//! The writing half of a run: what the repository has, packs, reference sets, runs and the root of a tree.
//! A backup and a copy from another repository differ in where nodes and chunks come from; from here on they
//! are the same.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::chunks::{Chunks, Known};
use super::control::Control;
use super::finish::{Finished, RootJson};
use super::memory::Shares;
use super::metadata::{Pages, Refs, RunGate};
use super::packer::{Level, PackKey, Packer};
use super::progress::{Counters, Stats};
use crate::broker::lock;
use crate::crypto::SourceId;
use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::index::{Index, IndexOptions, PackName, parse_names};
use crate::scope::{Scope, hex16};
use crate::tree::{PageKey, TreeBuilder};

/// zstd levels between which a run adapts.
const LEVEL_BASE: i32 = 3;

/// What a run writes, and how.
pub(super) struct Writing<'a> {
    /// Source id in hex, under the scope that is written to.
    pub(super) source_id: &'a str,
    /// Snapshot id in hex.
    pub(super) snapshot: &'a str,
    /// Generation that runs are written under.
    pub(super) generation: u64,
    /// The trusted runs.
    pub(super) index: &'a IndexOptions,
    /// A fixed zstd level, or `None` to adapt.
    pub(super) level: Option<i32>,
    /// Whether nothing is stored.
    pub(super) is_dry: bool,
}

/// Where everything new goes. Any thread may use it.
pub struct Writer {
    pub(super) scope: Scope,
    pub(super) source: SourceId,
    pub(super) known: Arc<Known>,
    pub(super) data: Arc<Packer>,
    pub(super) refs: Arc<Refs>,
    pub(super) counters: Arc<Counters>,
    pub(super) control: Arc<Control>,
    meta: Arc<Packer>,
    level: Arc<Level>,
    gate: RunGate,
    index_bytes: u64,
    is_dry: bool,
    /// Names of the runs that were written.
    runs: Mutex<Vec<String>>,
}

/// What a checkpoint says.
#[derive(Serialize)]
struct CheckpointJson<'a> {
    root: RootJson,
    runs: &'a [String],
    stats: Stats,
}

impl Writer {
    /// Prepares a run. Reads the index.
    pub(super) fn new(scope: Scope, writing: &Writing<'_>, shares: &Shares) -> Result<Self> {
        let source = SourceId::parse(writing.source_id)?;
        let counters = Arc::new(Counters::default());
        let index = Index::load_trusted(&scope, writing.index, shares.index)?;
        let level = Arc::new(match writing.level {
            Some(level) => Level::new(level, level),
            None => Level::new(LEVEL_BASE, shares.level_most),
        });
        let is_dry = writing.is_dry;
        let packer = |kind, bytes, level: &Arc<Level>, key| {
            let counters = Arc::clone(&counters);
            let level = Arc::clone(level);
            Arc::new(Packer::new(scope.clone(), kind, bytes, is_dry, level, counters, key))
        };
        let keys = Arc::clone(&scope.keys);
        let data_key = Box::new(move || {
            let (blob, envelope) = keys.new_data_key()?;
            Ok(PackKey { blob, envelope: envelope.to_bytes() })
        });
        let keys = Arc::clone(&scope.keys);
        let meta_key = Box::new(move || {
            let (blob, envelope) = keys.source(&source)?.new_page_key()?;
            Ok(PackKey { blob, envelope: envelope.to_bytes() })
        });
        let data = packer(PackKind::Data, shares.data_pack, &level, data_key);
        let still = Arc::new(Level::new(0, 0));
        let meta = packer(PackKind::Metadata, shares.meta_pack, &still, meta_key);
        Ok(Self {
            refs: Refs::new(scope.clone(), writing.snapshot.to_owned(), is_dry),
            gate: RunGate::new(writing.generation),
            scope,
            source,
            known: Arc::new(Known::new(index)),
            data,
            meta,
            level,
            counters,
            control: Arc::default(),
            index_bytes: shares.index,
            is_dry,
            runs: Mutex::default(),
        })
    }

    /// Counters to watch.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Flags to set.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// First half of acknowledging generation n: no run is in flight when this returns, the new view
    /// counts, and the answer is which of `condemned` to keep. Runs wait for [`Self::acknowledged`].
    pub fn acknowledge(&self, index: &IndexOptions, condemned: &[String]) -> Result<Vec<String>> {
        let condemned = parse_names(condemned)?;
        self.gate.pause();
        let index = Index::load_trusted(&self.scope, index, self.index_bytes)?;
        let mut keep = self.known.replace(index, &condemned);
        let is_own = |name: &&PackName| self.data.is_own(name) || self.meta.is_own(name);
        keep.extend(condemned.iter().filter(is_own));
        keep.sort_unstable();
        keep.dedup();
        Ok(keep.iter().map(hex16).collect())
    }

    /// Second half: the register says so, runs go on under `generation`.
    pub fn acknowledged(&self, generation: u64) {
        self.gate.open(generation);
    }

    /// Where chunks go.
    pub(super) fn chunks(&self) -> Result<Chunks> {
        Ok(Chunks {
            known: Arc::clone(&self.known),
            packer: Arc::clone(&self.data),
            ids: self.scope.keys.id_key()?,
            level: Arc::clone(&self.level),
            counters: Arc::clone(&self.counters),
        })
    }

    /// Where pages go that the snapshot needs.
    pub(super) fn pages(&self) -> Result<Pages> {
        self.pages_noted_in(Some(Arc::clone(&self.refs)))
    }

    /// Where pages go that only a checkpoint needs.
    pub(super) fn checkpoint_pages(&self) -> Result<Pages> {
        self.pages_noted_in(None)
    }

    fn pages_noted_in(&self, refs: Option<Arc<Refs>>) -> Result<Pages> {
        let (known, packer) = (Arc::clone(&self.known), Arc::clone(&self.meta));
        Pages::new(known, packer, Arc::clone(&self.counters), refs)
    }

    /// What gives pages their ids and borders.
    pub(super) fn page_key(&self) -> Result<PageKey> {
        let (key, _) = self.scope.keys.source(&self.source)?.new_page_key()?;
        Ok(PageKey::new(*key.id_key().expose()))
    }

    /// Tells the caller how far the tree has come, once all that it needs is durable.
    pub(super) fn checkpoint(&self, builder: TreeBuilder, pages: &mut Pages) -> Result<()> {
        let root = builder.finish(pages)?;
        self.write_run()?;
        let json = {
            let runs = lock(&self.runs);
            let stats = self.counters.stats();
            serde_json::to_vec(&CheckpointJson { root: root.into(), runs: &runs, stats })
        };
        let json = json.map_err(|error| Error::internal(error.to_string()))?;
        self.scope.broker.output("checkpoint", json)
    }

    /// The end: the tree is whole, and all that it needs is durable when this returns.
    pub(super) fn finish(&self, builder: TreeBuilder, pages: &mut Pages) -> Result<Finished> {
        let root = builder.finish(pages)?;
        let refs = self.refs.finish()?;
        self.write_run()?;
        if !self.is_dry {
            self.scope.broker.wait_puts()?;
        }
        Ok(Finished { root: root.into(), refs, runs: std::mem::take(&mut *lock(&self.runs)) })
    }

    /// Makes everything durable that was sealed so far, and lists it.
    fn write_run(&self) -> Result<()> {
        self.data.flush()?;
        self.meta.flush()?;
        if !self.is_dry {
            self.scope.broker.wait_puts()?;
        }
        let mut packs = self.data.take_stored();
        packs.extend(self.meta.take_stored());
        let run = self.gate.write_run(&self.scope, &packs, self.is_dry)?;
        lock(&self.runs).extend(run);
        Ok(())
    }
}
