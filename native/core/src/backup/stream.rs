//! Small files as one stream: in the order of the walk their bytes are joined and cut like those of a
//! large file, and each file becomes one or two slices of the chunks that come out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;

use super::chunks::{Bytes, ChunkTask};
use super::files::stopped;
use super::finish::Pending;
use super::items::{EntryDone, Item, TaskDone};
use super::problems::Problems;
use super::slot::{Signal, Slot};
use crate::broker::lock;
use crate::budget::Budget;
use crate::chunk::Chunker;
use crate::error::{Error, Result};
use crate::format::Id;
use crate::tree::Extent;

/// So many chunks of the stream can still be referred to by files that come later.
const CHUNKS_KEPT: usize = 1 << 17;

/// Between so many files the stream is cut in any case, at a file whose digest says so, or at the
/// latest at the second number: files of a few bytes would otherwise wait in memory for a chunk's worth.
const FILES_UNCUT_MIN: usize = 4096;
const FILES_UNCUT_MAX: usize = 16_384;
/// Nodes on their way to the tree.
pub(super) const NODES_QUEUED_MAX: usize = 32_768;
/// What is in the buffer is cut when so many nodes came after it, new content or none: fewer than their queue
/// takes.
const NODES_UNCUT_MAX: usize = NODES_QUEUED_MAX / 2;

/// Where the chunks of the stream lie, and their names as they become known.
pub(super) struct StreamMap {
    /// Start, length and name of each.
    chunks: Mutex<VecDeque<StreamChunk>>,
    signal: Arc<Signal>,
}

type StreamChunk = (u64, u64, Arc<Slot<Id>>);

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl StreamMap {
    pub(super) fn new(signal: &Arc<Signal>) -> Arc<Self> {
        Arc::new(Self { chunks: Mutex::default(), signal: Arc::clone(signal) })
    }

    fn push(&self, start: u64, length: u64, slot: Arc<Slot<Id>>) {
        let mut chunks = lock(&self.chunks);
        if chunks.len() >= CHUNKS_KEPT {
            chunks.pop_front();
        }
        chunks.push_back((start, length, slot));
        drop(chunks);
        self.signal.wake();
    }

    /// Whether a part that was cut long ago can still be named.
    fn reaches(&self, part: Part) -> bool {
        // A margin for what is pushed until somebody asks for the extents: so many of the oldest go then.
        let chunks = lock(&self.chunks);
        let oldest = (chunks.len() + CHUNKS_KEPT / 4).saturating_sub(CHUNKS_KEPT);
        chunks.get(oldest).is_none_or(|(start, ..)| *start <= part.start)
    }

    /// The extents of a part; `None` while a name is missing.
    pub(super) fn extents(&self, part: Part) -> Option<Result<Vec<Extent>>> {
        let chunks = lock(&self.chunks);
        let end = part.start + part.length;
        if chunks.back().is_none_or(|(start, length, _)| start + length < end) {
            return None;
        }
        let first = chunks.partition_point(|(start, length, _)| start + length <= part.start);
        let mut extents = Vec::with_capacity(2);
        let mut at = part.start;
        for (start, length, slot) in chunks.range(first..) {
            if at >= end {
                break;
            }
            let Some(offset) = at.checked_sub(*start) else {
                return Some(Err(Error::internal("a part of the stream was forgotten")));
            };
            let id = *slot.get()?;
            let taken = (length - offset).min(end - at);
            extents.push(Extent::data(id, u32::try_from(offset).unwrap_or(u32::MAX), taken));
            at += taken;
        }
        Some(Ok(extents))
    }
}

/// Takes items in order, and passes nodes on in order.
pub(super) struct Sequencer<'a> {
    pub(super) signal: &'a Arc<Signal>,
    pub(super) chunker: &'a Chunker,
    pub(super) budget: &'a Arc<Budget>,
    pub(super) tasks: Sender<ChunkTask>,
    pub(super) nodes: Sender<Pending>,
    pub(super) map: Arc<StreamMap>,
    pub(super) problems: &'a Problems,
    pub(super) digests_max: usize,
}

struct Stream {
    buffer: Vec<u8>,
    /// Position of the buffer's first byte.
    base: u64,
    files_uncut: usize,
    /// Nodes that were passed on since there is something in the buffer.
    nodes_uncut: usize,
    digests: HashMap<[u8; 16], Part>,
}

