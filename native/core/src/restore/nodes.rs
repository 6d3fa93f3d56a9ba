//! Planning one node that is not a directory.

use std::sync::Arc;

use super::dirs::DirRef;
use super::entry::{EntryTask, attributes_of};
use super::file::{FileTask, Found};
use super::finish::unreadable;
use super::links::{LinkGroup, LinkTask};
use super::options::Overwrite;
use super::plan::{Planner, look};
use super::progress::{Counters, Problem};
use super::run::{Job, Mode, is_fatal};
use super::windows::Mark;
use crate::broker::lock;
use crate::error::{Error, Result};
use crate::fs::{FileKind, Stat};
use crate::tree::{Body, Content, Node};

impl Planner<'_> {
    /// Plans a node in the directory `dir`.
    pub(super) fn plan_node(&mut self, dir: &DirRef, node: &Node) -> Result<()> {
        let found = match look(dir, node.name()) {
            Ok(found) => found,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                self.run.trouble(&dir.path_of(node.name()), error);
                return Ok(());
            }
        };
        if self.is_left_alone(found.as_ref()) {
            self.skip(&dir.path_of(node.name()));
            return Ok(());
        }
        if self.run.mode == Mode::Verify && !is_kind(found.as_ref(), node) {
            let (what, message) = match found {
                Some(_) => ("differs", "another kind of entry than in the snapshot"),
                None => ("missing", "not in the target"),
            };
            if !matches!(node.body, Body::CharDevice(..) | Body::BlockDevice(..)) {
                let path = dir.path_of(node.name());
                self.run.problem(&Problem::new(&path, what, message.to_owned()));
            }
            return Ok(());
        }
        let group = match self.join_group(dir, node, found.as_ref()) {
            Ok(group) => group,
            Err(Joined) => return self.after_item(node),
        };
        if let Body::File { content, .. } = &node.body {
            let file = self.file_of(dir, node, found, group);
            return self.plan_content(&file, node, content);
        }
        let task = EntryTask {
            dir: dir.clone(),
            name: node.name().into(),
            wanted: Box::new(attributes_of(node)),
            found: found.map(Box::new),
            group,
            ticket: Arc::clone(&self.window.ticket),
        };
        self.run.send(Job::Entry(task));
        self.after_item(node)
    }

    /// Plans the content of a file into a device.
    pub(super) fn plan_device(
        &mut self,
        dir: &DirRef,
        name: &[u8],
        node: &Node,
        found: Found,
    ) -> Result<()> {
        let Body::File { content, .. } = &node.body else {
            return Err(Error::internal("not a file"));
        };
        let mut file = FileTask::new(dir.clone(), name, Box::new(attributes_of(node)), found);
        file.digest = node.digest;
        self.plan_content(&Arc::new(file), node, content)
    }

    /// Whether the overwrite mode spares what is there.
    pub(super) fn is_left_alone(&self, found: Option<&Stat>) -> bool {
        self.run.overwrite == Overwrite::Never && found.is_some() && self.run.mode != Mode::Verify
    }

    /// Counts an entry that is left alone.
    pub(super) fn skip(&self, path: &[u8]) {
        Counters::add(&self.run.counters.files_skipped, 1);
        self.run.note_unlike(path);
    }

    /// The group of hard links that this node opens. `Joined` if it is not the first of its group, and a
    /// link was planned.
    fn join_group(
        &mut self,
        dir: &DirRef,
        node: &Node,
        found: Option<&Stat>,
    ) -> Result<Option<Arc<LinkGroup>>, Joined> {
        let Some(number) = node.link_group else {
            return Ok(None);
        };
        if let Some(group) = self.groups.get(&number) {
            let task = LinkTask {
                group: Arc::clone(group),
                dir: dir.clone(),
                name: node.name().into(),
                exists: found.is_some(),
                ticket: Arc::clone(&self.window.ticket),
            };
            group.add(self.run, task);
            return Err(Joined);
        }
        let group = Arc::new(LinkGroup::default());
        self.groups.insert(number, Arc::clone(&group));
        Ok(Some(group))
    }

    fn file_of(
        &self,
        dir: &DirRef,
        node: &Node,
        found: Option<Stat>,
        group: Option<Arc<LinkGroup>>,
    ) -> Arc<FileTask> {
        let is_kept = found.as_ref().is_some_and(|stat| self.is_kept(node, stat, group.is_some()));
        let found = match found {
            None => Found::Nothing,
            Some(stat) if stat.kind == FileKind::File => Found::File(Box::new(stat)),
            Some(_) => Found::Other,
        };
        let wanted = Box::new(attributes_of(node));
        let mut file = FileTask::new(dir.clone(), node.name(), wanted, found);
        (file.digest, file.group, file.is_kept) = (node.digest, group, is_kept);
        if self.run.overwrite == Overwrite::Never && self.run.mode == Mode::Restore {
            file.make_early_name(&self.run.ids);
        }
        Arc::new(file)
    }

    /// Whether the content of what is there is taken for that of the snapshot.
    fn is_kept(&self, node: &Node, found: &Stat, is_linked: bool) -> bool {
        let is_finished = self.resumed.as_ref().is_some_and(|mark| node.key < mark.key);
        let is_trusted = self.run.overwrite == Overwrite::IfChanged || is_finished;
        let mtime = (node.mtime.seconds, node.mtime.nanoseconds);
        is_trusted
            && self.run.mode != Mode::Verify
            && found.kind == FileKind::File
            && found.size == node.size()
            && (found.mtime.secs, found.mtime.nanos) == mtime
            && (found.nlink > 1) == is_linked
            && (!is_linked || lock(&self.run.claimed).insert((found.dev, found.ino)))
    }

    /// Plans the content of a file.
    fn plan_content(&mut self, file: &Arc<FileTask>, node: &Node, content: &Content) -> Result<()> {
        if node.unreadable {
            // There is nothing to put in its place: what is there stays.
            if let Some(group) = &file.group {
                group.failed(self.run);
            }
            if self.run.mode != Mode::Verify {
                let message = unreadable().to_string();
                self.run.problem(&Problem::new(&file.path(), "unreadable", message));
            }
            return Ok(());
        }
        if file.is_kept {
            Counters::add(&self.run.counters.bytes, file.size);
            Counters::add(&self.run.counters.bytes_unchanged, file.size);
        } else {
            self.plan_extents(file, node, content)?;
        }
        if file.settle() {
            let ticket = Arc::clone(&self.window.ticket);
            self.run.send(Job::Finish(Arc::clone(file), ticket));
            self.window.add_item();
        }
        self.after_item_at(&node.key)
    }

    fn plan_extents(&mut self, file: &Arc<FileTask>, node: &Node, content: &Content) -> Result<()> {
        let finished = self.finished_bytes(file, node);
        let reader = self.reader;
        let mut covered = 0;
        for extent in reader.extents(content) {
            let (offset, extent) = match extent {
                Ok(extent) => extent,
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    file.damage(self.run, covered, file.size - covered, &error);
                    return Ok(());
                }
            };
            covered = offset + extent.length;
            if covered <= finished {
                Counters::add(&self.run.counters.bytes, extent.length);
                continue;
            }
            self.window.add_extent(file, offset, &extent);
            if self.window.is_full() {
                let mark = Mark { key: node.key.clone(), offset: covered };
                self.next_window(mark)?;
            }
        }
        if covered < file.size {
            let why = Error::damaged("only a part of it was stored");
            file.damage(self.run, covered, file.size - covered, &why);
        }
        Ok(())
    }

    /// How much of the file an interrupted run has finished.
    fn finished_bytes(&self, file: &FileTask, node: &Node) -> u64 {
        match (&self.resumed, &file.found) {
            (Some(mark), Found::File(stat))
                if mark.key == node.key && stat.size == file.size && stat.nlink == 1 =>
            {
                mark.offset
            }
            _ => 0,
        }
    }

    fn after_item(&mut self, node: &Node) -> Result<()> {
        self.window.add_item();
        self.after_item_at(&node.key)
    }

    fn after_item_at(&mut self, key: &[u8]) -> Result<()> {
        if !self.window.is_full() {
            return Ok(());
        }
        // The next key is larger, so that this one counts as finished.
        let mark = Mark { key: [key, &[0]].concat(), offset: 0 };
        self.next_window(mark)
    }
}

/// The node was planned as a hard link.
struct Joined;

/// Whether what is there is of the kind that the node has.
fn is_kind(found: Option<&Stat>, node: &Node) -> bool {
    found.is_some_and(|stat| stat.kind == super::entry::file_kind(node.kind()))
}
