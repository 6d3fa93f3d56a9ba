//! What snapshots and the index take up.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::{LookOptions, Rows, TreeOptions, kind_name};
use crate::error::Result;
use crate::format::pack::PackKind;
use crate::format::{Id, ShortId};
use crate::index::{Index, IndexOptions, PackName};
use crate::scope::Scope;
use crate::tree::collect::{Visitor, collect};

/// Options of `stats`.
#[derive(Clone, Debug, Deserialize)]
pub struct StatsOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub look: LookOptions,
    /// The snapshots to count.
    #[serde(default)]
    pub snapshots: Vec<StatsSnapshot>,
    /// What to count.
    #[serde(default)]
    pub mode: StatsMode,
}

/// One snapshot.
#[derive(Clone, Debug, Deserialize)]
pub struct StatsSnapshot {
    /// Its id.
    pub snapshot: String,
    /// Its tree.
    #[serde(flatten)]
    pub tree: TreeOptions,
}

/// What to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatsMode {
    /// What a restore would make.
    #[default]
    RestoreSize,
    /// What the snapshots occupy in the repository, each chunk counted once.
    RawData,
    /// What the index lists.
    Index,
}

/// What `stats` ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum StatsResult {
    /// Sum over the snapshots; a row for each went before.
    RestoreSize(RestoreSize),
    /// All snapshots together.
    RawData(RawData),
    /// The whole index.
    Index(IndexSize),
}

/// What a restore would make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreSize {
    /// Snapshots counted.
    pub snapshots: u64,
    /// By kind.
    pub kinds: BTreeMap<&'static str, KindSize>,
    /// Names.
    pub nodes: u64,
    /// Bytes of files, holes included, each inode counted once.
    pub bytes: u64,
    /// Names beyond the first of inodes with several.
    pub links: u64,
}

/// Nodes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindSize {
    /// How many names.
    pub count: u64,
    /// Sum of their sizes, each inode counted once.
    pub bytes: u64,
}

/// What snapshots occupy in the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RawData {
    /// Snapshots counted.
    pub snapshots: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Bytes of their blobs, compressed and sealed.
    pub chunk_bytes: u64,
    /// Distinct tree and extent pages.
    pub pages: u64,
    /// Bytes of their blobs.
    pub page_bytes: u64,
    /// Chunks that the index does not list.
    pub missing: u64,
}

/// What the index lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexSize {
    /// Runs.
    pub runs: u64,
    /// Bytes of the runs.
    pub run_bytes: u64,
    /// Distinct packs of chunks.
    pub data_packs: u64,
    /// Bytes of these objects.
    pub data_bytes: u64,
    /// Distinct packs of pages.
    pub meta_packs: u64,
    /// Bytes of these objects.
    pub meta_bytes: u64,
    /// Entries for chunks; one that lies in two places counts twice.
    pub chunk_entries: u64,
    /// Bytes of these blobs.
    pub chunk_bytes: u64,
    /// Entries for pages.
    pub page_entries: u64,
    /// Bytes of these blobs.
    pub page_bytes: u64,
}

#[derive(Serialize)]
struct SnapshotRow<'a> {
    snapshot: &'a str,
    #[serde(flatten)]
    size: &'a RestoreSize,
}

/// Counts. `raw-data` holds the 16 bytes of each distinct id: 20 to 40 MB for a million of them.
pub fn stats(scope: &Scope, options: &StatsOptions) -> Result<StatsResult> {
    match options.mode {
        StatsMode::RestoreSize => restore_size(scope, options).map(StatsResult::RestoreSize),
        StatsMode::RawData => raw_data(scope, options).map(StatsResult::RawData),
        StatsMode::Index => index_size(scope, options).map(StatsResult::Index),
    }
}

