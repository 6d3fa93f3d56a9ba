//! What cannot be had of a snapshot that is written anew around it: told row by row before anything is
//! written, so that directories can say at once that something of them was left out.
//!
//! Whoever reads the tree afterwards and loses more than was told here fails.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hashbrown::HashSet;
use serde::Serialize;

use super::is_lost;
use super::walk::find_chunk;
use crate::backup::dispatch::path_of;
use crate::backup::slot::Signal;
use crate::broker::Broker;
use crate::error::{Error, Result};
use crate::format::Id;
use crate::index::Index;
use crate::pages::PageStore;
use crate::tree::extents::ExtentIter;
use crate::tree::key::{SEPARATOR, split_key};
use crate::tree::{Body, Content, ExtentKind, Kind, LeftOut, Node, Root, TreeIter, TreeReader};

/// Lost ranges of one file that are told; of more their number is.
const RANGES_MAX: usize = 100;
/// Rows are handed over in batches of about so many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// How much is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LostCounts {
    /// Files that are left out, each name counted.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
    /// Places at which pages of the tree are lost, with all entries that they held.
    pub gaps: u64,
    /// Entries that these pages held.
    pub entries: u64,
    /// Directories whose own attributes are lost, but not all that is below them.
    pub directories: u64,
    /// Entries that are left, directories that are made anew among them.
    pub left: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Row {
    /// A file that is left out, and its ranges (offset, length) that are lost.
    File { path_b64: String, size: u64, ranges: Vec<(u64, u64)>, range_count: u64 },
    /// Entries between two neighbours, in the order of keys.
    Entries { after_b64: Option<String>, before_b64: Option<String>, message: String },
    /// A directory that stands only for what is below it.
    Directory { path_b64: String },
}

/// What is lost, and of which directories.
pub(super) struct Losses {
    pub(super) counts: LostCounts,
    affected: Affected,
    /// Files that were left out so far, by who writes.
    left_out: AtomicU64,
}

impl Losses {
    /// Says in a directory that some of its entries were left out, if that is so: nobody who makes a target
    /// equal to the snapshot removes them there then.
    pub(super) fn mark(&self, node: &mut Node) {
        if node.kind() == Kind::Directory && self.affected.has(&node.key) {
            node.left_out.get_or_insert(LeftOut::Entries);
        }
    }

    /// Notes a file that is left out.
    pub(super) fn leave_out(&self) {
        self.left_out.fetch_add(1, Relaxed);
    }

    /// Fails where something else was written than was told.
    pub(super) fn compare(&self, nodes: u64) -> Result<()> {
        if nodes == self.counts.left && self.left_out.load(Relaxed) == self.counts.files {
            return Ok(());
        }
        Err(Error::damaged("more of the snapshot is lost than was seen before"))
    }
}

/// Directories of which something is lost; all of them when they are too many to remember.
#[derive(Default)]
struct Affected {
    keys: HashSet<Vec<u8>>,
    bytes: u64,
    bytes_max: u64,
    is_all: bool,
}

impl Affected {
    fn has(&self, key: &[u8]) -> bool {
        self.is_all || self.keys.contains(key)
    }

    fn note(&mut self, key: &[u8]) {
        if self.has(key) {
            return;
        }
        self.bytes += key.len() as u64 + 64;
        if self.bytes > self.bytes_max {
            self.is_all = true;
            self.keys = HashSet::new();
        } else {
            self.keys.insert(key.to_vec());
        }
    }

    /// What may have stood behind this key: below it, or in any directory above it.
    fn note_behind(&mut self, mut key: &[u8]) {
        self.note(key);
        while let Some((parent, _)) = split_key(key) {
            self.note(parent);
            key = parent;
        }
    }
}

/// The nodes of a tree that can be had, in order, with what they are in.
pub(super) struct Around<'a> {
    nodes: TreeIter<&'a Arc<PageStore>>,
    loses_missing: bool,
    /// Directories that the last node is in, and itself if it is one.
    open: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

/// What comes next.
pub(super) enum Step {
    /// A node, and before it directories that only what is below them tells of.
    Node { made: Vec<Node>, node: Box<Node>, gap: Option<Gap> },
    /// No more, and perhaps what is lost at the end.
    End(Option<Gap>),
}

/// Pages of the tree that cannot be read.
pub(super) struct Gap {
    after: Option<Vec<u8>>,
    why: Error,
}