impl Sequencer<'_> {
    /// Takes items until there are no more.
    pub(super) fn run(self, items: &Receiver<Item>) -> Result<()> {
        let mut stream = Stream {
            buffer: Vec::new(),
            base: 0,
            files_uncut: 0,
            nodes_uncut: 0,
            digests: HashMap::new(),
        };
        for item in items {
            match item {
                Item::Large(slot, partial) => {
                    self.send(&mut stream, Pending::Large(slot, partial))?;
                }
                Item::Group(slot) => {
                    let done = lock(slot.wait()?).take();
                    let group = done.ok_or_else(|| Error::internal("a group came twice"))?;
                    for entry in group.entries {
                        match entry {
                            TaskDone::Same(node) => self.send(&mut stream, Pending::Same(node))?,
                            TaskDone::Link { entry, group, is_last } => {
                                let link = Pending::Link { entry, group, is_last };
                                self.send(&mut stream, link)?;
                            }
                            TaskDone::Lost(error) => self.problems.report(&error)?,
                            TaskDone::Read(done) => self.read(&mut stream, done, &group.bytes)?,
                        }
                    }
                }
            }
        }
        self.cut(&mut stream, true)
    }

    /// Passes a node on. Whoever takes it may be waiting for a chunk of what is still in the buffer, which must
    /// not wait for room in the queue in turn.
    fn send(&self, stream: &mut Stream, pending: Pending) -> Result<()> {
        stream.nodes_uncut = if stream.buffer.is_empty() { 0 } else { stream.nodes_uncut + 1 };
        if stream.nodes_uncut >= NODES_UNCUT_MAX {
            self.cut(stream, true)?;
            stream.nodes_uncut = 0;
        }
        self.nodes.send(pending).map_err(|_| stopped())
    }

    fn read(&self, stream: &mut Stream, done: EntryDone, bytes: &[u8]) -> Result<()> {
        for problem in &done.problems {
            self.problems.report(problem)?;
        }
        let content = bytes.get(done.content.clone()).unwrap_or_default();
        let part = if content.is_empty() {
            None
        } else {
            Some(self.append(stream, done.node.digest, content)?)
        };
        self.send(stream, Pending::Node(done.node, part, done.change))
    }

    fn append(
        &self,
        stream: &mut Stream,
        digest: Option<[u8; 16]>,
        content: &[u8],
    ) -> Result<Part> {
        if let Some(part) = digest.and_then(|digest| stream.digests.get(&digest).copied())
            && part.length == content.len() as u64
            && self.map.reaches(part)
        {
            return Ok(part);
        }
        let part =
            Part { start: stream.base + stream.buffer.len() as u64, length: content.len() as u64 };
        stream.buffer.extend_from_slice(content);
        stream.files_uncut += 1;
        let mut is_border = stream.files_uncut >= FILES_UNCUT_MAX;
        if let Some(digest) = digest {
            if stream.digests.len() < self.digests_max {
                stream.digests.insert(digest, part);
            }
            let [first, second, ..] = digest;
            is_border |= stream.files_uncut >= FILES_UNCUT_MIN && first == 0 && second < 64;
        }
        self.cut(stream, is_border)?;
        Ok(part)
    }

    /// Cuts what can be cut off the front of the buffer.
    fn cut(&self, stream: &mut Stream, at_end: bool) -> Result<()> {
        if !at_end && stream.buffer.len() < self.chunker.longest_chunk_bytes() {
            return Ok(());
        }
        let mut chunks = self.chunker.chunks(stream.base, &stream.buffer, at_end);
        for range in chunks.by_ref() {
            let bytes = stream.buffer.get(range.clone()).unwrap_or_default().to_vec();
            let length = bytes.len() as u64;
            let permit = self.budget.acquire_while(length, || self.signal.check())?;
            let slot = Slot::new(self.signal);
            let task =
                ChunkTask { bytes: Bytes::Own { bytes, _permit: permit }, slot: Arc::clone(&slot) };
            self.map.push(stream.base + range.start as u64, length, slot);
            self.tasks.send(task).map_err(|_| stopped())?;
            stream.files_uncut = 0;
        }
        let consumed = chunks.consumed();
        stream.base += consumed as u64;
        stream.buffer.drain(..consumed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;

    #[test]
    fn what_is_said_to_reach_is_still_there_after_the_margin() {
        const LENGTH: u64 = 10;
        let signal = Signal::new(Broker::new(1));
        let slot = Slot::new(&signal);
        slot.set(Id([7; 32]));
        let map = StreamMap::new(&signal);
        let mut pushed = 0;
        let mut push = |count: usize| {
            for _ in 0..count {
                map.push(pushed * LENGTH, LENGTH, Arc::clone(&slot));
                pushed += 1;
            }
        };
        let first = Part { start: 3, length: LENGTH };
        push(CHUNKS_KEPT / 2);
        for fill in [0, CHUNKS_KEPT / 4, 1, CHUNKS_KEPT / 4 - 1, 1] {
            push(fill);
            let kept = lock(&map.chunks).clone();
            if map.reaches(first) {
                push(CHUNKS_KEPT / 4);
                assert_eq!(map.extents(first).unwrap().unwrap().len(), 2);
            }
            *lock(&map.chunks) = kept;
        }
        assert!(!map.reaches(first));
    }
}
