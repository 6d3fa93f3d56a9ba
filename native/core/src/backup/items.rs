//! What flows from the walk to the tree, in the order of keys: entries to look at, and what came of it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::compare::Before;
use super::progress::Change;
use super::recheck::Recheck;
use super::slot::Slot;
use crate::budget::Permit;
use crate::error::Error;
use crate::fs::{Dir, Stat};
use crate::tree::{Content, LeftOut, Node};

/// Where an entry is found.
#[derive(Clone)]
pub(super) enum At {
    /// The directory itself.
    Dir(Arc<Dir>),
    /// An entry of a directory.
    Entry(Arc<Dir>, Vec<u8>),
}

/// An entry whose attributes, and content if it is small, must be read.
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) at: At,
    pub(super) stat: Stat,
    pub(super) change: Change,
    /// The content that an earlier tree has, where it may still be the file's.
    pub(super) before: Option<Box<Before>>,
    /// Of a directory: its entries could not be listed, or not all of them.
    pub(super) is_unlisted: bool,
    /// Of a directory: what of it is left out on purpose.
    pub(super) left_out: Option<LeftOut>,
}

impl Entry {
    /// An entry to be read whole.
    pub(super) fn new(key: Vec<u8>, at: At, stat: Stat, change: Change) -> Self {
        Self { key, at, stat, change, before: None, is_unlisted: false, left_out: None }
    }
}

/// One entry of a group.
pub(super) enum Task {
    /// To be read.
    Read(Entry),
    /// Taken over from the parent as it is.
    Same(Node),
    /// Another name of an inode that came earlier; whether the last one.
    Link { entry: Box<Entry>, group: u64, is_last: bool },
    /// Nothing is known of it but what went wrong.
    Lost(Error),
}

/// Entries that one reader takes at a time, and where it puts the result.
pub(super) struct Group {
    pub(super) tasks: Vec<Task>,
    /// For the bytes of the small files.
    pub(super) permit: Permit,
    pub(super) slot: GroupSlot,
}

/// Where the result of a group is delivered.
pub(super) type GroupSlot = Arc<Slot<Mutex<Option<GroupDone>>>>;

/// What came of a group.
pub(super) struct GroupDone {
    pub(super) entries: Vec<TaskDone>,
    /// Contents of the small files, one after the other.
    pub(super) bytes: Vec<u8>,
    pub(super) _permit: Permit,
}

/// What came of one entry of a group.
pub(super) enum TaskDone {
    /// It was read.
    Read(EntryDone),
    /// Taken over.
    Same(Node),
    /// Another name; whether the last one.
    Link { entry: Box<Entry>, group: u64, is_last: bool },
    /// Lost.
    Lost(Error),
}

/// What came of an entry that was read. Of small files the node has no content yet.
pub(super) struct EntryDone {
    pub(super) node: Node,
    pub(super) change: Change,
    /// The file's bytes in the group's, if it is a small file with any.
    pub(super) content: Range<usize>,
    pub(super) problems: Vec<Error>,
}

/// A large file, and where its node goes.
pub(super) struct Large {
    pub(super) entry: Entry,
    /// What an earlier run has covered of exactly this file: content and bytes.
    pub(super) resume: Option<(Content, u64)>,
    /// Seems unchanged: these pieces are compared, and if they are the same, its content is taken over.
    pub(super) recheck: Option<Recheck>,
    pub(super) slot: LargeSlot,
    pub(super) partial: Arc<PartialNode>,
}

/// Where the reader of a large file leaves what a checkpoint needs of it.
#[derive(Default)]
pub(super) struct PartialNode {
    pub(super) state: Mutex<PartialState>,
}

/// How far that is.
#[derive(Default)]
pub(super) enum PartialState {
    /// Nobody asked.
    #[default]
    Idle,
    /// A checkpoint waits for it.
    Asked,
    /// Here it is.
    Ready(Box<Node>),
}

/// In the order of keys, what the sequencer takes.
pub(super) enum Item {
    /// A group that a reader has or will have.
    Group(GroupSlot),
    /// A large file.
    Large(LargeSlot, Arc<PartialNode>),
}

/// Where the node of a large file is delivered.
pub(super) type LargeSlot = Arc<Slot<Mutex<Option<TaskDone>>>>;