impl<'a> Around<'a> {
    pub(super) fn new(reader: &'a TreeReader<Arc<PageStore>>, loses_missing: bool) -> Self {
        Self { nodes: reader.nodes(), loses_missing, open: Vec::new(), last: None }
    }

    pub(super) fn step(&mut self) -> Result<Step> {
        let mut gap = None;
        loop {
            match self.nodes.next().transpose() {
                Ok(Some(node)) => {
                    let made = self.lead_to(&node.key);
                    if node.kind() == Kind::Directory {
                        self.open.push(node.key.clone());
                    }
                    self.last.get_or_insert_default().clone_from(&node.key);
                    return Ok(Step::Node { made, node: Box::new(node), gap });
                }
                Ok(None) => return Ok(Step::End(gap)),
                Err(error) if is_lost(&error, self.loses_missing) => {
                    gap.get_or_insert_with(|| Gap { after: self.last.clone(), why: error });
                    // Where it does not go on the page at the top is lost: all that there is.
                    if !self.nodes.pass_lost() {
                        return Ok(Step::End(gap));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves what the key is not in. Returns directories that should have been met before it.
    fn lead_to(&mut self, key: &[u8]) -> Vec<Node> {
        let Some((parent, _)) = split_key(key) else { return Vec::new() };
        while self.open.last().is_some_and(|top| !is_in(parent, top)) {
            self.open.pop();
        }
        let mut missing = Vec::new();
        let mut at = Some(parent);
        while let Some(key) = at
            && self.open.last().is_none_or(|top| top != key)
        {
            missing.push(key.to_vec());
            at = split_key(key).map(|(above, _)| above);
        }
        missing.reverse();
        self.open.extend(missing.iter().cloned());
        missing.into_iter().map(stand_in).collect()
    }
}

/// Whether a directory is another one, or below it.
fn is_in(key: &[u8], above: &[u8]) -> bool {
    let rest = key.strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.first().is_none_or(|byte| *byte == SEPARATOR))
}

/// A directory of which nothing is known but that it was there: for its owner only.
fn stand_in(key: Vec<u8>) -> Node {
    let mut node = Node::new(key, Body::Directory);
    node.mode = 0o700;
    node.left_out = Some(LeftOut::Entries);
    node
}

/// Goes through a tree and tells what of it is lost.
pub(super) struct Survey<'a> {
    pub(super) pages: Arc<PageStore>,
    pub(super) index: &'a Index,
    pub(super) signal: &'a Signal,
    pub(super) broker: &'a Broker,
    pub(super) loses_missing: bool,
}

impl Survey<'_> {
    /// Reads no content. Remembers directories up to `bytes_max`.
    pub(super) fn run(&self, root: Root, bytes_max: u64) -> Result<Losses> {
        let mut counts = LostCounts::default();
        let mut affected = Affected { bytes_max, ..Affected::default() };
        let mut rows = Rows { broker: self.broker, batch: Vec::new() };
        let mut seen = 0;
        let reader = TreeReader::new(Arc::clone(&self.pages), root);
        let mut around = Around::new(&reader, self.loses_missing);
        let mut last_whole = None;
        loop {
            self.signal.check()?;
            let (made, node, gap) = match around.step()? {
                Step::Node { made, node, gap } => (made, Some(node), gap),
                Step::End(gap) => (Vec::new(), None, gap),
            };
            if let Some(gap) = gap {
                counts.gaps += 1;
                affected.note_behind(gap.after.as_deref().unwrap_or_default());
                rows.push(&Row::Entries {
                    after_b64: gap.after.as_deref().map(path_b64),
                    before_b64: node.as_ref().map(|node| path_b64(&node.key)),
                    message: gap.why.to_string(),
                })?;
            }
            for directory in &made {
                counts.directories += 1;
                rows.push(&Row::Directory { path_b64: path_b64(&directory.key) })?;
            }
            counts.left += made.len() as u64;
            let Some(node) = node else { break };
            seen += 1;
            if let Some(row) = self.look_at(&node, &mut last_whole)? {
                counts.files += 1;
                counts.bytes = counts.bytes.saturating_add(node.size());
                affected.note(split_key(&node.key).map_or(&[], |(parent, _)| parent));
                rows.push(&row)?;
            } else {
                counts.left += 1;
            }
        }
        rows.flush()?;
        counts.entries = root.nodes.saturating_sub(seen);
        Ok(Losses { counts, affected, left_out: AtomicU64::default() })
    }

    /// What is lost of a file, if anything is.
    fn look_at(&self, node: &Node, last_whole: &mut Option<Id>) -> Result<Option<Row>> {
        let Body::File { size, content } = &node.body else { return Ok(None) };
        if *size == 0 || node.unreadable {
            return Ok(None);
        }
        let mut ranges = Ranges::default();
        let mut end = 0;
        for extent in self.extents(content) {
            match extent {
                Ok((offset, extent)) => {
                    end = offset + extent.length;
                    let ExtentKind::Data { id, .. } = extent.kind else { continue };
                    if *last_whole == Some(id) {
                        continue;
                    }
                    if find_chunk(self.index, &id)?.is_some() {
                        *last_whole = Some(id);
                    } else {
                        ranges.add(offset, extent.length);
                    }
                }
                Err(error) if is_lost(&error, self.loses_missing) => {
                    ranges.add(end, size.saturating_sub(end));
                }
                Err(error) => return Err(error),
            }
        }
        let Ranges { told, count, .. } = ranges;
        let path_b64 = path_b64(&node.key);
        Ok((count > 0).then_some(Row::File {
            path_b64,
            size: *size,
            ranges: told,
            range_count: count,
        }))
    }

    fn extents(&self, content: &Content) -> ExtentIter<&Arc<PageStore>> {
        ExtentIter::new(&self.pages, content, 0)
    }
}

/// Ranges of a file, neighbours joined.
#[derive(Default)]
struct Ranges {
    told: Vec<(u64, u64)>,
    count: u64,
    end: u64,
}

impl Ranges {
    fn add(&mut self, offset: u64, length: u64) {
        let is_next = self.count > 0 && self.end == offset;
        self.end = offset + length;
        if !is_next {
            self.count += 1;
            if self.told.len() < RANGES_MAX {
                self.told.push((offset, length));
            }
        } else if self.count == self.told.len() as u64
            && let Some(last) = self.told.last_mut()
        {
            last.1 += length;
        }
    }
}

/// Lines of JSON in batches.
struct Rows<'a> {
    broker: &'a Broker,
    batch: Vec<u8>,
}

impl Rows<'_> {
    fn push(&mut self, row: &Row) -> Result<()> {
        serde_json::to_writer(&mut self.batch, row)
            .map_err(|error| Error::internal(format!("a row that is no JSON: {error}")))?;
        self.batch.push(b'\n');
        if self.batch.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.broker.output("lost", batch) }
    }
}