fn restore_size(scope: &Scope, options: &StatsOptions) -> Result<RestoreSize> {
    let index = options.look.load_index(scope)?;
    let mut rows = Rows::new(scope);
    let mut sum = RestoreSize::default();
    for snapshot in &options.snapshots {
        let mut size = RestoreSize { snapshots: 1, ..RestoreSize::default() };
        let mut groups = HashSet::new();
        for node in snapshot.tree.reader(scope, &index)?.nodes() {
            let node = node?;
            let is_again = node.link_group.is_some_and(|group| !groups.insert(group));
            let bytes = if is_again { 0 } else { node.size() };
            let kind = size.kinds.entry(kind_name(node.kind())).or_default();
            kind.count += 1;
            kind.bytes = kind.bytes.saturating_add(bytes);
            size.nodes += 1;
            size.bytes = size.bytes.saturating_add(bytes);
            size.links += u64::from(is_again);
        }
        rows.push(&SnapshotRow { snapshot: &snapshot.snapshot, size: &size })?;
        sum.add(&size);
    }
    rows.finish()?;
    Ok(sum)
}

impl RestoreSize {
    fn add(&mut self, other: &Self) {
        self.snapshots += other.snapshots;
        self.nodes += other.nodes;
        self.links += other.links;
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (name, size) in &other.kinds {
            let kind = self.kinds.entry(name).or_default();
            kind.count += size.count;
            kind.bytes = kind.bytes.saturating_add(size.bytes);
        }
    }
}

#[derive(Default)]
struct Reached {
    pages: HashSet<ShortId>,
    chunks: HashSet<ShortId>,
}

impl Visitor for Reached {
    fn page(&mut self, id: &Id) -> bool {
        self.pages.insert(id.short())
    }

    fn chunk(&mut self, id: &Id) {
        self.chunks.insert(id.short());
    }
}

fn raw_data(scope: &Scope, options: &StatsOptions) -> Result<RawData> {
    let mut reached = Reached::default();
    let index = options.look.load_index(scope)?;
    for snapshot in &options.snapshots {
        let pages = snapshot.tree.pages(scope, &index)?;
        collect(&pages, &snapshot.tree.root()?, &mut reached)?;
    }
    drop(index);
    let mut size = RawData {
        snapshots: options.snapshots.len() as u64,
        chunks: reached.chunks.len() as u64,
        pages: reached.pages.len() as u64,
        ..RawData::default()
    };
    // Run by run: what does not fit into memory would be looked up block by block otherwise.
    each_run(scope, options, |_, index| {
        for (id, place) in index.entries() {
            let bytes = u64::from(place.length());
            match index.pack(&place)?.kind {
                PackKind::Data if reached.chunks.remove(&id) => size.chunk_bytes += bytes,
                PackKind::Metadata if reached.pages.remove(&id) => size.page_bytes += bytes,
                _ => {}
            }
        }
        Ok(())
    })?;
    size.missing = reached.chunks.len() as u64;
    Ok(size)
}

fn index_size(scope: &Scope, options: &StatsOptions) -> Result<IndexSize> {
    let mut size = IndexSize::default();
    let mut packs: HashMap<PackName, (PackKind, u32)> = HashMap::new();
    each_run(scope, options, |bytes, index| {
        size.runs += 1;
        size.run_bytes += bytes;
        for pack in index.packs() {
            packs.insert(pack.name, (pack.kind, pack.object_bytes));
        }
        for (_, place) in index.entries() {
            let bytes = u64::from(place.length());
            let (entries, sum) = match index.pack(&place)?.kind {
                PackKind::Data => (&mut size.chunk_entries, &mut size.chunk_bytes),
                PackKind::Metadata => (&mut size.page_entries, &mut size.page_bytes),
            };
            *entries += 1;
            *sum += bytes;
        }
        Ok(())
    })?;
    for (kind, bytes) in packs.values() {
        let (count, sum) = match kind {
            PackKind::Data => (&mut size.data_packs, &mut size.data_bytes),
            PackKind::Metadata => (&mut size.meta_packs, &mut size.meta_bytes),
        };
        *count += 1;
        *sum += u64::from(*bytes);
    }
    Ok(size)
}

/// Loads one run after the other, whole, and gives each to `look` with the bytes of its object.
fn each_run(
    scope: &Scope,
    options: &StatsOptions,
    mut look: impl FnMut(u64, &Index) -> Result<()>,
) -> Result<()> {
    let all = options.look.readable();
    for run in &all.runs {
        let one = IndexOptions { runs: vec![run.clone()], ..all.clone() };
        let index = Index::load(scope, &one, u64::MAX)?;
        if let Some(error) = index.damaged().first() {
            return Err(error.clone());
        }
        look(run.size, &index)?;
    }
    Ok(())
}
