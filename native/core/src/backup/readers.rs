//! The threads that read, and sources that are read by one thread alone.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};

use super::adapt::Gate;
use super::carry::is_lost;
use super::chunks::ChunkTask;
use super::compare::Verdict;
use super::entries::{EntryReader, is_same_content, set_content, take_over};
use super::files::{FileReader, stopped};
use super::finish::Pending;
use super::items::{EntryDone, Group, Large, PartialNode, TaskDone};
use super::large::{LargeReader, publish, resume_content};
use super::options::SourceKind;
use super::problems::Problems;
use super::progress::Change;
use super::recheck::{Checker, unseen_change};
use super::run::Backup;
use super::single;
use super::slab::SlabPool;
use super::slot::{Signal, Slot};
use crate::crypto::IdKey;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::stat_fd;
use crate::pages::PageStore;
use crate::tree::{Body, Content, ContentBuilder, Node};

/// What the reading threads share.
pub(super) struct Readers<'a> {
    pub(super) backup: &'a Backup,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) tasks: &'a Sender<ChunkTask>,
    pub(super) slabs: &'a Arc<SlabPool>,
    pub(super) ids: &'a IdKey,
    pub(super) root_dev: u64,
    pub(super) resumed: Option<Arc<PageStore>>,
}

impl Readers<'_> {
    fn entry_reader(&self) -> EntryReader<'_> {
        EntryReader {
            ids: self.ids,
            small_bytes: self.backup.chunking.small_bytes,
            root_dev: self.root_dev,
            is_plain: self.backup.options.plain,
            counters: &self.backup.writer.counters,
            is_doubted: &self.backup.is_doubted,
        }
    }

    pub(super) fn groups(&self, queue: &Receiver<Group>, gate: &Gate) {
        let reader = self.entry_reader();
        for group in queue {
            let _pass = gate.enter();
            reader.read_group(group);
        }
    }

    pub(super) fn large(&self, queue: &Receiver<Large>, gate: &Gate) -> Result<()> {
        let backup = self.backup;
        let mut pages = backup.writer.pages()?;
        let mut checkpoint_pages = backup.writer.checkpoint_pages()?;
        let entries = self.entry_reader();
        let page_key = backup.writer.page_key()?;
        let mut large = LargeReader {
            entries: &entries,
            page_key: &page_key,
            checkpoint_pages: &mut checkpoint_pages,
            earlier: self.resumed.clone(),
        };
        let mut reader = FileReader {
            slabs: self.slabs,
            chunker: backup.chunking.choose(backup.options.chunker, false),
            tasks: self.tasks,
            signal: self.signal,
            counters: &backup.writer.counters,
            pages: &mut pages,
            between: &mut |_| Ok(()),
        };
        for job in queue {
            let _pass = gate.enter();
            large.read(&mut reader, job)?;
        }
        Ok(())
    }
}

