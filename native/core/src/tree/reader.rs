//! Reads trees: in order, from a key on, below a directory, one node by its key, or side by side with
//! a walk.
//!
//! Each page is checked against what the page above says of it: level, first key, and number of
//! nodes and bytes, so a page that stands where it does not belong is seen. One that cannot be read can be
//! passed over: the page above knows where the next one begins.

use std::collections::VecDeque;

use super::extents::ExtentIter;
use super::key::subtree_end;
use super::node::{Body, Content, Node};
use super::node_page::NodePage;
use super::page::{InnerEntry, parse_inner};
use super::{PageSource, Root, get_page, get_pages};
use crate::format::Id;
use crate::{Error, ErrorKind, Result};

/// How many pages of nodes one request brings at most, unless told otherwise: about 1 MiB.
pub const READ_AHEAD: usize = 16;

/// A tree that can be read.
#[derive(Clone, Debug)]
pub struct TreeReader<S> {
    source: S,
    root: Root,
    read_ahead: usize,
}

impl<S: PageSource> TreeReader<S> {
    /// A reader of the tree below `root`.
    pub const fn new(source: S, root: Root) -> Self {
        Self { source, root, read_ahead: READ_AHEAD }
    }

    /// Changes how many pages of nodes one request brings at most.
    #[must_use]
    pub fn read_ahead(mut self, pages: usize) -> Self {
        self.read_ahead = pages.max(1);
        self
    }

    /// What roots the tree.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// All nodes in order.
    pub fn nodes(&self) -> TreeIter<&S> {
        self.range(None, None)
    }

    /// The nodes whose keys are not below `start`, in order.
    pub fn nodes_from(&self, start: &[u8]) -> TreeIter<&S> {
        self.range(Some(start), None)
    }

    /// The node with this key and everything below it, in order.
    pub fn subtree(&self, key: &[u8]) -> TreeIter<&S> {
        self.range(Some(key), subtree_end(key))
    }

    fn range(&self, start: Option<&[u8]>, end: Option<Vec<u8>>) -> TreeIter<&S> {
        let mut iter = TreeIter::new(&self.source, self.root, self.read_ahead);
        iter.end = end;
        if let Some(start) = start {
            iter.seek(start);
        }
        iter
    }

    /// Keys at which nodes from all over the tree can be read, at most `count` of them, in order. Reads
    /// one page; in a small tree the only one is the start.
    pub fn spread(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        if self.root.level == 0 {
            return Ok(vec![Vec::new()]);
        }
        let raw = get_page(&self.source, self.root.page)?;
        let entries = parse_inner(&raw, self.root.level)
            .map_err(|error| error.at(page_name(&self.root.page)))?;
        let step = entries.len().div_ceil(count.max(1)).max(1);
        Ok(entries.into_iter().step_by(step).map(|entry| entry.key).collect())
    }

    /// The node with this key: reads one page of each level.
    pub fn find(&self, key: &[u8]) -> Result<Option<Node>> {
        let mut iter = self.range(Some(key), None);
        iter.read_ahead = 1;
        let node = iter.next().transpose()?;
        Ok(node.filter(|node| node.key == key))
    }

    /// Something in the place of the directory with this key if its node cannot be read but something below
    /// it can.
    pub fn lost_directory(&self, key: &[u8]) -> Option<Node> {
        let mut nodes = self.subtree(key);
        let mut is_lost = false;
        loop {
            match nodes.next()? {
                Ok(node) if is_lost && node.key != key => {
                    return Some(Node::new(key.to_vec(), Body::Directory));
                }
                Err(_) if nodes.pass_lost() => is_lost = true,
                _ => return None,
            }
        }
    }

    /// The extents of a file of this tree, with their offsets in it.
    pub fn extents(&self, content: &Content) -> ExtentIter<&S> {
        ExtentIter::new(&self.source, content, 0)
    }

    /// A cursor that is moved along by the keys of a walk.
    pub fn cursor(&self) -> Cursor<&S> {
        Cursor::new(self.nodes())
    }

