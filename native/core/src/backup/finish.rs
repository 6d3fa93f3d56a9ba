//! The end of the pipeline: nodes in order, their content complete, into the tree; and checkpoints.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use hashbrown::HashMap;
use serde::Serialize;

use super::dispatch::path_of;
use super::entries::vanished;
use super::files::stopped;
use super::items::{Entry, EntryDone, Large, LargeSlot, PartialNode, PartialState, TaskDone};
use super::metadata::{ObjectHash, Pages};
use super::problems::Problems;
use super::progress::{Change, Compared};
use super::slot::{Signal, Slot};
use super::stream::{Part, StreamMap};
use super::writer::Writer;
use crate::broker::lock;
use crate::error::{Error, Result};
use crate::fs::FileKind;
use crate::tree::{Body, Content, ExtentKind, Node, Root, TreeBuilder};

/// How often a checkpoint that was asked for is looked for while nothing comes in.
const POLL: Duration = Duration::from_millis(100);

/// A node on its way into the tree.
pub(super) enum Pending {
    /// Taken over as it is.
    Same(Node),
    /// Read; the content of a small file is a part of the stream.
    Node(Node, Option<Part>, Change),
    /// Another name of an inode that came earlier.
    Link { entry: Box<Entry>, group: u64, is_last: bool },
    /// A large file.
    Large(LargeSlot, Arc<PartialNode>),
}

/// A root as the caller gets it.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct RootJson {
    /// Page id in hex.
    pub page: String,
    /// Level of that page.
    pub level: u8,
    /// Nodes in the tree.
    pub nodes: u64,
    /// Sum of the sizes of all files.
    pub bytes: u64,
}

impl From<Root> for RootJson {
    fn from(root: Root) -> Self {
        let Root { page, level, nodes, bytes } = root;
        Self { page: page.to_string(), level, nodes, bytes }
    }
}

impl TryFrom<&RootJson> for Root {
    type Error = Error;

    fn try_from(root: &RootJson) -> Result<Self> {
        let page = blake3::Hash::from_hex(&root.page)
            .map_err(|_| Error::damaged("the root of a snapshot is not a page id"))?;
        let page = crate::format::Id(*page.as_bytes());
        Ok(Self { page, level: root.level, nodes: root.nodes, bytes: root.bytes })
    }
}

/// What the run ends with.
pub(super) struct Finished {
    pub(super) root: RootJson,
    pub(super) refs: Vec<ObjectHash>,
    pub(super) runs: Vec<String>,
}

/// The builder of the tree and what it needs.
pub(super) struct Finisher<'a> {
    pub(super) writer: &'a Writer,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) map: &'a StreamMap,
    pub(super) pages: Pages,
    /// For what only a checkpoint needs.
    pub(super) checkpoint_pages: Pages,
    pub(super) problems: &'a Problems,
    /// Taken at the end.
    pub(super) builder: Option<TreeBuilder>,
    /// Nodes of inodes with more names to come, and how they compare with the parent.
    pub(super) links: HashMap<u64, (Node, Change)>,
    /// To the readers of large files, for names whose first one was lost. Taken when no more come: the
    /// readers end when all senders have.
    pub(super) again: Option<Sender<Large>>,
    /// Closed when all workers have ended.
    pub(super) workers: Receiver<()>,
}

