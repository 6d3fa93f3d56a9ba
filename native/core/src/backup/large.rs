//! Large files: opening, reading through [`FileReader`], and the node that comes out.

use std::sync::Arc;

use super::carry::{distrust_lost, is_lost};
use super::entries::{
    EntryReader, OpenFile, done, is_same_content, set_content, take_over, vanished,
};
use super::files::FileReader;
use super::items::{Large, PartialNode, PartialState};
use super::metadata::Pages;
use super::recheck::Checker;
use crate::broker::lock;
use crate::error::Result;
use crate::fs::stat_fd;
use crate::pages::PageStore;
use crate::tree::extents::ExtentIter;
use crate::tree::{Body, Content, ContentBuilder, ExtentKind, Node, PageKey};

/// Files up to this size that change under the reader are read a second time; of longer ones that is
/// said and left to the next run.
const REREAD_BYTES_MAX: u64 = 64 << 20;

/// What reading large files takes.
pub(super) struct LargeReader<'a> {
    pub(super) entries: &'a EntryReader<'a>,
    pub(super) page_key: &'a PageKey,
    /// For the pages of a partial content.
    pub(super) checkpoint_pages: &'a mut Pages,
    /// Where an interrupted run's extent pages are read from.
    pub(super) earlier: Option<Arc<PageStore>>,
}

impl LargeReader<'_> {
    fn checker<'r>(&'r self, reader: &'r FileReader<'_>) -> Checker<'r> {
        let EntryReader { ids, counters, .. } = *self.entries;
        Checker { ids, counters, signal: reader.signal }
    }

    /// Reads a file and delivers its node. Only what ends the whole run is an error.
    pub(super) fn read(&mut self, reader: &mut FileReader<'_>, large: Large) -> Result<()> {
        let Large { mut entry, mut resume, mut recheck, slot, partial } = large;
        let mut suspicion = None;
        let mut expected = entry.stat.clone();
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            let file = match self.entries.open(&entry, &expected) {
                Ok(Some(file)) => file,
                Ok(None) => break vanished(&entry, "was replaced while it was read"),
                Err(error) => break self.entries.unreadable(entry, error),
            };
            let OpenFile { fd, mut node, stat, mut problems } = file;
            if let (Some(recheck), Some(before)) = (recheck.take(), entry.before.take()) {
                let checker = self.checker(reader);
                let change = match checker.find_change(&fd, &recheck) {
                    Ok(change) => change,
                    Err(error) if reader.signal.check().is_err() => return Err(error),
                    // The list of its chunks, read a moment ago: then all of it is read.
                    Err(error) if is_lost(&error) => Some(0),
                    Err(error) => {
                        entry.before = Some(before);
                        break self.entries.unreadable(entry, error);
                    }
                };
                let is_as_seen = stat_fd(std::os::fd::AsFd::as_fd(&fd))
                    .is_ok_and(|now| is_same_content(&now, &entry.stat));
                match change {
                    None if is_as_seen => {
                        take_over(&before, &mut node);
                        break done(&entry.at, node, before.change(), 0..0, problems);
                    }
                    Some(offset) if is_as_seen => {
                        suspicion = Some(self.entries.doubt(Some(offset)));
                    }
                    _ => {}
                }
            }
            // The prefix counts only for the file that it was taken of.
            let prefix = resume.take().filter(|_| is_same_content(&stat, &entry.stat));
            let earlier = self.earlier.as_ref();
            let (content, start) = resume_content(self.page_key, prefix, earlier, reader.pages)?;
            let read = {
                let template = node.clone();
                let pages = &mut *self.checkpoint_pages;
                let signal = Arc::clone(reader.signal);
                let partial = Arc::clone(&partial);
                let mut between = |content: &ContentBuilder| {
                    publish(&partial, &template, content, pages, || signal.wake())
                };
                let mut reader = reader.with_between(&mut between);
                reader.read_file(&fd, stat.size, start, content)
            };
            let read = match read {
                Ok(read) => read,
                Err(error) if reader.signal.check().is_err() => return Err(error),
                Err(error) => break self.entries.unreadable(entry, error),
            };
            let after = stat_fd(std::os::fd::AsFd::as_fd(&fd));
            let is_stable = read.size == stat.size
                && after.as_ref().is_ok_and(|after| is_same_content(after, &stat));
            if let Ok(after) = after
                && !is_stable
                && attempt == 1
                && after.size <= REREAD_BYTES_MAX
            {
                expected = after;
                continue;
            }
            node.unstable = !is_stable;
            set_content(&mut node, read.size);
            if let Body::File { content, .. } = &mut node.body {
                *content = read.content;
            }
            problems.extend(suspicion);
            break done(&entry.at, node, entry.change, 0..0, problems);
        };
        slot.set(std::sync::Mutex::new(Some(outcome)));
        Ok(())
    }
}

/// A builder with the content that an interrupted run has covered, and how many bytes that is. Where the
/// list of that content cannot be read any more, nothing is covered: the file is read from its start.
pub(super) fn resume_content(
    key: &PageKey,
    resume: Option<(Content, u64)>,
    earlier: Option<&Arc<PageStore>>,
    pages: &mut Pages,
) -> Result<(ContentBuilder, u64)> {
    let mut builder = ContentBuilder::new(key.clone());
    let (Some((content, _)), Some(earlier)) = (resume, earlier) else { return Ok((builder, 0)) };
    for extent in ExtentIter::new(earlier, &content, 0) {
        let extent = match extent {
            Ok((_, extent)) => extent,
            Err(error) if is_lost(&error) => {
                distrust_lost(&pages.known, earlier);
                return Ok((ContentBuilder::new(key.clone()), 0));
            }
            Err(error) => return Err(error),
        };
        if let ExtentKind::Data { id, .. } = extent.kind {
            pages.note(&id)?;
        }
        builder.push(extent, pages)?;
    }
    let covered = builder.covered();
    Ok((builder, covered))
}

/// Leaves a partial node for a checkpoint, if one waits for it.
pub(super) fn publish(
    partial: &PartialNode,
    template: &Node,
    content: &ContentBuilder,
    pages: &mut Pages,
    wake: impl Fn(),
) -> Result<()> {
    if !matches!(*lock(&partial.state), PartialState::Asked) {
        return Ok(());
    }
    let mut node = template.clone();
    node.partial = true;
    if let Body::File { size, content: target } = &mut node.body {
        // A stream has no size before its end, and a file may have grown.
        *size = (*size).max(content.covered());
        *target = content.so_far(pages)?;
    }
    *lock(&partial.state) = PartialState::Ready(Box::new(node));
    wake();
    Ok(())
}