    /// As [`cursor`](Self::cursor), for who keeps it longer than the reader.
    pub fn into_cursor(self) -> Cursor<S> {
        Cursor::new(TreeIter::new(self.source, self.root, self.read_ahead))
    }
}

/// An inner page on the way down.
#[derive(Debug)]
struct Frame {
    entries: VecDeque<InnerEntry>,
    level: u8,
}

/// What the page above says of a page of nodes, counted down while it is read.
#[derive(Debug)]
struct Leaf {
    page: NodePage<Vec<u8>>,
    id: Id,
    /// The root's is not known.
    first_key: Option<Vec<u8>>,
    bytes_expected: u64,
    bytes_seen: u64,
}

/// The nodes of a tree in order. Holds one inner page of each level and at most as many pages of nodes
/// as it reads ahead; begins with one and doubles while reading goes straight on. An error ends the
/// iteration, unless [`pass_lost`](Self::pass_lost) lets it go on behind a page that is lost.
#[derive(Debug)]
pub struct TreeIter<S> {
    source: S,
    root: Option<Root>,
    stack: Vec<Frame>,
    /// Pages for the first entries of the last frame.
    ahead: VecDeque<Vec<u8>>,
    window: usize,
    read_ahead: usize,
    leaf: Option<Leaf>,
    last_key: Option<Vec<u8>>,
    /// Nodes with keys below are passed over.
    floor: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    is_done: bool,
    /// Ended by a page that was lost, behind which there may be others.
    is_at_gap: bool,
}

impl<S: PageSource> TreeIter<S> {
    fn new(source: S, root: Root, read_ahead: usize) -> Self {
        Self {
            source,
            root: Some(root),
            stack: Vec::new(),
            ahead: VecDeque::new(),
            window: 1,
            read_ahead,
            leaf: None,
            last_key: None,
            floor: None,
            end: None,
            is_done: false,
            is_at_gap: false,
        }
    }

    /// After an error: goes on behind the page that is damaged or missing. False where that cannot be: the
    /// page is the tree's root, or it was another kind of error. Then the iteration has ended.
    ///
    /// What is lost are nodes with keys between that of the last node before the error and that of the next
    /// one after it; directories among them are known by what is left below them only.
    pub fn pass_lost(&mut self) -> bool {
        let goes_on = std::mem::take(&mut self.is_at_gap);
        self.is_done &= !goes_on;
        goes_on
    }

    /// Reads as far ahead from the first page on as when it has gone straight on for long.
    #[must_use]
    pub fn straight_on(mut self) -> Self {
        self.window = self.read_ahead;
        self
    }

    /// Leaves the page at which `error` happened.
    fn note_failure(&mut self, error: &Error) {
        if let Some(leaf) = self.leaf.take() {
            // Keys go on rising, whatever a page that was not read to its end said before.
            let reached = leaf.page.last_key();
            if self.last_key.as_deref().is_none_or(|last| last < reached) && !reached.is_empty() {
                self.last_key = Some(reached.to_vec());
            }
        }
        // The page above the lost one is still there, unless that was the root.
        self.is_at_gap = is_lost(error) && !self.stack.is_empty();
        self.is_done = true;
    }

    /// Passes over all nodes with keys below `key` without reading pages that hold no others. Never
    /// goes back.
    pub fn seek(&mut self, key: &[u8]) {
        if self.floor.as_deref().is_some_and(|floor| floor >= key) {
            return;
        }
        self.floor = Some(key.to_vec());
        let passed = |frame: &Frame| frame.entries.front().is_some_and(|next| *next.key <= *key);
        // The first level at which the next page begins at or before the key: all below it is passed.
        if let Some(level) = self.stack.iter().position(passed) {
            self.leaf = None;
            if level + 1 < self.stack.len() {
                self.stack.truncate(level + 1);
                self.ahead.clear();
            }
            self.pass_entries(key);
        }
    }

