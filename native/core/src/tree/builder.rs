//! Builds a tree from nodes in the order of their keys (section 9.2).

use super::node::{NODE_BYTES_MAX, Node};
use super::node_page::NodePageWriter;
use super::page::{InnerEntry, PageType, PageWriter, put_inner};
use super::{PageKey, PageSink, Root, key};
use crate::{Error, ErrorKind, Result};

/// A page may end from this size on, in bytes.
pub const PAGE_BYTES_MIN: usize = 16 << 10;
/// A page ends at this size, in bytes.
pub const PAGE_BYTES_TARGET_MAX: usize = 256 << 10;

const BORDER_BITS: u32 = 9;
/// Above this level the hash has no bits of its own left: such pages end by size alone.
const BORDER_LEVEL_MAX: u32 = 6;

/// Takes nodes in order and puts pages. Holds one unfinished page of each level, about 256 KiB
/// each; trees of a billion nodes have four levels.
#[derive(Clone, Debug)]
pub struct TreeBuilder {
    key: PageKey,
    leaf: NodePageWriter,
    leaf_start: Vec<u8>,
    leaf_bytes: u64,
    inner: Vec<InnerWriter>,
    last_key: Vec<u8>,
    nodes: u64,
    bytes: u64,
}

/// The unfinished inner page of one level.
#[derive(Clone, Debug)]
struct InnerWriter {
    page: PageWriter,
    previous: Vec<u8>,
    start: Vec<u8>,
    nodes: u64,
    bytes: u64,
}

impl TreeBuilder {
    /// A builder whose pages get ids and borders by `key`.
    pub fn new(key: PageKey) -> Self {
        Self {
            key,
            leaf: NodePageWriter::new(),
            leaf_start: Vec::new(),
            leaf_bytes: 0,
            inner: Vec::new(),
            last_key: Vec::new(),
            nodes: 0,
            bytes: 0,
        }
    }

    /// Nodes so far.
    pub const fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Appends a node. Refuses one that the format cannot hold, or whose key is not greater than the
    /// last one's, with an error of kind `Usage`; the builder is as before then.
    pub fn push(&mut self, node: &Node, sink: &mut dyn PageSink) -> Result<()> {
        let refused = |what| Error::new(ErrorKind::Usage, what);
        if self.nodes > 0 && node.key <= self.last_key {
            return Err(refused("nodes out of order"));
        }
        let shared = key::shared_len(&node.key, &self.last_key);
        key::check_key_from(&node.key, shared).map_err(refused)?;
        node.check().map_err(refused)?;
        if node.bytes_bound() > NODE_BYTES_MAX {
            return Err(refused("node with more than 4 MiB of attributes"));
        }
        let size = self.leaf.page.size();
        if self.leaf.page.count() > 0 && self.starts_page(&node.key, 0, size) {
            self.close_leaf(sink)?;
        }
        if self.leaf.page.count() == 0 {
            self.leaf_start.clone_from(&node.key);
        }
        self.leaf.push(node);
        self.leaf_bytes = self.leaf_bytes.saturating_add(node.size());
        self.nodes += 1;
        self.bytes = self.bytes.saturating_add(node.size());
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(node.key.get(shared..).unwrap_or_default());
        Ok(())
    }

    /// Puts the remaining pages and returns the root. A tree without nodes is one empty page.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<Root> {
        let (nodes, bytes) = (self.nodes, self.bytes);
        let root = |page, level| Root { page, level, nodes, bytes };
        if self.inner.is_empty() {
            let entry = self.put_leaf(sink)?;
            return Ok(root(entry.id, 0));
        }
        self.close_leaf(sink)?;
        let mut level = 1;
        loop {
            let entry = self.put_inner_page(level, sink)?;
            if usize::from(level) == self.inner.len() {
                return Ok(root(entry.id, level));
            }
            level += 1; // below the number of levels, which is below 65
            self.add_entry(level, entry, sink)?;
        }
    }

    /// The root of the tree as it is now, with all pages that it needs put, as a checkpoint wants.
    /// The builder goes on as if nothing had happened.
    pub fn snapshot_root(&self, sink: &mut dyn PageSink) -> Result<Root> {
        self.clone().finish(sink)
    }

    fn starts_page(&self, key: &[u8], level: u8, size: usize) -> bool {
        if size >= PAGE_BYTES_TARGET_MAX {
            return true;
        }
        let level = u32::from(level);
        let mask = (1 << BORDER_BITS) - 1;
        size >= PAGE_BYTES_MIN
            && level <= BORDER_LEVEL_MAX
            && (self.key.border_hash(key) >> (BORDER_BITS * level)) & mask == 0
    }

    fn put_leaf(&mut self, sink: &mut dyn PageSink) -> Result<InnerEntry> {
        let nodes = u64::from(self.leaf.page.count());
        let raw = self.leaf.page.finish()?;
        let id = self.key.page_id(&raw);
        sink.put_page(raw, id)?;
        let key = std::mem::take(&mut self.leaf_start);
        let bytes = std::mem::take(&mut self.leaf_bytes);
        Ok(InnerEntry { key, id, nodes, bytes })
    }

    fn close_leaf(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let entry = self.put_leaf(sink)?;
        self.add_entry(1, entry, sink)
    }

    /// Adds a finished page to the level above it, whose own page may end before it, and so on up.
    fn add_entry(
        &mut self,
        mut level: u8,
        mut entry: InnerEntry,
        sink: &mut dyn PageSink,
    ) -> Result<()> {
        loop {
            let at = usize::from(level) - 1;
            if self.inner.len() == at {
                self.inner.push(InnerWriter::new(level));
            }
            // Two entries at least, or long keys would make towers of pages with one entry each.
            let is_full = self.inner.get(at).is_some_and(|inner| {
                inner.page.count() >= 2 && self.starts_page(&entry.key, level, inner.page.size())
            });
            let finished = if is_full { Some(self.put_inner_page(level, sink)?) } else { None };
            if let Some(inner) = self.inner.get_mut(at) {
                inner.push(entry);
            }
            let Some(finished) = finished else {
                return Ok(());
            };
            entry = finished;
            level =
                level.checked_add(1).ok_or_else(|| Error::internal("tree of too many levels"))?;
        }
    }

    fn put_inner_page(&mut self, level: u8, sink: &mut dyn PageSink) -> Result<InnerEntry> {
        let inner = self.inner.get_mut(usize::from(level) - 1);
        let inner = inner.ok_or_else(|| Error::internal("level without its page"))?;
        let raw = inner.page.finish()?;
        let id = self.key.page_id(&raw);
        sink.put_page(raw, id)?;
        Ok(InnerEntry {
            key: std::mem::take(&mut inner.start),
            id,
            nodes: std::mem::take(&mut inner.nodes),
            bytes: std::mem::take(&mut inner.bytes),
        })
    }
}

impl InnerWriter {
    fn new(level: u8) -> Self {
        Self {
            page: PageWriter::new(PageType::Inner, level),
            previous: Vec::new(),
            start: Vec::new(),
            nodes: 0,
            bytes: 0,
        }
    }

    fn push(&mut self, entry: InnerEntry) {
        put_inner(&mut self.page, &entry, &mut self.previous);
        self.nodes += entry.nodes;
        self.bytes = self.bytes.saturating_add(entry.bytes);
        if self.page.count() == 1 {
            self.start = entry.key;
        }
    }
}