impl Backup {
    /// A source that is one file: its tree is one node with the empty key.
    pub(super) fn single(
        &self,
        signal: &Arc<Signal>,
        tasks: &Sender<ChunkTask>,
        nodes: &Sender<Pending>,
        problems: &Problems,
    ) -> Result<()> {
        let slabs = SlabPool::new(self.shares.slab, self.shares.slabs);
        let mut pages = self.writer.pages()?;
        let mut checkpoint_pages = self.writer.checkpoint_pages()?;
        let is_stream = self.options.kind == SourceKind::Stream;
        let mut node = Node::new(Vec::new(), Body::File { size: 0, content: Content::empty() });
        node.mode = 0o600;
        let slot = Slot::new(signal);
        let partial = Arc::new(PartialNode::default());
        let opened = if is_stream { None } else { Some(single::open(&self.path()?, &mut node)?) };
        let (mut builder, mut start) = (ContentBuilder::new(self.writer.page_key()?), 0);
        let mut change = Change::New;
        if let Some(opened) = &opened {
            set_content(&mut node, opened.size);
            match self.compare_single(opened, problems)? {
                Some(Verdict::Same(found)) => {
                    return nodes.send(Pending::Same(*found)).map_err(|_| stopped());
                }
                Some(Verdict::Read { before: Some(before), .. }) if before.is_trusted() => {
                    take_over(&before, &mut node);
                    return nodes.send(Pending::Same(node)).map_err(|_| stopped());
                }
                Some(Verdict::Read { change: found, resume, before: _ }) => {
                    change = found;
                    let pages_of =
                        self.options.resume.as_ref().map(|options| self.earlier(options));
                    let earlier = pages_of.transpose()?.map(|earlier| earlier.pages);
                    (builder, start) = resume_content(
                        &self.writer.page_key()?,
                        resume,
                        earlier.as_ref(),
                        &mut pages,
                    )?;
                }
                Some(Verdict::Recheck(recheck, before)) => {
                    change = Change::Changed;
                    let (ids, counters) = (&self.ids()?, &*self.writer.counters);
                    let checker = Checker { ids, counters, signal };
                    match checker.find_change(&opened.fd, &recheck) {
                        Ok(None) => {
                            take_over(&before, &mut node);
                            return nodes.send(Pending::Same(node)).map_err(|_| stopped());
                        }
                        Ok(Some(offset)) => problems.report(&unseen_change(Some(offset)))?,
                        Err(error) if is_lost(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                None => {}
            }
        }
        let pending = Pending::Large(Arc::clone(&slot), Arc::clone(&partial));
        nodes.send(pending).map_err(|_| stopped())?;
        let template = node.clone();
        let mut between = |content: &ContentBuilder| {
            publish(&partial, &template, content, &mut checkpoint_pages, || signal.wake())
        };
        let mut reader = FileReader {
            slabs: &slabs,
            chunker: self.chunking.choose(self.options.chunker, !is_stream),
            tasks,
            signal,
            counters: &self.writer.counters,
            pages: &mut pages,
            between: &mut between,
        };
        let (read, is_stable) = match &opened {
            None => (reader.read_stream(duplicate(self.options.fd)?.as_fd(), builder)?, true),
            Some(opened) => {
                let read = reader.read_file(&opened.fd, opened.size, start, builder)?;
                let is_stable = opened.stat.as_ref().is_none_or(|before| {
                    stat_fd(opened.fd.as_fd()).is_ok_and(|after| is_same_content(before, &after))
                });
                let is_whole = read.size == opened.size;
                (read, is_stable && is_whole)
            }
        };
        node.unstable = !is_stable;
        node.body = Body::File { size: read.size, content: read.content };
        let done = EntryDone { node, change, content: 0..0, problems: Vec::new() };
        slot.set(Mutex::new(Some(TaskDone::Read(done))));
        Ok(())
    }
}

impl Backup {
    /// Compares a regular file with what earlier runs have of it; a device's inode says nothing of its
    /// content.
    fn compare_single(
        &self,
        opened: &single::Opened,
        problems: &Problems,
    ) -> Result<Option<Verdict>> {
        let Some(stat) = &opened.stat else { return Ok(None) };
        self.comparison(problems)?.judge(&[], stat).map(Some)
    }
}

/// A descriptor of our own for one that the caller keeps.
fn duplicate(fd: Option<i32>) -> Result<OwnedFd> {
    let path = match fd {
        // Opening it anew would start a redirected file over.
        Some(0) => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned();
            return stdin.map_err(|error| Error::internal(error.to_string()));
        }
        Some(fd) if fd > 0 => format!("/proc/self/fd/{fd}"),
        _ => return Err(Error::new(ErrorKind::Usage, "a stream without a descriptor")),
    };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(Path::new(&path), flags, rustix::fs::Mode::empty())
        .map_err(|errno| Error::os("cannot open the stream", errno))
}