    /// Drops the entries of the last frame whose pages end before `key`.
    fn pass_entries(&mut self, key: &[u8]) {
        let Some(frame) = self.stack.last_mut() else {
            return;
        };
        let beginning = frame.entries.partition_point(|entry| *entry.key <= *key);
        let passed = beginning.saturating_sub(1);
        if passed > 0 {
            frame.entries.drain(..passed);
            self.ahead.drain(..passed.min(self.ahead.len()));
            self.window = 1;
        }
    }

    fn open_root(&mut self, root: &Root) -> Result<()> {
        let raw = get_page(&self.source, root.page)?;
        if root.level == 0 {
            let entry =
                InnerEntry { key: Vec::new(), id: root.page, nodes: root.nodes, bytes: root.bytes };
            return self.open_leaf(raw, entry, true);
        }
        self.open_inner(&raw, root.page, root.level, (root.nodes, root.bytes), None)
    }

    fn open_inner(
        &mut self,
        raw: &[u8],
        id: Id,
        level: u8,
        (nodes, bytes): (u64, u64),
        first_key: Option<&[u8]>,
    ) -> Result<()> {
        let entries = parse_inner(raw, level).map_err(|error| error.at(page_name(&id)))?;
        check_inner(&entries, nodes, bytes, first_key).map_err(|error| error.at(page_name(&id)))?;
        self.stack.push(Frame { entries: entries.into(), level });
        if let Some(floor) = self.floor.take() {
            self.pass_entries(&floor);
            self.floor = Some(floor);
        }
        Ok(())
    }

    fn open_leaf(&mut self, raw: Vec<u8>, entry: InnerEntry, is_root: bool) -> Result<()> {
        let page = NodePage::parse(raw).map_err(|error| error.at(page_name(&entry.id)))?;
        if u64::from(page.head().count) != entry.nodes {
            return Err(misplaced(&entry.id));
        }
        self.leaf = Some(Leaf {
            page,
            id: entry.id,
            first_key: (!is_root).then_some(entry.key),
            bytes_expected: entry.bytes,
            bytes_seen: 0,
        });
        Ok(())
    }

    /// Opens the next page of nodes; false at the end.
    fn next_leaf(&mut self) -> Result<bool> {
        if let Some(root) = self.root.take() {
            self.open_root(&root)?;
            if self.leaf.is_some() {
                return Ok(true);
            }
        }
        loop {
            let Some(frame) = self.stack.last_mut() else {
                return Ok(false);
            };
            let level = frame.level;
            if level == 1 && self.ahead.is_empty() {
                let end = self.end.as_deref();
                let wanted = |entry: &&InnerEntry| end.is_none_or(|end| *entry.key < *end);
                let next = frame.entries.iter().take(self.window).take_while(wanted);
                let ids: Vec<Id> = next.map(|entry| entry.id).collect();
                match get_ahead(&self.source, &ids) {
                    Ok(pages) if pages.is_empty() => {}
                    Ok(pages) => {
                        let is_all = pages.len() == ids.len();
                        self.window = if is_all { self.window * 2 } else { 1 }.min(self.read_ahead);
                        self.ahead = pages.into();
                    }
                    Err(error) => {
                        frame.entries.pop_front();
                        return Err(error);
                    }
                }
            }
            let Some(entry) = frame.entries.pop_front() else {
                self.stack.pop();
                continue;
            };
            if self.end.as_deref().is_some_and(|end| *entry.key >= *end) {
                return Ok(false);
            }
            if level == 1 {
                let raw = self.ahead.pop_front();
                let raw = raw.ok_or_else(|| Error::internal("page of nodes was not read"))?;
                self.open_leaf(raw, entry, false)?;
                return Ok(true);
            }
            let raw = get_page(&self.source, entry.id)?;
            let sums = (entry.nodes, entry.bytes);
            self.open_inner(&raw, entry.id, level - 1, sums, Some(&entry.key))?;
        }
    }

