//! What changed between two trees, in order, reading only the pages that differ.

use std::collections::VecDeque;

use super::node::Node;
use super::node_page::NodePage;
use super::page::{InnerEntry, parse_inner};
use super::reader::{check_inner, misplaced, page_name};
use super::{PageSource, Root, get_pages};
use crate::format::Id;
use crate::{Error, Result};

/// One difference between an old and a new tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the new tree has it.
    Added(Box<Node>),
    /// Only the old tree has it.
    Removed(Box<Node>),
    /// Both have it, and not the same: old, new.
    Changed(Box<(Node, Node)>),
}

impl Change {
    /// The key of what changed.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Added(node) | Self::Removed(node) => &node.key,
            Self::Changed(pair) => &pair.1.key,
        }
    }
}

/// The differences between two trees in the order of their keys. Pages that both trees share are
/// passed over unread. The first error ends the iteration.
#[derive(Debug)]
pub struct Diff<S> {
    source: S,
    old: Side,
    new: Side,
    is_done: bool,
}

/// What comes next on one side.
enum Head<'a> {
    /// A page that has not been read; all its keys are at or after this one.
    Page(&'a InnerEntry, u8),
    Node(&'a Node),
    End,
}

/// One tree, opened as far as necessary.
#[derive(Debug)]
struct Side {
    /// Pages yet to come, those of the topmost level first, each list with its level.
    stack: Vec<(VecDeque<InnerEntry>, u8)>,
    leaf: Option<(NodePage<Vec<u8>>, Id)>,
    node: Option<Node>,
}

impl Side {
    fn new(root: &Root) -> Self {
        // No key is below the empty one, so the root's first key need not be known.
        let entry =
            InnerEntry { key: Vec::new(), id: root.page, nodes: root.nodes, bytes: root.bytes };
        Self { stack: vec![(VecDeque::from([entry]), root.level)], leaf: None, node: None }
    }

    /// Loads the next node of an open page, or drops what is empty.
    fn settle(&mut self) -> Result<()> {
        while self.node.is_none()
            && let Some((page, id)) = &mut self.leaf
        {
            match page.next() {
                Some(node) => self.node = Some(node.map_err(|error| error.at(page_name(id)))?),
                None => self.leaf = None,
            }
        }
        if self.node.is_none() {
            while self.stack.last().is_some_and(|(entries, _)| entries.is_empty()) {
                self.stack.pop();
            }
        }
        Ok(())
    }

    fn head(&self) -> Head<'_> {
        if let Some(node) = &self.node {
            return Head::Node(node);
        }
        match self.stack.last().and_then(|(entries, level)| Some((entries.front()?, *level))) {
            Some((entry, level)) => Head::Page(entry, level),
            None => Head::End,
        }
    }

    fn take_page(&mut self) -> Option<(InnerEntry, u8, bool)> {
        let is_root = self.stack.len() == 1;
        let (entries, level) = self.stack.last_mut()?;
        Some((entries.pop_front()?, *level, is_root))
    }

    fn open(
        &mut self,
        raw: Vec<u8>,
        (entry, level, is_root): (InnerEntry, u8, bool),
    ) -> Result<()> {
        if level == 0 {
            let page = NodePage::parse(raw).map_err(|error| error.at(page_name(&entry.id)))?;
            if u64::from(page.head().count) != entry.nodes {
                return Err(misplaced(&entry.id));
            }
            self.leaf = Some((page, entry.id));
            return Ok(());
        }
        let first_key = (!is_root).then_some(entry.key.as_slice());
        let children = parse_inner(&raw, level)
            .and_then(|children| {
                check_inner(&children, entry.nodes, entry.bytes, first_key)?;
                Ok(children)
            })
            .map_err(|error| error.at(page_name(&entry.id)))?;
        self.stack.push((children.into(), level - 1));
        Ok(())
    }
}

/// What to do with the two heads.
enum Step {
    SkipBoth,
    Open { old: bool, new: bool },
    Removed,
    Added,
    Compare,
    End,
}

impl Step {
    fn choose(old: &Head<'_>, new: &Head<'_>) -> Self {
        let open = |old, new| Self::Open { old, new };
        match (old, new) {
            (Head::End, Head::End) => Self::End,
            (Head::Page(..), Head::End) => open(true, false),
            (Head::End, Head::Page(..)) => open(false, true),
            (Head::Page(a, _), Head::Page(b, _)) if a.id == b.id => Self::SkipBoth,
            // The page that begins first can have no equal on the other side. Of two that begin
            // together the higher one is opened: the other may be found in it.
            (Head::Page(a, a_level), Head::Page(b, b_level)) => match a.key.cmp(&b.key) {
                std::cmp::Ordering::Less => open(true, false),
                std::cmp::Ordering::Greater => open(false, true),
                std::cmp::Ordering::Equal => open(a_level >= b_level, b_level >= a_level),
            },
            (Head::Page(page, _), Head::Node(node)) if page.key <= node.key => open(true, false),
            (Head::Node(node), Head::Page(page, _)) if page.key <= node.key => open(false, true),
            (Head::Node(_), Head::End | Head::Page(..)) => Self::Removed,
            (Head::End | Head::Page(..), Head::Node(_)) => Self::Added,
            (Head::Node(a), Head::Node(b)) => match a.key.cmp(&b.key) {
                std::cmp::Ordering::Less => Self::Removed,
                std::cmp::Ordering::Greater => Self::Added,
                std::cmp::Ordering::Equal => Self::Compare,
            },
        }
    }
}

impl<S: PageSource> Diff<S> {
    /// Compares two trees of the same source key; trees under different keys share no pages.
    pub fn new(source: S, old: &Root, new: &Root) -> Self {
        Self { source, old: Side::new(old), new: Side::new(new), is_done: false }
    }

    fn open(&mut self, old: bool, new: bool) -> Result<()> {
        let old = if old { self.old.take_page() } else { None };
        let new = if new { self.new.take_page() } else { None };
        let ids: Vec<Id> = old.iter().chain(&new).map(|(entry, ..)| entry.id).collect();
        let mut pages = get_pages(&self.source, &ids)?.into_iter();
        let missing = || Error::internal("page of a tree was not read");
        if let Some(page) = old {
            self.old.open(pages.next().ok_or_else(missing)?, page)?;
        }
        if let Some(page) = new {
            self.new.open(pages.next().ok_or_else(missing)?, page)?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Change>> {
        loop {
            self.old.settle()?;
            self.new.settle()?;
            match Step::choose(&self.old.head(), &self.new.head()) {
                Step::End => return Ok(None),
                Step::SkipBoth => {
                    self.old.take_page();
                    self.new.take_page();
                }
                Step::Open { old, new } => self.open(old, new)?,
                Step::Removed => {
                    return Ok(self.old.node.take().map(|node| Change::Removed(Box::new(node))));
                }
                Step::Added => {
                    return Ok(self.new.node.take().map(|node| Change::Added(Box::new(node))));
                }
                Step::Compare => {
                    let pair = self.old.node.take().zip(self.new.node.take());
                    if let Some(pair) = pair.filter(|(old, new)| old != new) {
                        return Ok(Some(Change::Changed(Box::new(pair))));
                    }
                }
            }
        }
    }
}

impl<S: PageSource> Iterator for Diff<S> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.advance().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}