impl Finisher<'_> {
    /// Takes nodes until there are no more. Takes the queue itself, too: whoever fills it must not
    /// wait for us once we have failed.
    #[expect(clippy::needless_pass_by_value, reason = "the queue ends with this call")]
    pub(super) fn run(mut self, nodes: Receiver<Pending>) -> Result<Finished> {
        loop {
            self.checkpoint_if_asked(None)?;
            match nodes.recv_timeout(POLL) {
                Ok(pending) => self.take(pending)?,
                Err(RecvTimeoutError::Timeout) => self.signal.check()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A chunk that somebody waits for may be the same as one that nobody waits for any more, because
        // its file turned out to be unreadable: it is in no pack before the worker that has it is done.
        self.again = None;
        let _ = self.workers.recv();
        self.signal.check()?;
        let builder = self.builder.take().ok_or_else(without_builder)?;
        self.writer.finish(builder, &mut self.pages)
    }

    fn take(&mut self, pending: Pending) -> Result<()> {
        match pending {
            Pending::Same(node) => self.add(&node, Change::None),
            Pending::Node(mut node, part, change) => {
                if let (Some(part), Body::File { content, .. }) = (part, &mut node.body) {
                    *content = Content::Inline(self.extents(part)?);
                }
                self.add(&node, change)
            }
            Pending::Link { entry, group, is_last } => {
                let first = if is_last {
                    self.links.remove(&group)
                } else {
                    self.links.get(&group).cloned()
                };
                match first {
                    Some((first, change)) => self.append(&Node { key: entry.key, ..first }, change),
                    None => self.orphan(*entry),
                }
            }
            Pending::Large(slot, partial) => self.large(&slot, &partial),
        }
    }

    fn extents(&mut self, part: Part) -> Result<Vec<crate::tree::Extent>> {
        loop {
            let is_empty = self.builder.as_ref().is_none_or(|builder| builder.nodes() == 0);
            let is_asked = || !is_empty && self.writer.control.is_checkpoint_asked();
            let ready = self.signal.wait_for(|| {
                let extents = self.map.extents(part);
                (extents.is_some() || is_asked()).then_some(extents)
            })?;
            match ready {
                Some(extents) => return extents,
                None => self.checkpoint_if_asked(None)?,
            }
        }
    }

    fn large(&mut self, slot: &LargeSlot, partial: &Arc<PartialNode>) -> Result<()> {
        loop {
            let is_done = self.signal.wait_for(|| {
                let is_done = slot.get().is_some();
                (is_done || self.writer.control.is_checkpoint_asked()).then_some(is_done)
            })?;
            if !is_done {
                self.checkpoint_if_asked(Some((slot, partial)))?;
                continue;
            }
            let done = slot.get().and_then(|done| lock(done).take());
            return match done.ok_or_else(|| Error::internal("a file came twice"))? {
                TaskDone::Read(EntryDone { node, change, problems, .. }) => {
                    for problem in &problems {
                        self.problems.report(problem)?;
                    }
                    self.add(&node, change)
                }
                TaskDone::Lost(error) => self.problems.report(&error),
                TaskDone::Same(node) => self.add(&node, Change::None),
                TaskDone::Link { .. } => Err(Error::internal("a large file became a link")),
            };
        }
    }

    /// A name of an inode whose first name was lost on the way: removed or renamed since the walk came by.
    /// This one may well be there, and is read by itself.
    fn orphan(&mut self, entry: Entry) -> Result<()> {
        let Some(again) = self.again.as_ref().filter(|_| entry.stat.kind == FileKind::File) else {
            let lost = vanished(&entry, "is another name of something that was lost");
            return match lost {
                TaskDone::Lost(error) => self.problems.report(&error),
                _ => Ok(()),
            };
        };
        let (slot, partial) = (Slot::new(self.signal), Arc::new(PartialNode::default()));
        let (to, part) = (Arc::clone(&slot), Arc::clone(&partial));
        let large = Large { entry, resume: None, recheck: None, slot: to, partial: part };
        again.send(large).map_err(|_| stopped())?;
        self.large(&slot, &partial)
    }

    /// Adds the first or only name of an inode.
    fn add(&mut self, node: &Node, change: Change) -> Result<()> {
        if let Some(group) = node.link_group {
            let node = Node { key: Vec::new(), ..node.clone() };
            self.links.insert(group, (node, change));
        }
        self.append(node, change)
    }

    fn append(&mut self, node: &Node, change: Change) -> Result<()> {
        if admit(node, change, self.writer, self.problems)? {
            self.builder.as_mut().ok_or_else(without_builder)?.push(node, &mut self.pages)?;
        }
        Ok(())
    }

    fn checkpoint_if_asked(
        &mut self,
        large: Option<(&LargeSlot, &Arc<PartialNode>)>,
    ) -> Result<()> {
        if !self.writer.control.is_checkpoint_asked() {
            return Ok(());
        }
        let mut builder = self.builder.clone().ok_or_else(without_builder)?;
        if let Some((slot, partial)) = large {
            lock(&partial.state).ask();
            let node = self.signal.wait_for(|| {
                if slot.get().is_some() {
                    return Some(None);
                }
                lock(&partial.state).take().map(Some)
            })?;
            if let Some(node) = node {
                builder.push(&node, &mut self.checkpoint_pages)?;
            }
        }
        // Still asked for when there is something to tell: who wants to stop waits for it.
        if builder.nodes() == 0 {
            return Ok(());
        }
        self.writer.control.begin_checkpoint();
        self.writer.checkpoint(builder, &mut self.checkpoint_pages)
    }
}

impl PartialState {
    fn ask(&mut self) {
        if matches!(self, Self::Idle) {
            *self = Self::Asked;
        }
    }

    fn take(&mut self) -> Option<Box<Node>> {
        match std::mem::take(self) {
            Self::Ready(node) => Some(node),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Counts a node and notes the chunks of its inline content. False, and reported, when no tree can hold it.
pub(super) fn admit(
    node: &Node,
    change: Change,
    writer: &Writer,
    problems: &Problems,
) -> Result<bool> {
    if let Err(refusal) = node.check() {
        let path = crate::fs::display_path(&path_of(&node.key));
        return problems.report(&Error::internal(refusal).at(path)).map(|()| false);
    }
    writer.counters.node(match &node.body {
        Body::Directory => Compared::Directory,
        Body::File { size, .. } => Compared::File { size: *size, change },
        _ => Compared::Other,
    });
    if node.unstable {
        writer.counters.unstable_file();
    }
    // The pages of long contents and what they name were noted when they were written or found.
    if let Body::File { content: Content::Inline(extents), .. } = &node.body {
        for extent in extents {
            if let ExtentKind::Data { id, .. } = extent.kind {
                writer.refs.insert(id.short())?;
            }
        }
    }
    Ok(true)
}

pub(super) fn without_builder() -> Error {
    Error::internal("the tree is finished")
}