fn path_b64(key: &[u8]) -> String {
    BASE64.encode(path_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_only_so_many_are_told() {
        let mut ranges = Ranges::default();
        for (offset, length) in [(0, 5), (5, 5), (20, 1)] {
            ranges.add(offset, length);
        }
        assert_eq!((ranges.told.as_slice(), ranges.count), (&[(0, 10), (20, 1)][..], 2));
        for number in 0..2 * RANGES_MAX as u64 {
            ranges.add(100 + 10 * number, 5);
            ranges.add(105 + 10 * number, 1);
        }
        assert_eq!((ranges.told.len(), ranges.count), (RANGES_MAX, 2 + 2 * RANGES_MAX as u64));
        assert_eq!(ranges.told.last(), Some(&(100 + 10 * (RANGES_MAX as u64 - 3), 6)));
    }

    #[test]
    fn what_stood_behind_a_key_is_below_it_or_in_what_it_is_in() {
        let mut affected = Affected { bytes_max: 1000, ..Affected::default() };
        affected.note_behind(b"a\0b\0c");
        for key in [&b""[..], b"a", b"a\0b", b"a\0b\0c"] {
            assert!(affected.has(key));
        }
        assert!(!affected.has(b"b") && !affected.has(b"a\0bb"));
        affected.note(&[b'x'; 1000]);
        assert!(affected.has(b"b"), "too many to remember: it may be any");
    }

    #[test]
    fn a_directory_is_in_those_above_it() {
        for (key, above) in [("", ""), ("a", ""), ("a", "a"), ("a\0b", "a")] {
            assert!(is_in(key.as_bytes(), above.as_bytes()), "{key:?} {above:?}");
        }
        for (key, above) in [("", "a"), ("ab", "a"), ("a", "a\0b")] {
            assert!(!is_in(key.as_bytes(), above.as_bytes()), "{key:?} {above:?}");
        }
    }
}