    fn advance(&mut self) -> Result<Option<Node>> {
        loop {
            let Some(leaf) = &mut self.leaf else {
                if self.next_leaf()? {
                    continue;
                }
                return Ok(None);
            };
            let is_first = leaf.page.left() == leaf.page.head().count;
            let Some(node) = leaf.page.next() else {
                self.leaf = None;
                continue;
            };
            let node = node.map_err(|error| error.at(page_name(&leaf.id)))?;
            leaf.bytes_seen = leaf.bytes_seen.saturating_add(node.size());
            let is_last = leaf.page.left() == 0;
            // Keys rise within a page; only its first one can be wrong.
            let is_wrong = is_first
                && (leaf.first_key.as_ref().is_some_and(|key| *key != node.key)
                    || self.last_key.as_ref().is_some_and(|last| *last >= node.key));
            if is_wrong || (is_last && leaf.bytes_seen != leaf.bytes_expected) {
                return Err(misplaced(&leaf.id));
            }
            if is_last {
                self.last_key = Some(node.key.clone());
            }
            if self.end.as_ref().is_some_and(|end| node.key >= *end) {
                return Ok(None);
            }
            match &self.floor {
                Some(floor) if node.key < *floor => {}
                Some(_) => {
                    self.floor = None;
                    return Ok(Some(node));
                }
                None => return Ok(Some(node)),
            }
        }
    }
}

impl<S: PageSource> Iterator for TreeIter<S> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.advance().transpose();
        match &next {
            Some(Ok(_)) => {}
            Some(Err(error)) => self.note_failure(error),
            None => self.is_done = true,
        }
        next
    }
}

/// Whether an error means that a page, and not the way to it, is gone.
const fn is_lost(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unsupported)
}

/// The pages of `ids`, or the first of them where one of the others is lost. None of none.
fn get_ahead<S: PageSource>(source: &S, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
    let Some(first) = ids.first() else {
        return Ok(Vec::new());
    };
    match get_pages(source, ids) {
        Err(error) if ids.len() > 1 && is_lost(&error) => {
            get_page(source, *first).map(|page| vec![page])
        }
        other => other,
    }
}

/// Checks an inner page against what the page above says of it; none for the root's first key.
pub(crate) fn check_inner(
    entries: &[InnerEntry],
    nodes: u64,
    bytes: u64,
    first_key: Option<&[u8]>,
) -> Result<()> {
    let count = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.nodes));
    let size = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
    let starts = entries.first().map(|entry| entry.key.as_slice());
    if count == Some(nodes) && size == bytes && (first_key.is_none() || first_key == starts) {
        Ok(())
    } else {
        Err(Error::damaged("page does not hold what the page above says"))
    }
}

pub(crate) fn misplaced(id: &Id) -> Error {
    Error::damaged("page does not hold what the page above says").at(page_name(id))
}

pub(crate) fn page_name(id: &Id) -> String {
    format!("page {id}")
}

/// Follows a walk through a tree: the walk says which key it is at, the cursor gives the node that the
/// tree has there. Pages that the walk does not touch are not read.
#[derive(Debug)]
pub struct Cursor<S> {
    iter: TreeIter<S>,
    current: Option<Node>,
    is_done: bool,
}

impl<S: PageSource> Cursor<S> {
    fn new(iter: TreeIter<S>) -> Self {
        Self { iter, current: None, is_done: false }
    }

    /// The node with this key, if the tree has one. Goes forward only: keys must not be below those
    /// asked for before, or the answer is none. After an error the cursor is at its end.
    pub fn advance_to(&mut self, key: &[u8]) -> Result<Option<&Node>> {
        while !self.is_done && self.current.as_ref().is_none_or(|node| *node.key < *key) {
            self.iter.seek(key);
            self.current = self.iter.next().transpose().inspect_err(|_| self.is_done = true)?;
            self.is_done = self.current.is_none();
        }
        Ok(self.current.as_ref().filter(|node| *node.key == *key))
    }
}
